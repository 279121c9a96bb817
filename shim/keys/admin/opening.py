"""What keys are managed with: the vault, to be written to, and the APIM service that they come from."""

from shim.keys.azure.api_management import Apim
from shim.keys.azure.writing import WritableSecrets
from shim.settings import Settings

# Seconds for one call that no request waits for: the Azure CLI alone may take five for a token.
OPERATOR_BUDGET = 30.0


def open_secrets(settings: Settings) -> WritableSecrets | None:
    """The settings' vault, for writing; None where they name none. Connects to nothing until its first call."""
    if settings.key_vault_url is None:
        return None
    return WritableSecrets(
        settings.key_vault_url,
        in_azure=settings.in_azure,
        client_id=settings.azure_client_id,
        budget=OPERATOR_BUDGET,
    )


def open_apim(settings: Settings) -> Apim | None:
    """The settings' APIM service; None where they name none."""
    if settings.apim_resource_id is None:
        return None
    return Apim(
        settings.apim_resource_id,
        resource_manager_url=settings.azure_resource_manager_url,
        in_azure=settings.in_azure,
        client_id=settings.azure_client_id,
    )
