"""Subscription keys: where they are kept, and how they are found by digest."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

from shim.keys.azure.key_vault import VaultSecrets
from shim.keys.cache import CachedKeyStore
from shim.keys.local import LocalKeyStore
from shim.keys.store import KeyStore
from shim.keys.subscription import Subscription, digest_of
from shim.keys.vault import VaultKeyStore
from shim.monitoring.counts import Process
from shim.settings import Settings


def open_key_store(
    settings: Settings,
    *,
    secrets: VaultSecrets | None = None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    process: Process | None = None,
) -> KeyStore:
    """The key store that the settings describe. Connects to nothing and imports no SDK until its first call.

    `secrets` stands in for the settings' vault. Lookups are counted in `process`.
    """
    if settings.key_vault_url is None:
        return LocalKeyStore(_local_subscriptions(settings))
    secrets = secrets or VaultSecrets(
        settings.key_vault_url, in_azure=settings.in_azure, client_id=settings.azure_client_id
    )
    if settings.key_lookup == "scan":
        from shim.keys.scan import ScanKeyStore  # a start without it is shorter

        return ScanKeyStore(
            secrets,
            prefix=settings.key_secret_prefix,
            ttl=settings.key_cache_ttl,
            stale=settings.key_cache_stale,
            grace=settings.key_rotation_grace,
            clock=clock,
            now=now,
            process=process,
        )
    return CachedKeyStore(
        VaultKeyStore(secrets, prefix=settings.key_secret_prefix, now=now),
        ttl=settings.key_cache_ttl,
        stale=settings.key_cache_stale,
        clock=clock,
        now=now,
        process=process,
    )


def _local_subscriptions(settings: Settings) -> list[Subscription]:
    return [
        Subscription(digest=digest_of(key), key=key, label=label, source="local settings")
        for label, key in settings.local_subscription_keys
    ]
