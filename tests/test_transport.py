"""aiohttp under httpx's interface: nothing re-encoded, nothing added, every error translated."""

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator

import aiohttp
import httpx
import pytest
import trustme
from aiohttp import client_exceptions, http_exceptions

from shim.transport import Http1Transport


@pytest.fixture
async def transport() -> AsyncIterator[Http1Transport]:
    transport = Http1Transport(connect_timeout=1)
    yield transport
    await transport.aclose()


async def receive(
    transport: Http1Transport, request: httpx.Request, answer: bytes
) -> tuple[bytes, httpx.Response]:
    """What a server received, to the byte, and what the transport made of its answer."""
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        request.url = request.url.copy_with(port=server.sockets[0].getsockname()[1])
        response = await transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.extensions["content"] = b"".join([chunk async for chunk in response.stream])
        await response.aclose()
    return bytes(received), response


async def test_the_target_goes_out_as_it_is(transport: Http1Transport) -> None:
    target = b'/a%2Fb%41/..//c;d?e=%20+f&g[]={h}|"i"'
    request = httpx.Request(
        "GET", "http://127.0.0.1", stream=httpx.ByteStream(b""), extensions={"target": target}
    )
    received, _ = await receive(transport, request, b"HTTP/1.1 204 No Content\r\n\r\n")
    assert received.startswith(b"GET " + target + b" HTTP/1.1\r\n")


async def test_headers_go_out_and_come_back_as_they_are(transport: Http1Transport) -> None:
    sent = [(b"x-a", b"1"), (b"x-b", "gr\u00fc\u00df".encode()), (b"x-a", b"2")]
    request = httpx.Request("GET", "http://127.0.0.1/", headers=sent, stream=httpx.ByteStream(b""))
    answer = b"HTTP/1.1 299 \r\nX-C: 1\r\nSet-Cookie: a=1\r\nX-C: 2\r\nContent-Encoding: gzip\r\n\r\nnot gzip"
    received, response = await receive(transport, request, answer)
    assert received.split(b"\r\n")[2:-2] == [b"x-a: 1", b"x-b: gr\xc3\xbc\xc3\x9f", b"x-a: 2"]
    assert received.split(b"\r\n")[1].lower().startswith(b"host: 127.0.0.1:")
    assert response.status_code == 299
    assert response.headers.raw == [
        (b"X-C", b"1"), (b"Set-Cookie", b"a=1"), (b"X-C", b"2"), (b"Content-Encoding", b"gzip"),
    ]  # fmt: skip
    assert response.extensions["content"] == b"not gzip"


async def test_a_request_that_was_sent_is_not_sent_again(transport: Http1Transport) -> None:
    """aiohttp would repeat a GET whose pooled connection closes under it; the first may have been carried out."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        request = httpx.Request("GET", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        await (await transport.handle_async_request(request)).aclose()
        with pytest.raises(httpx.RemoteProtocolError):
            await transport.handle_async_request(request)
    assert len(received) == 2


async def test_a_connection_that_is_refused_is_a_connect_error(transport: Http1Transport) -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
    with pytest.raises(httpx.ConnectError):
        await transport.handle_async_request(httpx.Request("GET", f"http://127.0.0.1:{port}/"))


async def test_a_host_that_is_none_is_a_connect_error(transport: Http1Transport) -> None:
    with pytest.raises(httpx.ConnectError):
        await transport.handle_async_request(httpx.Request("GET", "http://host.invalid/"))


async def test_a_handshake_that_is_never_answered_is_a_connect_timeout() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    transport = Http1Transport(connect_timeout=0.1)
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(httpx.ConnectTimeout):
            await transport.handle_async_request(httpx.Request("GET", f"https://127.0.0.1:{port}/"))
    await transport.aclose()


@pytest.mark.parametrize("trusted", [True, False])
async def test_certificates_are_checked(trusted: bool) -> None:
    authority = trustme.CA()
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_side)
    client_side = ssl.create_default_context()
    if trusted:
        authority.configure_trust(client_side)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    transport = Http1Transport(connect_timeout=2, verify=client_side)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_side)
    request = httpx.Request("GET", f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    if trusted:
        response = await transport.handle_async_request(request)
        assert response.status_code == 204
        await response.aclose()
    else:
        with pytest.raises(httpx.ConnectError):
            await transport.handle_async_request(request)
    await transport.aclose()
    server.close()
