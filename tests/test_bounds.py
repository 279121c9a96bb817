"""Each bound on what the shim holds, how long it waits and how often it asks, as a number.

Instances are sized and vaults throttled by these: whoever changes one changes what the documents promise, and should
know it. How the bounds act stands in the tests of their areas.
"""

from types import ModuleType

import pytest

from shim import auth
from shim.call import json_top_level, spool
from shim.cli.keys import checking
from shim.keys import cache, limits, listing, scan, vault
from shim.keys.admin import importing
from shim.keys.azure import api_management, credential, key_vault, sdk, vault_errors, writing
from shim.keys.azure import transport as sdk_transport
from shim.monitoring import call_log, clients, tally, trace_export
from shim.transport import direct
from shim.worker import cycle, protocol, server

KIB, MIB = 1024, 1024 * 1024
YEAR = 365 * 24 * 3600

BOUNDS: list[tuple[ModuleType, dict[str, object]]] = [
    (auth, {"MAX_KEY_LENGTH": 256}),
    (checking, {"SCAN_PATIENCE": 120}),
    (importing, {"CONCURRENCY": 8}),
    (spool, {"PIECE_BYTES": 64 * KIB, "MEMORY_BYTES": MIB, "TOTAL_BYTES": 256 * MIB}),
    (json_top_level, {"MAX_STRING_BYTES": 3 * KIB, "MAX_BYTES": 128 * KIB, "MAX_BRACKETS": 2048}),
    (direct, {"READ_BYTES": 240 * KIB, "HAPPY_EYEBALLS_SECONDS": 0.25}),
    (
        cache,
        {
            "MAX_KNOWN": 100_000, "MAX_UNKNOWN": 16_384, "UNKNOWN_TTL": 10, "REFRESH_AFTER": (0.6, 0.8),
            "MAX_REFRESHES": 32, "UNKNOWN_BURST": 100, "UNKNOWN_PER_SECOND": 5, "UNKNOWN_AT_ONCE": 2,
            "LISTED_AT_ONCE": 4, "TURN_PATIENCE": 5, "RETRY_AFTER_DEFECT": 5,
        },
    ),
    (limits, {"MAX_PAUSE": 60, "OUTAGE_MEMORY": 30}),
    (
        listing,
        {
            "MIN_INTERVAL": 30, "CALLS_PER_SECOND": 5, "RETRY_AFTER_FAILURE": 30, "MAX_LISTED": 100_000,
            "MAX_WAITING": 10_000, "PATIENCE": 10,
        },
    ),
    (
        scan,
        {
            "CONCURRENCY": 8, "RESCAN_INTERVAL": 10, "REFRESH_AFTER": 0.7, "SCAN_BUDGET": 120, "MAX_GRACE": 10 * YEAR,
        },
    ),
    (vault, {"NO_DIGEST": "0" * 64}),
    (key_vault, {"CALL_BUDGET": 5, "ATTEMPTS": 2, "LOG_INTERVAL": 10}),
    (sdk, {"CONNECT_TIMEOUT": 1.5, "READ_TIMEOUT": 2}),
    (vault_errors, {"RETRY_SOON": 2, "RETRY_LATER": 15}),
    (sdk_transport, {"MAX_BYTES": 4 * MIB}),
    (credential, {"TOKEN_BUDGET": 30, "TOKEN_MARGIN": 300}),
    (api_management, {"CONNECT_TIMEOUT": 5, "READ_TIMEOUT": 30, "RETRIES": 3}),
    (writing, {"MAX_TAG_LENGTH": 256}),
    (call_log, {"MAX_LINES": 300}),
    (clients, {"MAX_MAJOR": 20}),
    (tally, {"MAX_LABELS": 1_000, "MAX_MODELS": 200, "MAX_SERIES": 4_000}),
    (trace_export, {"MAX_QUEUE": 2_048, "MAX_BATCH": 512}),
    (cycle, {"READ_AHEAD_BYTES": 64 * KIB}),
    (protocol, {"MAX_HEAD_BYTES": 64 * KIB, "READ_BYTES": 240 * KIB}),
    (server, {"KEEP_ALIVE_SECONDS": 150, "DRAIN_SECONDS": 30}),
]  # fmt: skip


@pytest.mark.parametrize(("module", "bounds"), BOUNDS, ids=[module.__name__ for module, _ in BOUNDS])
def test_a_bound_is_changed_on_purpose(module: ModuleType, bounds: dict[str, object]) -> None:
    assert {name: getattr(module, name) for name in bounds} == bounds
