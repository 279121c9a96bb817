"""What the doctor examines: settings, the options of the command line, and how the vault is opened."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from shim.cli.doctor.client import PATIENCE
from shim.keys.azure.credential import open_credential
from shim.keys.azure.key_vault import VaultSecrets
from shim.settings import Settings, SettingsError, names_in

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncSupportsTokenInfo

_MAX_EXCERPT = 200


@dataclass(frozen=True, slots=True)
class Target:
    """The settings, and the options of the command line. `key` must never be shown."""

    settings: Settings
    problems: list[str]
    shim_url: str | None = None
    origin: str | None = None
    model: str | None = None
    key: str | None = field(default=None, repr=False)
    trust: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    open_vault: Callable[[Settings], tuple[AsyncSupportsTokenInfo, VaultSecrets]] = lambda s: open_vault(s)

    @classmethod
    def read(cls, environ: Mapping[str, str], *, base_url: str | None = None, **options: object) -> Self:
        """From an environment. With faulty settings, what can be checked without them still is.

        Raises SettingsError if not even the URL of the APIM API is known.
        """
        environ = {**environ, **({"APIM_BASE_URL": base_url} if base_url else {})}
        try:
            return cls(Settings.from_environment(environ), [], **options)  # type: ignore[arg-type]
        except SettingsError as error:
            return cls(_usable_settings(environ, error), error.problems, **options)  # type: ignore[arg-type]

    def excerpt(self, text: str) -> str:
        """The start of a response's text in one line, without the key."""
        text = " ".join(text.split())
        if self.key:
            text = text.replace(self.key, "<key>")
        return text[:_MAX_EXCERPT] or "nothing"


def _usable_settings(environ: Mapping[str, str], error: SettingsError) -> Settings:
    """The settings without the faulty ones. Raises `error` if the rest cannot be used either."""
    faulty = names_in(error.problems)
    good = {name: value for name, value in environ.items() if name not in faulty}
    if not good.get("KEY_VAULT_URL"):
        good["LOCAL_SUBSCRIPTION_KEYS"] = "nobody=nothing"
    for attempt in (
        good,
        {name: good.get(name, "") for name in ("APIM_BASE_URL", "LOCAL_SUBSCRIPTION_KEYS")},
    ):
        try:
            return Settings.from_environment(attempt)
        except SettingsError:
            continue
    raise error from None


def open_vault(settings: Settings) -> tuple[AsyncSupportsTokenInfo, VaultSecrets]:
    """The credential, and the vault of the settings that is opened with it."""
    assert settings.key_vault_url
    credential = open_credential(in_azure=settings.in_azure, client_id=settings.azure_client_id)
    # Longer than the shim itself would wait: a developer's sign-in takes seconds to give a token.
    return credential, VaultSecrets(
        settings.key_vault_url, in_azure=settings.in_azure, credential=credential, budget=PATIENCE
    )
