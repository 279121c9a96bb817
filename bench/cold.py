"""Cold starts: from the start of a process to the first byte of its first proxied answer.

The shim starts as it is deployed, on a full core and on the quarter of one that the smallest instance has: 512 MB, see
https://learn.microsoft.com/azure/azure-functions/flex-consumption-plan#instance-sizes.
"""

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.deployed import unpack
from bench.peers import KEY, Launch, Peer, Running, Upstream, shim
from bench.places import CACHE, LOGS, ROOT
from bench.processes import LOAD_CORE, Failed, Process

QUARTER = "@quarter"


@contextlib.contextmanager
def deployed(load: Path, root: Path = ROOT, name: str = "shim") -> Iterator[list[Peer]]:
    """The shim with its keys in its settings, and in a Key Vault, which is a double that answers at once.

    The platform mounts an app read-only: Python cannot keep what it compiles.
    """
    app = unpack(root)
    folder = CACHE / "run"
    folder.mkdir(parents=True, exist_ok=True)
    process = Process("vault", [str(load), "vault", str(folder), KEY], {}, LOAD_CORE, announces=True)
    try:
        ports: dict[str, int] = json.loads(process.line())
        local = shim(name, app, LOCAL_SUBSCRIPTION_KEYS=f"bench={KEY}", PYTHONDONTWRITEBYTECODE="1")
        with_vault = shim(
            f"{name}+vault",
            app,
            KEY_VAULT_URL="https://bench.vault.azure.net",
            WEBSITE_INSTANCE_ID="bench",  # as in Azure: a managed identity, not a developer's login
            IDENTITY_ENDPOINT=f"http://127.0.0.1:{ports['identity_port']}/msi/token",
            IDENTITY_HEADER="bench",
            SSL_CERT_FILE=str(folder / "vault.pem"),
            BENCH_VAULT=f"127.0.0.1:{ports['port']}",
            PYTHONDONTWRITEBYTECODE="1",
        )
        yield [local, with_vault, *map(_on_a_quarter, (local, with_vault))]
    finally:
        process.stop()


def _on_a_quarter(peer: Peer) -> Peer:
    def launch(upstream: Upstream) -> Launch:
        whole = peer.launch(upstream)
        assert whole is not None
        return replace(whole, share=0.25)

    return replace(peer, name=f"{peer.name}{QUARTER}", launch=launch)


def measure(peer: Peer, upstream: Upstream) -> float:
    """Seconds. Raises Failed."""
    running = Running.start(peer, upstream, log=f"{peer.name}-cold")
    running.stop()
    return running.cold_start


def imports(peer: Peer, upstream: Upstream) -> dict[str, Any]:
    """Milliseconds of import time by package, its own modules' alone, as `-X importtime` has it; and their sum.

    That option costs time itself, so that the sum is more than what imports take without it. Raises Failed.
    """
    log = f"{peer.name}-imports"
    timed = replace(peer, launch=lambda to: _timing_imports(peer, to))
    Running.start(timed, upstream, log).stop()
    by_package: dict[str, float] = defaultdict(float)
    for line in (LOGS / f"{log}.log").read_text(errors="replace").splitlines():
        if not line.startswith("import time:") or "self [us]" in line:
            continue
        own, _, name = (part.strip() for part in line.removeprefix("import time:").split("|"))
        by_package[package_of(name)] += int(own) / 1000
    if not by_package:
        raise Failed("no import times were printed")
    ranked = sorted(by_package.items(), key=lambda item: -item[1])
    return {
        "sum": round(sum(by_package.values()), 1),
        "packages": {name: round(milliseconds, 1) for name, milliseconds in ranked[:25]},
    }


def _timing_imports(peer: Peer, upstream: Upstream) -> Launch:
    launch = peer.launch(upstream)
    assert launch is not None
    python, *arguments = launch.command
    return replace(launch, command=[python, "-X", "importtime", *arguments])


def package_of(module: str) -> str:
    parts = module.split(".")
    # Azure's packages share their first names.
    return ".".join(parts[:2]) if parts[0] in ("azure", "azurefunctions") else parts[0]
