"""Whether the shim would accept a key, and if not, why."""

from __future__ import annotations

from datetime import UTC, datetime

from shim.auth import authenticate
from shim.cli import output
from shim.cli.session import Session
from shim.errors import AuthenticationFailed
from shim.keys.admin.inventory import REVOKED, KeyRecord
from shim.keys.scan import ScanKeyStore
from shim.keys.store import KeyStore
from shim.keys.subscription import Subscription, digest_of
from shim.keys.vault import SHOWN_DIGITS, VaultKeyStore

# Seconds that an operator waits for a whole vault to be read.
SCAN_PATIENCE = 120.0


async def verdict_on(session: Session, key: str) -> Subscription | str:
    """The subscription of an accepted key, else the reason for its refusal."""
    digest = digest_of(key)
    # First, since the vault's own reason for a failure is for operators, and callers are not told it.
    record = await session.inventory.by_digest(digest)
    try:
        principal = await authenticate(
            [(b"authorization", b"Bearer " + key.encode())],
            _store(session),
            session.settings.user_token_header,
        )
    except AuthenticationFailed as refusal:
        return await _why_not(session, record, digest, refusal)
    return principal.subscription


def _store(session: Session) -> KeyStore:
    settings = session.settings
    if not session.scans:
        return VaultKeyStore(session.secrets, prefix=settings.key_secret_prefix)
    return ScanKeyStore(
        session.secrets,
        prefix=settings.key_secret_prefix,
        ttl=settings.key_cache_ttl,
        stale=settings.key_cache_stale,
        grace=settings.key_rotation_grace,
        patience=SCAN_PATIENCE,
    )


async def _why_not(
    session: Session, record: KeyRecord | None, digest: str, refusal: AuthenticationFailed
) -> str:
    if refusal.code != "invalid_api_key":
        return refusal.message
    if record is None and session.scans:
        record = await _record_with_value(session, digest)
    if record is None:
        disabled = " (the values of disabled secrets cannot be read)" if session.scans else ""
        return f"no key in the vault has the digest {digest[:SHOWN_DIGITS]}…{disabled}"
    match record.state(datetime.now(UTC)):
        case "disabled":
            revoked = f": revoked at {record.tags[REVOKED]}" if REVOKED in record.tags else ""
            return f"{record.label} is disabled{revoked}"
        case "expired":
            return f"{record.label} expired on {output.day(record.expires)} UTC"
        case "not yet":
            return f"{record.label} is good from {output.day(record.not_before)} UTC"
        case _:
            return f"{record.label}: its secret holds nothing that could be sent as a key"


async def _record_with_value(session: Session, digest: str) -> KeyRecord | None:
    with output.progress("Reading the vault") as tick:
        async for record in session.inventory.records():
            tick(record.shown)
            secret = await session.secrets.get(record.name) if record.enabled else None
            if secret and secret.value and digest_of(secret.value.strip()) == digest:
                return record
    return None
