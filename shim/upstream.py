"""The one upstream client, and the one place where a transport's errors become the shim's."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict

from shim.call.body import Body
from shim.call.caller import Caller
from shim.call.rewrite import UpstreamRequest
from shim.call.routes import split
from shim.errors import NO_RETRY, InvalidRequest, UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from shim.headers import Headers, values_of
from shim.transport.wire import (
    ConnectError,
    Drain,
    LocalProtocolError,
    ReadTimeout,
    Transport,
    TransportError,
    WireRequest,
    WireResponse,
    Write,
    origin_of,
)

# Requests with these have a length, or servers wait for one (RFC 9110, section 8.6; http.sys answers 411).
_METHODS_WITH_CONTENT = frozenset(["POST", "PUT", "PATCH"])


class UpstreamResponse:
    """A response whose head has arrived. Relay its body, as it was sent; close it in any case."""

    def __init__(self, response: WireResponse, body: Body) -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._body = body
        self._read: list[bytes] = []
        self._replaced = False

    async def read(self, limit: int) -> bytes | None:
        """The whole body if it has no more than `limit` bytes; what was read is still there to be relayed."""
        read: list[bytes] = []
        size = 0
        try:
            async for chunk in self._response:
                read.append(chunk)
                size += len(chunk)
                if size > limit:
                    return None
            return b"".join(read)
        except TransportError as error:
            raise _broken_off(error) from error
        finally:
            self._read = read

    def replace(self, status: int, headers: Headers, content: bytes) -> None:
        """Another response in place of upstream's."""
        self.status, self.headers, self._read, self._replaced = status, headers, [content], True

    async def relay(self, write: Write, drain: Drain) -> None:
        """Writes the body as it arrives. Raises UpstreamBroken when upstream dies, or falls silent for too long."""
        for chunk in self._read:
            if not write(chunk):
                await drain()
        if not self._replaced:
            try:
                await self._response.relay(write, drain)
            except TransportError as error:
                raise _broken_off(error) from error

    async def close(self) -> None:
        """Ends the exchange; upstream notices at once if it was not over."""
        self._body.close()
        await self._response.aclose()


class Upstream:
    """Sends requests to the APIM API by way of a transport. Times are in seconds.

    `idle_timeout` is the silence that a response's body may have, 0 for any.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        connect_timeout: float,
        first_byte_timeout: float,
        idle_timeout: float,
    ) -> None:
        self._transport = transport
        self._first_byte_timeout = first_byte_timeout
        self._connect_timeout = connect_timeout
        self._read_timeout = idle_timeout or None

    @property
    def connections(self) -> dict[str, int]:
        """What has become of connections since the start, where the transport counts them."""
        counts = getattr(self._transport, "counts", None)
        return {} if counts is None else asdict(counts)

    async def send(self, request: UpstreamRequest, caller: Caller) -> UpstreamResponse:
        """Sends the request, body as it arrives, and waits for the head of the response.

        Raises UpstreamUnreachable, UpstreamTimeout, UpstreamBroken, or CallerGone as soon as the caller disconnects.
        """
        content = request.body.content
        try:
            with caller.cancelling():
                async with asyncio.timeout(self._first_byte_timeout) as clock:
                    response = await self._reach(request, content, clock)
                    clock.reschedule(None)  # what is left of the upload has all its time
        except BaseException as error:
            self._raise_translated(error)
            raise
        if content is not None:
            request.body.close()  # else it is kept in memory as long as the response streams
        return UpstreamResponse(response, request.body)

    async def read(self, response: UpstreamResponse, limit: int, caller: Caller) -> bytes | None:
        """The response's body if it has no more than `limit` bytes; the response can be sent on all the same.

        Raises UpstreamBroken, UpstreamTimeout or CallerGone, and has closed the response then.
        """
        try:
            with caller.cancelling():
                async with asyncio.timeout(self._first_byte_timeout):
                    return await response.read(limit)
        except BaseException as error:
            await response.close()
            self._raise_translated(error)
            raise

    async def check(self, url: str) -> None:
        """Asks for `url` without a key: any response at all shows that the API can be reached.

        Raises UpstreamUnreachable, UpstreamTimeout or UpstreamBroken.
        """
        origin, path = split(url)
        try:
            response = await self._transport.send(self._request("GET", origin, path or "/", [], b""))
        except TransportError as error:
            self._raise_translated(error)
            raise
        await response.aclose()

    async def _reach(
        self, request: UpstreamRequest, content: bytes | None, clock: asyncio.Timeout
    ) -> WireResponse:
        """Retries once if connecting failed: nothing was sent."""
        try:
            return await self._transport.send(self._prepare(request, content, clock))
        except ConnectError:
            return await self._transport.send(self._prepare(request, content, clock))

    def _prepare(
        self, request: UpstreamRequest, content: bytes | None, clock: asyncio.Timeout
    ) -> WireRequest:
        headers = request.headers
        if not values_of(headers, b"content-length"):
            if content is None:
                headers = [*headers, (b"transfer-encoding", b"chunked")]
            elif content or request.method in _METHODS_WITH_CONTENT:
                headers = [*headers, (b"content-length", b"%d" % len(content))]
        body = self._upload(request.body, clock) if content is None else content
        return self._request(request.method, request.origin, request.target, headers, body)

    def _request(
        self, method: str, origin: str, target: str, headers: Headers, body: bytes | AsyncIterator[bytes]
    ) -> WireRequest:
        to = origin_of(origin)
        return WireRequest(
            method,
            to,
            target.encode("ascii"),
            [(b"host", to.authority), *headers],
            body,
            self._connect_timeout,
            self._read_timeout,
        )

    async def _upload(self, body: Body, clock: asyncio.Timeout) -> AsyncIterator[bytes]:
        """The request's body as it arrives. Until it has, upstream cannot be late with its response."""
        loop = asyncio.get_running_loop()
        async for chunk in body:
            yield chunk
            if not clock.expired() and clock.when() is not None:
                clock.reschedule(loop.time() + self._first_byte_timeout)

    def _raise_translated(self, error: BaseException) -> None:
        """Says in the shim's words what a transport or a clock has raised, and nothing of all else."""
        match error:
            case LocalProtocolError():
                raise InvalidRequest(f"The call could not be sent on: {error}.") from error
            case ConnectError():
                raise UpstreamUnreachable(
                    f"The APIM API could not be reached ({error}), and nothing was sent to it. Try again shortly."
                ) from error
            case TimeoutError() | ReadTimeout():
                raise self._timed_out() from error
            case TransportError():
                raise UpstreamBroken(
                    f"The connection to the APIM API broke before it answered ({error}). Try again."
                ) from error

    def _timed_out(self) -> UpstreamTimeout:
        return UpstreamTimeout(
            f"The APIM API gave no response within {self._first_byte_timeout:g} s. For responses that take longer,"
            ' stream ("stream": true), or run them in the background (Responses API, "background": true).',
            # The model may well have run: SDKs that repeat the call on a 504 would have it run, and billed, again.
            headers=[NO_RETRY],
        )


def _broken_off(error: TransportError) -> UpstreamBroken:
    return UpstreamBroken(f"The APIM API broke off its response ({error}).")
