"""Key lookups and questions to the vault, counted alike however keys are looked up: through the worker, by OTLP."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devhost.azure.faults import failing
from devhost.azure.services import Azure, running_azure
from devhost.host import Host
from shim.keys.subscription import digest_of
from tests.conftest import KEY, OTHER_KEY, StartHost
from tests.support.telemetry_doubles import Receiver, receiving
from tests.support.wire import exchange, request

UNKNOWN, LATER = "nobody-has-this-key-0000", "nobody-has-this-key-0001"
# Of a secret, so that its name is the key's digest, and for a scan any other name that begins so.
NAMES = {"digest": f"apim-sub-{digest_of(KEY)}", "scan": "apim-sub-of-team-a"}
LOOKUPS, VAULT = "apim_shim.key.lookups", "apim_shim.vault.duration"
type Watched = tuple[Host, Azure, Receiver]


@pytest.fixture(params=NAMES)
async def watched(
    request: pytest.FixtureRequest, start_host: StartHost, tmp_path: Path
) -> AsyncIterator[Watched]:
    async with running_azure(tmp_path) as azure, receiving(tmp_path) as (otlp, _, settings):
        azure.vault.put(NAMES[request.param], KEY, tags={"label": "team-own"})
        host = await start_host(
            **azure.environ,
            KEY_LOOKUP=request.param,
            KEY_CACHE_TTL="4",
            WEBSITE_SITE_NAME="shim",  # as in Azure, with the managed identity alone
            OTEL_EXPORTER_OTLP_ENDPOINT=settings["OTEL_EXPORTER_OTLP_ENDPOINT"],
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
            OTEL_METRIC_EXPORT_INTERVAL="100",
        )
        yield host, azure, otlp


async def status(host: Host, key: str) -> int:
    return (await exchange(host.url, request("GET", "/v1/models", key=key))).status


async def counted(receiver: Receiver, outcome: str, count: int = 1) -> None:
    """Waits until that many lookups have come to `outcome`, and sees that there are no more."""
    await receiver.until(LOOKUPS, outcome=outcome)
    while (total := receiver.total(LOOKUPS, outcome=outcome)) < count:
        await next_export(receiver)
    assert total == count


async def next_export(receiver: Receiver) -> None:
    """Every call is followed by one."""
    receiver.arrived.clear()
    await asyncio.wait_for(receiver.arrived.wait(), 30)


async def test_a_lookup_is_counted_by_where_its_outcome_came_from(watched: Watched) -> None:
    host, azure, otlp = watched
    assert await status(host, KEY) == 200
    await counted(otlp, "vault")
    assert await status(host, KEY) == 200
    await counted(otlp, "cached")
    assert await status(host, UNKNOWN) == 401
    await counted(otlp, "refused")
    answered = await otlp.until(VAULT)
    assert all("error.type" not in point.attributes and point.value > 0 for point in answered)

    azure.vault.fault = failing(502)
    # A scan that has just ended knows that there is no such key; it is done anew once its index is old.
    while await status(host, OTHER_KEY) != 503:
        await next_export(otlp)
    await otlp.until(LOOKUPS, outcome="unavailable")
    [failed, *_] = await otlp.until(VAULT, type="key_store_unavailable")
    assert failed.value > 0
    # Known keys stay good beyond the cache's ttl while the vault fails.
    while not otlp.total(LOOKUPS, outcome="stale"):
        assert await status(host, KEY) == 200
        await next_export(otlp)
