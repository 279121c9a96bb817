"""Looks at everything between a caller and the model, in order, and says what is wrong and what to do next."""

from collections.abc import AsyncIterator, Callable

from shim.cli.doctor import api, caller, network, settings, vault
from shim.cli.doctor.finding import Finding, as_json, exit_code, failed
from shim.cli.doctor.patient import Client, Patient, open_client

__all__ = ["CHECKS", "Finding", "Patient", "as_json", "examine", "exit_code"]

# In the order in which a fault hides those behind it.
CHECKS: tuple[tuple[str, Callable[[Patient, Client], AsyncIterator[Finding]]], ...] = (
    ("settings", settings.examine),
    ("vault", vault.examine),
    ("dns", network.dns),
    ("tls", network.tls),
    ("api", api.keys),
    ("dialect", api.dialect),
    ("shim", caller.shim),
    ("cors", caller.cors),
    ("streaming", caller.streaming),
    ("clock", network.clock),
)


async def examine(patient: Patient) -> AsyncIterator[Finding]:
    """Every finding, as soon as it is made. A check that fails itself ends no other."""
    async with open_client(patient.trust) as client:
        for name, check in CHECKS:
            try:
                async for finding in check(patient, client):
                    yield finding
            except Exception as defect:
                # By type alone: a message could hold anything.
                yield failed(
                    name, f"the check itself failed ({type(defect).__name__})", "report this as a defect"
                )
