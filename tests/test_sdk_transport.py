"""What the Azure SDK's clients send and get, and which of azure-core's errors each failure is.

The errors decide whether a call is tried again and what operators are told; a body without bound, or a secret's name in
a message, would do harm that nothing else notices.
"""

import asyncio
import gzip
import json
import ssl
import traceback
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trustme
from azure.core.exceptions import (
    HttpResponseError,
    ServiceRequestError,
    ServiceRequestTimeoutError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)
from azure.core.pipeline import AsyncPipeline
from azure.core.pipeline.policies import ContentDecodePolicy
from azure.core.pipeline.transport import HttpRequest as LegacyRequest
from azure.core.rest import HttpRequest
from azure.identity.aio import ManagedIdentityCredential

from shim.keys.azure.response import SdkResponse
from shim.keys.azure.transport import MAX_BYTES, SdkTransport
from shim.transport.tls import default_trust
from tests.support.virtual_time import VirtualLoop, run_in_virtual_time, turns_until
from tests.test_transport import GOOD, PATIENCE, Serve, answering, peer, server_side

PATH = "/secrets/apim-sub-0123456789abcdef"
KINDS = [HttpRequest, LegacyRequest]
PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def transport() -> AsyncIterator[SdkTransport]:
    async with SdkTransport() as opened:
        yield opened


def head(*headers: str, length: int, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {length}", *headers, "", ""]).encode()


async def arrived(transport: SdkTransport, method: str, **given: Any) -> tuple[bytes, bytes]:
    """The head and the body of a request as a server gets it."""
    kind = given.pop("kind", HttpRequest)
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readuntil(b"\r\n\r\n")
        length = next((line for line in first.split(b"\r\n") if line.startswith(b"content-length: ")), b"0")
        got.extend([first, await reader.readexactly(int(length.split()[-1]))])
        writer.write(GOOD)

    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        await transport.send(kind(method, f"{it.origin}/a%2Fb?api-version=7.6&e=%20+f", **given))
        return got[0].replace(it.origin.removeprefix("http://").encode(), b"HOST"), got[1]


async def answer(transport: SdkTransport, response: bytes, kind: type = HttpRequest) -> SdkResponse:
    async with peer(answering(response)) as it, asyncio.timeout(PATIENCE):
        return await transport.send(kind("GET", it.origin + PATH))


# Requests.


@pytest.mark.parametrize("kind", KINDS)
async def test_a_request_goes_out_with_its_own_headers_and_what_it_lacks(
    kind: type, transport: SdkTransport
) -> None:
    headers = {"Authorization": "Bearer t", "Host": "other", "Connection": "close", "Transfer-Encoding": "x"}
    assert await arrived(transport, "GET", kind=kind, headers=headers) == (
        b"GET /a%2Fb?api-version=7.6&e=%20+f HTTP/1.1\r\nhost: HOST\r\naccept: */*\r\naccept-encoding: gzip\r\n"
        b"authorization: Bearer t\r\n\r\n",
        b"",
    )


async def test_what_a_request_says_of_its_answer_counts(transport: SdkTransport) -> None:
    got, _ = await arrived(
        transport, "GET", headers={"Accept": "application/json", "Accept-Encoding": "identity"}
    )
    assert b"\r\naccept: application/json\r\naccept-encoding: identity\r\n\r\n" in got


async def test_a_url_without_a_path_is_asked_for_the_root(transport: SdkTransport) -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(GOOD)

    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        await transport.send(HttpRequest("GET", it.origin))
    assert got[0].startswith(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("given", "body"),
    [
        ({"kind": HttpRequest, "content": b"\x00\xff"}, b"\x00\xff"),
        ({"kind": HttpRequest, "content": "é"}, b"\xc3\xa9"),
        ({"kind": HttpRequest, "json": {"value": "x"}}, b'{"value": "x"}'),
        ({"kind": HttpRequest, "data": {"a": "b c", "d": "&"}}, b"a=b+c&d=%26"),
        ({"kind": LegacyRequest, "data": b"\x00\xff"}, b"\x00\xff"),
        ({"kind": LegacyRequest, "data": "é"}, b"\xc3\xa9"),
        # So azure-identity asks for a token.
        ({"kind": LegacyRequest, "data": {"a": "b c", "d": "&"}}, b"a=b+c&d=%26"),
        ({"kind": HttpRequest}, b""),
        ({"kind": LegacyRequest}, b""),
    ],
)
async def test_a_body_goes_out_with_its_length_in_bytes(
    given: dict[str, Any], body: bytes, transport: SdkTransport
) -> None:
    got_head, got_body = await arrived(transport, "POST", **given)
    assert got_body == body
    assert got_head.endswith(b"\r\ncontent-length: %d\r\n\r\n" % len(body))
    assert got_head.lower().count(b"content-length") == 1


async def pieces() -> AsyncIterator[bytes]:
    yield b"x"


@pytest.mark.parametrize(
    "request_",
    [
        HttpRequest("POST", "http://localhost/", files={"file": b"x"}),
        LegacyRequest("POST", "http://localhost/", files={"file": b"x"}),
        HttpRequest("POST", "http://localhost/", content=pieces()),
    ],
)
async def test_files_and_streams_are_not_sent(
    request_: HttpRequest | LegacyRequest, transport: SdkTransport
) -> None:
    with pytest.raises(TypeError, match="a body that is no text, form or bytes"):
        await transport.send(request_)


async def test_an_option_that_would_have_no_effect_is_refused(transport: SdkTransport) -> None:
    with pytest.raises(TypeError, match="the SDK asks for connection_cert, connection_verify"):
        await transport.send(
            HttpRequest("GET", "http://localhost/"), connection_verify=False, connection_cert="c"
        )


# Responses.


@pytest.mark.parametrize("kind", KINDS)
async def test_a_response_has_what_either_kind_of_request_is_promised(
    kind: type, transport: SdkTransport
) -> None:
    body = '{"value":"é"}'.encode()
    sent = await answer(
        transport,
        head("Content-Type: application/json; charset=utf-8", "X-A: 1", "x-a: 2", length=len(body)) + body,
        kind,
    )
    assert isinstance(sent.request, kind)
    assert sent.url.endswith(PATH)
    assert (sent.status_code, sent.reason) == (200, "OK")
    assert (sent.content_type, sent.encoding) == ("application/json; charset=utf-8", "utf-8")
    assert (sent.headers["x-A"], sent.headers.get("none")) == ("1, 2", None)
    assert (sent.content, sent.body(), await sent.read()) == (body, body, body)
    assert (sent.text(), sent.text("latin-1"), sent.json()) == (
        '{"value":"é"}', '{"value":"Ã©"}', {"value": "é"},
    )  # fmt: skip
    assert (
        [piece async for piece in sent.iter_raw()] == [piece async for piece in sent.iter_bytes()] == [body]
    )
    assert (sent.is_closed, sent.is_stream_consumed) == (True, True)
    async with sent:
        sent.raise_for_status()
    await sent.close()


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("application/json", b"\xef\xbb\xbf{}", "{}"),
        ("text/plain; charset=latin-1", b"\xe9", "é"),
        ("text/plain; charset=klingon", b"\xc3\xa9", "é"),
    ],
)
async def test_text_is_read_in_the_charset_that_is_named_and_else_as_utf_8(
    content_type: str, body: bytes, text: str, transport: SdkTransport
) -> None:
    sent = await answer(transport, head(f"content-type: {content_type}", length=len(body)) + body)
    assert sent.text() == text
    sent.encoding = "utf-16-le"
    assert sent.encoding == "utf-16-le"


async def test_a_response_without_content_type_or_known_status_is_one_all_the_same(
    transport: SdkTransport,
) -> None:
    sent = await answer(transport, head(length=2, status="299 Strange") + b"ok")
    assert (sent.content_type, sent.encoding, sent.text(), sent.reason) == (None, None, "ok", "")


async def test_a_status_from_400_on_is_an_error_where_the_sdk_asks(transport: SdkTransport) -> None:
    (await answer(transport, head(length=0, status="399 x"))).raise_for_status()
    with pytest.raises(HttpResponseError, match="Bad Request"):
        (await answer(transport, head(length=0, status="400 x"))).raise_for_status()


async def test_redirects_are_not_followed_and_cookies_not_kept(transport: SdkTransport) -> None:
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            got.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(head("location: /elsewhere", "set-cookie: a=b", length=0, status="307 x"))

    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        for _ in range(2):
            sent = await transport.send(HttpRequest("GET", it.origin + PATH))
            assert sent.status_code == 307
        assert it.connections == 1
    assert got[0] == got[1]
    assert b"cookie" not in got[1]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", KINDS)
async def test_azure_cores_policies_read_it(kind: type, stream: bool, transport: SdkTransport) -> None:
    body = b'{"value":1}'
    response = head("content-type: application/json", length=len(body)) + body
    async with peer(answering(response)) as it, asyncio.timeout(PATIENCE):
        pipeline: AsyncPipeline[Any, Any] = AsyncPipeline(transport, [ContentDecodePolicy()])
        run = await pipeline.run(kind("GET", it.origin), stream=stream)
    assert run.context.get("deserialized_data") == (None if stream else {"value": 1})
    assert run.http_response.json() == {"value": 1}


# Content codings.


@pytest.mark.parametrize(
    ("coding", "body", "plain"),
    [
        ("gzip", gzip.compress(b"plain", mtime=0), b"plain"),
        ("GZIP", gzip.compress(b"plain", mtime=0), b"plain"),
        ("deflate", zlib.compress(b"plain"), b"plain"),
        ("identity", b"plain", b"plain"),
        ("gzip", b"", b""),
        ("gzip", gzip.compress(bytes(MAX_BYTES), mtime=0), bytes(MAX_BYTES)),
    ],
)
async def test_a_content_coding_is_undone(
    coding: str, body: bytes, plain: bytes, transport: SdkTransport
) -> None:
    sent = await answer(transport, head(f"Content-Encoding: {coding}", length=len(body)) + body)
    assert sent.content == plain


@pytest.mark.parametrize(
    ("coding", "body", "reason"),
    [
        ("br", b"x", "the response has a content coding that was not asked for"),
        ("gzip, gzip", b"x", "the response has a content coding that was not asked for"),
        ("gzip", b"plain", "the response is not coded as it says"),
        ("gzip", gzip.compress(b"plain", mtime=0)[:-1], "the response breaks off within its content coding"),
        ("gzip", gzip.compress(bytes(MAX_BYTES + 1), mtime=0), "the response has more than 4194304 bytes"),
    ],
)
async def test_a_body_that_cannot_be_decoded_is_no_response(
    coding: str, body: bytes, reason: str, transport: SdkTransport
) -> None:
    with pytest.raises(ServiceResponseError) as raised:
        await answer(transport, head(f"content-encoding: {coding}", length=len(body)) + body)
    assert str(raised.value) == reason


async def test_a_body_has_4_mib_at_most_and_the_rest_is_not_waited_for(transport: SdkTransport) -> None:
    assert MAX_BYTES == 4194304
    most = head(length=MAX_BYTES) + bytes(MAX_BYTES)
    assert len((await answer(transport, most)).content) == MAX_BYTES
    more = head(length=MAX_BYTES * 9) + bytes(MAX_BYTES + 1)
    async with peer(answering(more, hang=True)) as it, asyncio.timeout(PATIENCE):
        with pytest.raises(ServiceResponseError, match="more than 4194304 bytes"):
            await transport.send(HttpRequest("GET", it.origin))
        await it.gone.wait()


# Failures.


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (answering(b""), "it closed the connection"),
        (answering(head(length=3) + b"ok"), "it closed the connection"),
        (
            answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n"),
            "it closed the connection",
        ),
        (answering(b"nonsense\r\n\r\n"), "its response is not HTTP/1.1"),
    ],
    ids=["no head", "half a body", "no last chunk", "no HTTP"],
)
async def test_what_breaks_after_the_request_may_have_been_done(
    serve: Serve, reason: str, transport: SdkTransport
) -> None:
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        with pytest.raises(ServiceResponseError) as raised:
            await transport.send(HttpRequest("GET", it.origin + PATH))
    assert type(raised.value) is ServiceResponseError
    assert (str(raised.value), type(raised.value.inner_exception).__name__) == (reason, "RemoteProtocolError")
    assert "apim-sub-" not in "".join(traceback.format_exception(raised.value.inner_exception))


@pytest.mark.parametrize(
    ("url", "headers", "inner"),
    [
        (f"http://127.0.0.1:1{PATH}", {}, "ConnectionRefusedError"),
        (f"http://nowhere.invalid{PATH}", {}, "gaierror"),
        (f"ftp://localhost{PATH}", {}, "LocalProtocolError"),
        (f"http://localhost:port{PATH}", {}, "LocalProtocolError"),
        (f"http://[::{PATH}", {}, "LocalProtocolError"),
        (f"http://localhost{PATH}é", {}, "LocalProtocolError"),
        (f"http://localhost{PATH} x", {}, "LocalProtocolError"),
        (f"http://localhost{PATH}", {"x": "a\r\nb: c"}, "LocalProtocolError"),
        (f"http://localhost{PATH}", {"x": "\u20ac"}, "LocalProtocolError"),
    ],
)
async def test_where_nothing_was_sent_the_error_says_so(
    url: str, headers: dict[str, str], inner: str, transport: SdkTransport
) -> None:
    with pytest.raises(ServiceRequestError) as raised:
        await transport.send(HttpRequest("GET", url, headers=headers))
    assert type(raised.value) is ServiceRequestError
    assert type(raised.value.inner_exception).__name__ == inner
    assert "apim-sub-" not in f"{raised.value} {raised.value!r} {raised.value.exc_msg}"


async def test_a_server_that_nobody_vouches_for_gets_no_request() -> None:
    authority, trust = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trust)
    async with (
        peer(answering(GOOD, GOOD), server_side(authority, "127.0.0.1")) as it,
        SdkTransport() as doubting,
        SdkTransport(trust) as trusting,
        asyncio.timeout(PATIENCE),
    ):
        with pytest.raises(ServiceRequestError) as raised:
            await doubting.send(HttpRequest("GET", it.origin))
        assert type(raised.value.inner_exception).__name__ == "SSLCertVerificationError"
        assert (await trusting.send(HttpRequest("GET", it.origin))).text() == "ok"


@pytest.fixture
def trust_read_anew() -> Iterator[None]:
    default_trust.cache_clear()
    yield
    default_trust.cache_clear()


@pytest.mark.usefixtures("trust_read_anew")
async def test_an_authority_of_the_environments_is_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    async with (
        peer(answering(GOOD), server_side(authority, "127.0.0.1")) as it,
        SdkTransport() as trusting,
        asyncio.timeout(PATIENCE),
    ):
        assert (await trusting.send(HttpRequest("GET", it.origin))).text() == "ok"


def failure_of_silence(
    serve: Serve, *, secure: bool = False, after: float, **options: Any
) -> tuple[type[BaseException], str]:
    """What is raised exactly so many seconds after a server has fallen silent."""
    raised: list[BaseException | None] = []

    async def scenario(loop: VirtualLoop) -> None:
        silent = asyncio.Event()

        async def serve_until_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await serve(reader, writer)
            silent.set()
            await reader.read()

        async with peer(serve_until_silent) as it, SdkTransport() as transport:
            url = it.origin.replace("http:", "https:") if secure else it.origin
            asking = asyncio.ensure_future(transport.send(HttpRequest("GET", url), **options))
            try:
                await turns_until(silent.is_set)
                await loop.pass_until(0)
                await loop.pass_until(after - 0.25)
                assert not asking.done()
                await loop.pass_until(after)
                await turns_until(asking.done)
                raised.append(asking.exception())
            finally:
                asking.cancel()

    run_in_virtual_time(scenario)
    failure = raised[0]
    assert failure is not None
    return type(failure), str(failure)


async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...


async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(head(length=3) + b"ok")
    await writer.drain()


def test_each_silence_has_its_time_and_its_error() -> None:
    options: dict[str, Any] = {"connection_timeout": 1.5, "read_timeout": 2.0}
    assert failure_of_silence(nothing, after=2, **options) == (
        ServiceResponseTimeoutError, "no response within 2 s",
    )  # fmt: skip
    assert failure_of_silence(half, after=2, **options) == (
        ServiceResponseTimeoutError, "it sent nothing for 2 s",
    )  # fmt: skip
    assert failure_of_silence(nothing, after=300) == (ServiceResponseTimeoutError, "no response within 300 s")
    assert failure_of_silence(half, after=300) == (ServiceResponseTimeoutError, "it sent nothing for 300 s")


def test_a_connection_has_its_time_and_its_error() -> None:
    short: dict[str, Any] = {"connection_timeout": 1.5, "read_timeout": 2.0}
    for options, after in ((short, 1.5), ({}, 300.0)):
        assert failure_of_silence(nothing, secure=True, after=after, **options) == (
            ServiceRequestTimeoutError,
            f"no connection within {after:g} s",
        )


async def test_whoever_gives_up_leaves_no_request_behind(transport: SdkTransport) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head(length=3) + b"ok")
        asked.set()
        await reader.read()

    asked = asyncio.Event()
    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        asking = asyncio.ensure_future(transport.send(HttpRequest("GET", it.origin)))
        await asked.wait()
        asking.cancel()
        await it.gone.wait()


async def test_no_repr_shows_a_secret_or_its_name(transport: SdkTransport) -> None:
    body = json.dumps({"value": "Zq4Rw8Xn2Vt6Yk0P"}).encode()
    sent = await answer(transport, head("content-type: application/json", length=len(body)) + body)
    for shown in (repr(sent), str(sent), repr(transport)):
        assert "Zq4R" not in shown
        assert "apim-sub-" not in shown


# The way there.


async def test_a_proxy_is_passed_where_the_environment_names_one_for_the_host(
    transport: SdkTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        writer.write(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")

    async with peer(refuse) as proxy, peer(answering(GOOD)) as direct, asyncio.timeout(PATIENCE):
        monkeypatch.setenv("HTTPS_PROXY", proxy.origin)
        monkeypatch.setenv("NO_PROXY", "nowhere.invalid")
        with pytest.raises(ServiceRequestError, match="403 Forbidden") as raised:
            await transport.send(HttpRequest("GET", f"https://v.vault.azure.net{PATH}"))
        assert "apim-sub-" not in str(raised.value)
        with pytest.raises(ServiceRequestError) as excepted:
            await transport.send(HttpRequest("GET", f"https://nowhere.invalid{PATH}"))
        assert type(excepted.value.inner_exception).__name__ == "gaierror"
        # Plain HTTP is for this machine: the identity's endpoint.
        assert (await transport.send(HttpRequest("GET", direct.origin))).text() == "ok"
    assert asked == [b"CONNECT v.vault.azure.net:443 HTTP/1.1"]


async def test_a_managed_identity_gets_its_token_over_plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[bytes] = []
    body = json.dumps(
        {"access_token": "t", "expires_on": "4102444800", "resource": "r", "token_type": "Bearer"}
    )
    response = head("content-type: application/json", length=len(body)) + body.encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(response)

    async with peer(serve) as it, asyncio.timeout(PATIENCE):
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{it.origin}/msi/token")
        monkeypatch.setenv("IDENTITY_HEADER", "h")
        async with ManagedIdentityCredential(transport=SdkTransport()) as credential:
            token = await credential.get_token_info("https://vault.azure.net/.default")
    assert (token.token, token.expires_on) == ("t", 4102444800)
    assert got[0].startswith(b"GET /msi/token?")
    assert b"\r\nx-identity-header: h\r\n" in got[0]


# Opening and closing.


async def test_it_is_made_in_a_thread_and_opened_by_the_first_request() -> None:
    made = await asyncio.to_thread(SdkTransport)
    before, sent = made.is_open, await answer(made, GOOD)
    assert (before, sent.text(), made.is_open) == (False, "ok", True)
    await made.close()


async def test_closing_it_closes_its_connections_and_it_is_not_opened_again() -> None:
    transport = SdkTransport()
    async with peer(answering(GOOD, hang=True)) as it, asyncio.timeout(PATIENCE):
        await transport.send(HttpRequest("GET", it.origin))
        assert not it.gone.is_set()
        await transport.close()
        await it.gone.wait()
        for again in (transport.open(), transport.send(HttpRequest("GET", it.origin))):
            with pytest.raises(ValueError, match="has been closed"):
                await again
    await transport.close()


async def test_one_that_was_never_open_may_be_closed_before(transport: SdkTransport) -> None:
    """As azure-core's own: a chain of credentials closes what it shares more than once."""
    unused = SdkTransport()
    await unused.close()
    assert (await answer(unused, GOOD)).text() == "ok"
    await unused.open()
    await unused.close()
