"""Every check of the doctor: all that lies between a caller and the model, in order."""

from collections.abc import AsyncIterator, Callable

from shim.cli.doctor import api, deployment, network, settings, streaming, vault
from shim.cli.doctor.client import Client, open_client
from shim.cli.doctor.finding import Finding, failed
from shim.cli.doctor.target import Target

# In the order in which a fault hides those behind it.
CHECKS: tuple[tuple[str, Callable[[Target, Client], AsyncIterator[Finding]]], ...] = (
    ("settings", settings.check),
    ("vault", vault.check),
    ("dns", network.dns),
    ("tls", network.tls),
    ("keys", api.keys),
    ("APIM_API", api.forms),
    ("shim", deployment.readiness),
    ("cors", deployment.cors),
    ("streaming", streaming.check),
    ("clock", network.clock),
)


async def run_checks(target: Target) -> AsyncIterator[Finding]:
    """Yields every finding as soon as it is made. A check that breaks does not stop the others."""
    async with open_client(target.trust) as client:
        for name, check in CHECKS:
            try:
                async for finding in check(target, client):
                    yield finding
            except Exception as defect:
                # By type alone: a message could hold anything.
                yield failed(
                    name, f"the check itself failed ({type(defect).__name__})", "report this as a defect"
                )
