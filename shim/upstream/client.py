"""The one upstream client, and the one place where httpx's errors become the shim's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable

import httpx

from shim.call import routes
from shim.call.body import Body
from shim.call.caller import Caller
from shim.call.rewrite import UpstreamRequest
from shim.errors import InvalidRequest, UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from shim.headers import Headers
from shim.upstream.connection import Exchange
from shim.upstream.transport import Transport


class UpstreamResponse:
    """An answer whose head has come. Iterate it for the body's chunks, as they were sent; close it in any case."""

    def __init__(self, exchange: Exchange, body: Body) -> None:
        self.status = exchange.status
        self.headers = exchange.headers
        self._exchange = exchange
        self._body = body
        self._read: list[bytes] = []
        self._replaced = False

    async def read(self, limit: int) -> bytes | None:
        """The whole body if it has no more than `limit` bytes; what was read is still there to be iterated over."""
        read: list[bytes] = []
        size = 0
        try:
            async for chunk in self:
                read.append(chunk)
                size += len(chunk)
                if size > limit:
                    return None
            return b"".join(read)
        finally:
            self._read = read

    def replace(self, status: int, headers: Headers, content: bytes) -> None:
        """Another answer in place of upstream's."""
        self.status, self.headers, self._read, self._replaced = status, headers, [content], True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Raises UpstreamBroken when upstream dies before the end."""
        try:
            for chunk in self._read:
                yield chunk
            if not self._replaced:
                async for chunk in self._exchange:
                    yield chunk
        except httpx.TransportError as error:
            raise UpstreamBroken(f"The APIM API broke off its answer ({error}).") from error

    def close(self) -> None:
        """Ends the exchange; upstream notices at once if it was not over."""
        self._exchange.close()
        self._body.close()


class Upstream:
    """Sends requests to the APIM API. Times are in seconds."""

    def __init__(self, transport: Transport, *, first_byte_timeout: float) -> None:
        self._transport = transport
        self._first_byte_timeout = first_byte_timeout

    async def send(self, request: UpstreamRequest, caller: Caller) -> UpstreamResponse:
        """Sends the request, body as it arrives, and waits for the head of the answer.

        Raises UpstreamUnreachable, UpstreamTimeout, UpstreamBroken, or CallerGone as soon as the caller leaves.
        """
        content = request.body.content
        try:
            with caller.cancelling():
                async with asyncio.timeout(self._first_byte_timeout) as clock:
                    exchange = await self._reach(request, content, clock)
                    clock.reschedule(None)  # what is left of the upload has all its time
        except BaseException as error:
            self._raise_translated(error)
            raise
        if content is not None:
            request.body.close()  # else it is kept in memory as long as the response streams
        return UpstreamResponse(exchange, request.body)

    async def read(self, answer: UpstreamResponse, limit: int, caller: Caller) -> bytes | None:
        """The answer's body if it has no more than `limit` bytes; the answer can be sent on all the same.

        Raises UpstreamBroken, UpstreamTimeout or CallerGone, and has closed the answer then.
        """
        try:
            with caller.cancelling():
                async with asyncio.timeout(self._first_byte_timeout):
                    return await answer.read(limit)
        except BaseException as error:
            answer.close()
            self._raise_translated(error)
            raise

    async def check(self, url: str) -> None:
        """Asks for `url` without a key: any answer at all shows that the API can be reached.

        Raises UpstreamUnreachable, UpstreamTimeout or UpstreamBroken.
        """
        origin, path = routes.split(url)
        try:
            exchange = await self._transport.send("GET", origin, path or "/", [], b"")
        except httpx.TransportError as error:
            self._raise_translated(error)
            raise
        exchange.close()

    async def _reach(
        self, request: UpstreamRequest, content: bytes | None, clock: asyncio.Timeout
    ) -> Exchange:
        """Tries a second connection where the first did not come about, since nothing was sent then."""

        def attempt() -> Awaitable[Exchange]:
            body = self._upload(request, clock) if content is None else content
            return self._transport.send(request.method, request.origin, request.target, request.headers, body)

        try:
            return await attempt()
        except (httpx.ConnectError, httpx.ConnectTimeout):
            return await attempt()

    async def _upload(self, request: UpstreamRequest, clock: asyncio.Timeout) -> AsyncIterator[bytes]:
        """The request's body. While it still arrives, upstream cannot be late with its answer."""
        loop = asyncio.get_running_loop()
        async for chunk in request.body:
            yield chunk
            if not clock.expired() and clock.when() is not None:
                clock.reschedule(loop.time() + self._first_byte_timeout)

    def _raise_translated(self, error: BaseException) -> None:
        """Says in the shim's words what httpx or a clock has raised, and nothing of all else."""
        match error:
            case httpx.LocalProtocolError():
                raise InvalidRequest(f"The call could not be sent on: {error}.") from error
            case httpx.ConnectError() | httpx.ConnectTimeout():
                raise UpstreamUnreachable(
                    "The APIM API could not be reached, and nothing was sent to it. Try again shortly."
                ) from error
            case TimeoutError() | httpx.TimeoutException():
                raise self._timed_out() from error
            case httpx.TransportError():
                raise UpstreamBroken(
                    f"The connection to the APIM API broke before it answered ({error}). Try again."
                ) from error

    def _timed_out(self) -> UpstreamTimeout:
        return UpstreamTimeout(
            f"The APIM API gave no answer within {self._first_byte_timeout:g} s. For answers that take longer, stream"
            ' ("stream": true), or run them in the background (Responses API, "background": true).',
            # The model may well have run: SDKs that repeat the call on a 504 would have it run, and billed, again.
            headers=[(b"x-should-retry", b"false")],
        )
