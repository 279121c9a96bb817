"""The HTTP client of the doctor: it times responses, and turns what goes wrong into words."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

# Seconds: for the head of a response, and for each chunk of a stream.
PATIENCE = 30.0
_CONNECT = 10.0
_MAX_RESPONSE_BYTES = 64 * 1024


class NoResponseError(Exception):
    """There was no response, for a reason in words."""


@dataclass(frozen=True, slots=True)
class Response:
    """`seconds` until its head; `at` is this machine's time halfway through the exchange."""

    status: int
    headers: Mapping[str, str]
    text: str
    seconds: float
    at: float


class Client:
    """Sends requests and times the responses; follows no redirect, keeps no cookie, ignores proxy settings."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: object = None
    ) -> Response:
        """Raises NoResponseError."""
        began, at = time.monotonic(), time.time()
        with _errors_in_words(url):
            async with self._http.stream(method, url, headers=_encoded(headers), json=body) as response:
                seconds = time.monotonic() - began
                content = await anext(response.aiter_bytes(_MAX_RESPONSE_BYTES), b"")
        text = content.decode("utf-8", "replace")
        return Response(response.status_code, response.headers, text, seconds, at + seconds / 2)

    async def stream(
        self, url: str, *, headers: Mapping[str, str], body: object
    ) -> AsyncIterator[tuple[float, bytes]]:
        """The status as text, then each chunk as it arrives, each with the seconds since the request.

        Raises NoResponseError.
        """
        began = time.monotonic()
        with _errors_in_words(url):
            async with self._http.stream("POST", url, headers=_encoded(headers), json=body) as response:
                yield time.monotonic() - began, str(response.status_code).encode()
                async for chunk in response.aiter_bytes():
                    yield time.monotonic() - began, chunk


def _encoded(headers: Mapping[str, str] | None) -> httpx.Headers:
    """By default httpx takes ASCII only; a key that was pasted wrongly is for APIM to judge."""
    return httpx.Headers(headers, encoding="utf-8")


@contextmanager
def _errors_in_words(url: str) -> Iterator[None]:
    """Raises NoResponseError in place of what httpx raises."""
    host = url.split("/")[2]
    try:
        yield
    except httpx.ConnectError as error:
        if _is_certificate_error(error):
            raise NoResponseError(f"the certificate of {host} is not trusted here") from None
        raise NoResponseError(f"no connection to {host}") from None
    except httpx.TimeoutException:
        raise NoResponseError(f"{host} did not respond within {PATIENCE:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise NoResponseError(f"the request to {host} failed ({type(error).__name__})") from None


def _is_certificate_error(error: BaseException | None) -> bool:
    # By context: on its way through httpcore's pool, an error loses its cause.
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__context__
    return error is not None


@asynccontextmanager
async def open_client(trust: ssl.SSLContext) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(
        verify=trust,
        trust_env=False,
        # A jar that takes cookies of no domain.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=httpx.Timeout(PATIENCE, connect=_CONNECT),
    ) as http:
        yield Client(http)
