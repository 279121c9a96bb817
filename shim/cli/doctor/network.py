"""The network path to the APIM API: its name, its certificate, and whether the clocks agree."""

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from shim.cli.doctor.client import Client, NoResponseError
from shim.cli.doctor.finding import Finding, failed, ok, warning
from shim.cli.doctor.target import Target

_PATIENCE = 10.0
_DAYS = 86400.0
_SOON_DAYS = 14
# Seconds. Microsoft Entra allows tokens five minutes of skew; key expiry suffers before that.
_SKEW_WARNING = 30.0
_SKEW_FAILED = 300.0


async def dns(target: Target, _: Client) -> AsyncIterator[Finding]:
    host, port = _address(target)
    try:
        async with asyncio.timeout(_PATIENCE):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError):
        yield failed(
            "dns",
            f"{host} has no address here",
            "check the host in APIM_BASE_URL; an internal APIM resolves only inside its virtual network",
        )
        return
    addresses = sorted({str(info[4][0]) for info in found})
    private = all(ipaddress.ip_address(address.partition("%")[0]).is_private for address in addresses)
    yield ok("dns", f"{host} is {', '.join(addresses)}{' (private)' if private else ''}")


async def tls(target: Target, _: Client) -> AsyncIterator[Finding]:
    host, port = _address(target)
    if urlsplit(target.settings.apim_base_url).scheme == "http":
        yield warning(
            "tls", f"{host} is called without TLS", "use https:// for anything but an API on this machine"
        )
        return
    try:
        async with asyncio.timeout(_PATIENCE):
            _reader, writer = await asyncio.open_connection(host, port, ssl=target.trust)
    except ssl.SSLCertVerificationError as error:
        yield failed(
            "tls",
            f"the certificate of {host} is not trusted: {error.verify_message}",
            "renew it, or trust its issuer here and in the app; a proxy in between may present its own",
        )
        return
    except (OSError, TimeoutError) as error:
        yield failed(
            "tls",
            f"no connection to {host}:{port} ({type(error).__name__})",
            "check firewalls, the network security groups of APIM's subnet, and that APIM is running",
        )
        return
    yield _certificate(host, writer.get_extra_info("ssl_object"))
    writer.close()


def _certificate(host: str, connection: ssl.SSLObject) -> Finding:
    expires = ssl.cert_time_to_seconds(str((connection.getpeercert() or {})["notAfter"]))
    days = (expires - time.time()) / _DAYS
    message = f"{connection.version()} with {host}, whose certificate is valid for {days:.0f} days"
    if days < _SOON_DAYS:
        return warning("tls", message, "renew the certificate of the APIM gateway")
    return ok("tls", message)


async def clock(target: Target, client: Client) -> AsyncIterator[Finding]:
    try:
        response = await client.request("GET", target.settings.apim_base_url)
        skew = abs(response.at - parsedate_to_datetime(response.headers["Date"]).timestamp())
    except (NoResponseError, KeyError, ValueError):
        yield warning(
            "clock", "not compared, since APIM's response has no date", "fix the failures above first"
        )
        return
    message = f"{skew:.0f} s apart from APIM's"
    if skew < _SKEW_WARNING:
        yield ok("clock", message)
    else:
        judge = failed if skew > _SKEW_FAILED else warning
        yield judge(
            "clock", message, "synchronise this machine's clock: tokens and the expiry of keys depend on it"
        )


def _address(target: Target) -> tuple[str, int]:
    url = urlsplit(target.settings.apim_base_url)
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
