"""TLS of the stand-ins: one authority, the servers it vouches for, and those who trust it."""

import functools
import ssl
from pathlib import Path

import trustme


@functools.cache
def _authority() -> tuple[trustme.CA, ssl.SSLContext, ssl.SSLContext]:
    """Who signs, and TLS of the servers and of their clients."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("*.vault.azure.net", "127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return authority, server, client


def server_tls() -> ssl.SSLContext:
    """For a double: of Azure's vaults, and of 127.0.0.1."""
    return _authority()[1]


def client_tls() -> ssl.SSLContext:
    """For clients of the doubles."""
    return _authority()[2]


def write_authority(file: Path) -> None:
    """For SSL_CERT_FILE of processes that are to trust the doubles."""
    _authority()[0].cert_pem.write_to_path(str(file))
