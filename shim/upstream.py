"""The one upstream client, and the one place where httpx's errors become the shim's."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache

import httpx

from shim.body import Body
from shim.caller import Caller
from shim.errors import Headers, InvalidRequest, UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from shim.rewrite import UpstreamRequest

_NO_BODY = httpx.ByteStream(b"")
# Of the one or two origins that the settings name: parsing takes httpx longer than all else that it does here.
_url = lru_cache(maxsize=8)(httpx.URL)


class UpstreamResponse:
    """An answer whose head has come. Iterate it for the body's chunks, as they were sent; close it in any case."""

    def __init__(self, response: httpx.Response, body: Body | None) -> None:
        self.status = response.status_code
        self.headers: Headers = response.headers.raw
        self._stream = response.stream
        self._body = body
        self._read: list[bytes] = []
        self._replaced = False

    async def read(self, limit: int) -> bytes | None:
        """The whole body if it has no more than `limit` bytes; what was read is still there to be iterated over."""
        size = 0
        async for chunk in self._chunks():
            self._read.append(chunk)
            size += len(chunk)
            if size > limit:
                return None
        return b"".join(self._read)

    def replace(self, status: int, headers: Headers, content: bytes) -> None:
        """Another answer in place of upstream's."""
        self.status, self.headers, self._read, self._replaced = status, headers, [content], True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Raises UpstreamBroken when upstream dies before the end."""
        for chunk in self._read:
            yield chunk
        if not self._replaced:
            async for chunk in self._chunks():
                yield chunk

    async def _chunks(self) -> AsyncIterator[bytes]:
        assert isinstance(self._stream, httpx.AsyncByteStream)
        try:
            async for chunk in self._stream:
                yield chunk
        except httpx.TransportError as error:
            raise UpstreamBroken(f"The APIM API broke off its answer ({error}).") from error

    async def close(self) -> None:
        """Ends the exchange; upstream notices at once if it was not over."""
        assert isinstance(self._stream, httpx.AsyncByteStream)
        await self._stream.aclose()
        if self._body is not None:
            self._body.close()


class Upstream:
    """Sends requests to the APIM API. Times are in seconds."""

    def __init__(self, transport: httpx.AsyncBaseTransport, *, first_byte_timeout: float) -> None:
        self._transport = transport
        self._first_byte_timeout = first_byte_timeout

    async def send(self, request: UpstreamRequest, caller: Caller) -> UpstreamResponse:
        """Sends the request, body as it arrives, and waits for the head of the answer.

        Raises UpstreamUnreachable, UpstreamTimeout, UpstreamBroken, or CallerGone as soon as the caller leaves.
        """
        with ExitStack() as undo:
            if request.body is not None:
                undo.callback(request.body.close)
            with self._translating_errors(), caller.cancelling():
                async with asyncio.timeout(self._first_byte_timeout) as clock:
                    response = await self._reach(request, clock)
            if request.body is not None and request.body.content is not None:
                request.body.close()  # not kept in memory as long as the answer streams
            undo.pop_all()
            return UpstreamResponse(response, request.body)

    async def read(self, answer: UpstreamResponse, limit: int, caller: Caller) -> bytes | None:
        """The answer's body if it has no more than `limit` bytes; the answer can be sent on all the same.

        Raises UpstreamBroken, UpstreamTimeout or CallerGone, and has closed the answer then.
        """
        try:
            with self._translating_errors(), caller.cancelling():
                async with asyncio.timeout(self._first_byte_timeout):
                    return await answer.read(limit)
        except BaseException:
            await answer.close()
            raise

    async def _reach(self, request: UpstreamRequest, clock: asyncio.Timeout) -> httpx.Response:
        """Tries a second connection where the first did not come about, since nothing was sent then."""
        try:
            return await self._transport.handle_async_request(self._prepare(request, clock))
        except (httpx.ConnectError, httpx.ConnectTimeout):
            return await self._transport.handle_async_request(self._prepare(request, clock))

    @contextmanager
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.LocalProtocolError as error:
            raise InvalidRequest(f"The call could not be sent on: {error}.") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UpstreamUnreachable(
                "The APIM API could not be reached, and nothing was sent to it. Try again shortly."
            ) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise self._timed_out() from error
        except httpx.TransportError as error:
            raise UpstreamBroken(
                f"The connection to the APIM API broke before it answered ({error}). Try again."
            ) from error

    async def check(self, url: str) -> None:
        """Asks for `url` without a key: any answer at all shows that the API can be reached.

        Raises UpstreamUnreachable, UpstreamTimeout or UpstreamBroken.
        """
        with self._translating_errors():
            response = await self._transport.handle_async_request(httpx.Request("GET", url))
        await response.aclose()

    def _prepare(self, request: UpstreamRequest, clock: asyncio.Timeout) -> httpx.Request:
        return httpx.Request(
            request.method,
            _url(request.origin),
            headers=request.headers,
            stream=self._stream(request.body, clock),
            extensions={"target": request.path_and_query.encode("ascii")},
        )

    def _stream(self, body: Body | None, clock: asyncio.Timeout) -> httpx.AsyncByteStream:
        if body is None:
            return _NO_BODY
        content = body.content
        return _Upload(body, clock, self._first_byte_timeout) if content is None else httpx.ByteStream(content)

    def _timed_out(self) -> UpstreamTimeout:
        return UpstreamTimeout(
            f"The APIM API gave no answer within {self._first_byte_timeout:g} s. For answers that take longer, stream"
            ' ("stream": true), or run them in the background (Responses API, "background": true).',
            # The model may well have run: SDKs that repeat the call on a 504 would have it run, and billed, again.
            headers=[(b"x-should-retry", b"false")],
        )


class _Upload(httpx.AsyncByteStream):
    """The request's body. While it still arrives, upstream cannot be late with its answer."""

    def __init__(self, body: Body, clock: asyncio.Timeout, first_byte_timeout: float) -> None:
        self._body = body
        self._clock = clock
        self._first_byte_timeout = first_byte_timeout

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        async for chunk in self._body:
            yield chunk
            if not self._clock.expired() and self._clock.when() is not None:
                self._clock.reschedule(loop.time() + self._first_byte_timeout)
