"""aiohttp as an httpx transport that leaves bytes as they are.

httpx's own transport is several times slower, and httpx-aiohttp's re-encodes the URL, joins repeated headers
and reports a connection lost after the request was sent as one that never came about; a proxy can have none of that.
"""

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

# Idle connections are let go before API Management's load balancer drops them, without a word, after four minutes:
# https://learn.microsoft.com/azure/load-balancer/load-balancer-tcp-reset
_KEEPALIVE_SECONDS = 90
# Of one response header; services behind gateways send long ones (content-security-policy, say).
_MAX_HEADER_BYTES = 64 * 1024

# From the particular to the general: the first that fits is the translation.
_ERRORS: tuple[tuple[type[Exception], type[httpx.TransportError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout),
    (aiohttp.ServerTimeoutError, httpx.ReadTimeout),
    (aiohttp.ClientConnectorError, httpx.ConnectError),  # DNS, TLS and certificates among them
    (aiohttp.ServerFingerprintMismatch, httpx.ConnectError),
    (aiohttp.ServerDisconnectedError, httpx.RemoteProtocolError),
    (aiohttp.ClientOSError, httpx.ReadError),
    (aiohttp.ClientConnectionError, httpx.WriteError),
    (aiohttp.ClientPayloadError, httpx.RemoteProtocolError),
    (aiohttp.ClientResponseError, httpx.RemoteProtocolError),
    (aiohttp.InvalidURL, httpx.UnsupportedProtocol),
    (aiohttp.ClientError, httpx.NetworkError),
    (HttpProcessingError, httpx.RemoteProtocolError),
    (OSError, httpx.NetworkError),
)


@contextmanager
def _translating_errors() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
        translation = next(to for of, to in _ERRORS if isinstance(error, of))
        raise translation(type(error).__name__) from error


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends a request whose `target` extension, if any, is the request target as it goes on the wire.

    https://www.python-httpx.org/advanced/extensions/#target. No cookies, redirects, decoding, proxies or headers
    of its own but Host and those that frame the body.
    """

    def __init__(self, *, connect_timeout: float, verify: ssl.SSLContext | None = None) -> None:
        # `connect` spans name look-up, TCP and TLS. How long an answer may take is for the caller of this to say.
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout)
        self._verify = verify
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpx.LocalProtocolError for headers that are not UTF-8, which aiohttp could not send as they are.

        Of what the network does, raises httpx.TransportError and nothing else.
        """
        url = request.url
        target: bytes = request.extensions.get("target", url.raw_path)
        has_body = not isinstance(request.stream, httpx.ByteStream)
        with _translating_errors():
            response = await self._open().request(
                request.method,
                URL(f"{url.scheme}://{url.netloc.decode('ascii')}{target.decode('ascii')}", encoded=True),
                headers=_text(request.headers.raw),
                data=request.stream if has_body else None,
                allow_redirects=False,
            )
        return httpx.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Body(response),
            request=request,
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        # Made with the first request, because a session belongs to the loop it was made in.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,  # the host bounds the requests in flight; a wait for a connection would be a hidden queue
                    keepalive_timeout=_KEEPALIVE_SECONDS,
                    ssl=self._verify or ssl.create_default_context(),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),  # a shared jar would hand one caller's cookies to the next
                auto_decompress=False,
                skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
                timeout=self._timeout,
                max_field_size=_MAX_HEADER_BYTES,
            )
            # Else aiohttp repeats idempotent requests whose pooled connection closes under them, sent or not.
            # There is no public way to say so (aiohttp's own test client does the same).
            self._session._retry_connection = False
        return self._session


def _text(headers: list[tuple[bytes, bytes]]) -> CIMultiDict[str]:
    try:
        return CIMultiDict((name.decode(), value.decode()) for name, value in headers)
    except UnicodeDecodeError:
        raise httpx.LocalProtocolError("a header is not UTF-8") from None


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translating_errors():
            while chunk := await self._response.content.readany():
                yield chunk

    async def aclose(self) -> None:
        # Closes the connection too where the body has not come to its end: that is what cancels the request upstream.
        self._response.close()
