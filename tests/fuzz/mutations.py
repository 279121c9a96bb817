"""What is done to calls: tables of small changes, each of which a client, a proxy or an attacker has made before."""

import gzip
import json
from collections.abc import Callable
from random import Random

from tests.fuzz.calls import CANARY, MODELS, Call, as_chunks

type Mutate = Callable[[Random, Call], None]

_PATH_PIECES = (
    b"//", b"/../", b"/./", b"/..%2f", b"/%2e%2e/", b"/%252e%252e/", b"/..%3f/", b"/..;/", b"\\..\\", b"%00",
    b"%zz", b"%",
    b"%C3%A5", b"%ff", b"%c0%ae", b"#x", b"?", b"//evil.example/", b"@evil.example", b"%0d%0aapi-key:%20x", b"%20",
    b"\xc3\xa5", b"\xff", b"{}", b"|", b"/" * 50, b"a" * 7000,
)  # fmt: skip
_PARAMETERS = (
    b"api-version=", b"api-version=2024-06-01", b"API-Version=preview",
    b"api-version=2025-03-01-preview&api-version=x",
    b"code=" + CANARY.encode(), b"subscription-key=" + CANARY.encode(),
    b"subscription%2dkey=" + CANARY.encode(), b"subscription%252dkey=" + CANARY.encode(),
    b"&&&", b"=", b"a=%", b"a=%00", b"a=b;c=d", b"a=\xff", b"a=" + b"b" * 5000,
)  # fmt: skip
_TARGETS = (
    b"*", b"http://shim.example.com/v1/models", b"http://evil.example/v1/models", b"evil.example:443",
    b"v1/models", b"",
    b"/", b"/v1", b"/openai", b"/openai/v1", b"//v1/models", b"/openai/v1//evil.example/x", b"/admin/host/status",
    b"?",
)  # fmt: skip
_METHODS = (
    b"get",
    b"TRACE",
    b"CONNECT",
    b"PRI",
    b"M-SEARCH",
    b"G\x00T",
    b"A" * 1000,
    b"",
    b"OPTIONS",
    b"HEAD",
    b"QUERY",
)
_VERSIONS = (b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/1.1 ", b"http/1.1", b"HTTP/11", b"")
_HEADERS = (
    b"connection: close", b"connection: keep-alive, api-key, authorization, content-length", b"connection: upgrade",
    b"upgrade: websocket", b"upgrade: h2c", b"te: trailers", b"trailer: x", b"keep-alive: timeout=1",
    b"expect: 100-continue",
    b"expect: 200-maybe", b"proxy-authorization: Basic " + CANARY.encode(), b"cookie: a=" + CANARY.encode(),
    b"x-user-authorization: Bearer " + CANARY.encode(), b"x-functions-key: " + CANARY.encode(),
    b"ocp-apim-subscription-key: " + CANARY.encode(), b"x-forwarded-for: 1.2.3.4",
    b"x-http-method-override: DELETE",
    b"x-original-url: /admin", b"x-rewrite-url: /admin", b"forwarded: for=1.2.3.4", b"x-request-id: \x7f\xff",
    b"x-request-id: " + b"r" * 300, b"origin: null", b"origin: https://evil.example", b"origin: \xff",
    b"access-control-request-method: POST", b"access-control-request-headers: x-a, \xff,,", b"range: bytes=0-1",
    b"if-none-match: *", b"accept-encoding: br;q=1.0, *;q=0", b"x-empty:", b"x-long: " + b"l" * 20_000,
    b"x-obs: \xe5\xe4",
    b"x-tab:\ta\tb\t", b"content-encoding: gzip", b"content-type: text/plain", b"content-type: multipart/form-data",
    b"content-type: application/json; charset=utf-16", b"openai-organization: o", b"x-ms-client-principal: e30=",
)  # fmt: skip
# Lines that no parser may take for anything.
_BROKEN_LINES = (
    b"no colon", b": no name", b"x y: space in the name", b"x-a : space before the colon", b" folded",
    b"x-nul: a\0b",
    b"x-cr: a\rb", b"x-lf: a\nb: c", b"x-\xff: name", b"x-ctl: \x01\x1b[31m",
    b"x-smuggled: a\r\n\r\nGET /v1/models HTTP/1.1",
)  # fmt: skip
_CREDENTIALS = (
    b"authorization: bearer ", b"authorization: Bearer  ", b"authorization: Basic ", b"authorization: ",
    b"Authorization:Bearer ",
    b"api-key: ", b"api-key: Bearer ", b"authorization: Bearer \xff", b"api-key: \xc3\xa5",
    b"authorization: Bearer a b ",
    b"authorization: Bearer eyJhbGciOiJub25lIn0.", b"api-key: " + b"k" * 600,
)  # fmt: skip
# Framing lines, and what then follows the head.
_FRAMINGS: tuple[tuple[list[bytes], bytes | None], ...] = (
    ([b"content-length: 3", b"content-length: 4"], None),
    ([b"content-length: 3", b"content-length: 3"], b"abc"),
    ([b"content-length: 3, 3"], b"abc"),
    ([b"content-length: +3"], b"abc"),
    ([b"content-length: -1"], b""),
    ([b"content-length: 0x3"], b"abc"),
    ([b"content-length: 99999999999999999999999"], b"abc"),
    ([b"content-length: 200000000"], b"abc"),
    ([b"content-length: 10"], b"abc"),
    ([b"content-length: 0"], None),
    ([b"content-length:"], None),
    ([], None),
    ([b"content-length: 3", b"transfer-encoding: chunked"], b"3\r\nabc\r\n0\r\n\r\n"),
    ([b"transfer-encoding: chunked", b"content-length: 30"],
    b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"),
    ([b"transfer-encoding: chunked", b"transfer-encoding: identity"], b"0\r\n\r\n"),
    ([b"transfer-encoding: xchunked"], b"0\r\n\r\n"),
    ([b"transfer-encoding: gzip, chunked"], b"0\r\n\r\n"),
    ([b"transfer-encoding: chunked, chunked"], b"0\r\n\r\n"),
    ([b"transfer-encoding:\x0bchunked"], b"0\r\n\r\n"),
    ([b"transfer-encoding: chunked"], b"0;ext=\"a\"\r\nx-trailer: y\r\n\r\n"),
    ([b"transfer-encoding: chunked"], b"3;a=b;c\r\nabc\r\n0\r\napi-key: x\r\n\r\n"),
    ([b"transfer-encoding: chunked"], b"3 \r\nabc\r\n0\r\n\r\n"),
    ([b"transfer-encoding: chunked"], b"-3\r\nabc\r\n0\r\n\r\n"),
    ([b"transfer-encoding: chunked"], b"ffffffffffffffffff\r\nabc"),
    ([b"transfer-encoding: chunked"], b"zz\r\nabc"),
    ([b"transfer-encoding: chunked"], b"3\nabc\n0\n\n"),
    ([b"transfer-encoding: chunked"], b"3\r\nabcd\r\n0\r\n\r\n"),
    ([b"transfer-encoding: chunked"], b"3\r\nabc\r\n"),
    ([b"transfer-encoding: chunked"], b"\r\n"),
    ([b"transfer-encoding: chunked"], b"0\r\n" + b"x-trailer: y\r\n" * 2000 + b"\r\n"),
    ([b"transfer-encoding: chunked"], b"1;" + b"e" * 20_000 + b"\r\na\r\n0\r\n\r\n"),
)  # fmt: skip
_JSON_BODIES = (
    b"", b"null", b"[]", b"{}", b"1", b'"', b"{", b'{"model":', b'{"model"}', b'{"model":null}', b'{"model":1}',
    b'{"model":""}',
    b'{"model":"\\ud800"}', b'{"model":"\\u0000"}', b'{"model":"a\nb"}', b'{"model":"../.."}',
    b'{"model":"\xff"}', b"\xef\xbb\xbf{}",
    b'{"model":"gpt-4o","model":"gpt-5"}', b'{"mod\\u0065l":"gpt-5"}', b'{"model":{"model":"gpt-5"}}',
    b"[" * 20_000,
    b'{"a":' * 20_000, b'{"messages":[' + b"1," * 30_000 + b'1],"model":"gpt-4o"}', b'{"model":"gpt-4o"}trailing',
    b'{"a":1e999999,"model":"gpt-4o"}', b'{"a":NaN,"model":"gpt-4o"}', b" " * 50_000 + b'{"model":"gpt-4o"}',
    b'{"model":"' + b"m" * 9000,
    b'{"model":"gpt-4o"}'.decode().encode("utf-16"), b"x" * 300_000, b'{"stream":true,"model":"gpt-4o"}',
)  # fmt: skip
_FORM_CHANGES: tuple[tuple[bytes, bytes], ...] = (
    (b"--\r\n", b"\r\n"), (b"--\r\n", b""), (b"\r\n", b"\n"), (b'name="model"', b"name=model"), (b'name="model"',
    b'name="model'),
    (b'name="model"', b'name="mod\xffel"'), (b'name="file"', b'name="model"'), (b"form-data", b"attachment"),
    (b"content-disposition", b"x"),
    (b"\r\n\r\n", b"\r\n"), (b"\r\n\r\n", b"\r\nx: " + b"y" * 20_000 + b"\r\n\r\n"), (b"--b", b"--c"), (b"gpt",
    b"\x00\xff"),
    (b"audio/wav\r\n", b"audio/wav\r\ncontent-transfer-encoding: base64\r\n"),
)  # fmt: skip


def _insert(content: bytes, at: int, piece: bytes) -> bytes:
    return content[:at] + piece + content[at:]


def _path(rng: Random, call: Call) -> None:
    call.target = _insert(
        call.target, rng.randint(1, max(1, call.target.find(b"?"))), rng.choice(_PATH_PIECES)
    )


def _encode_path(rng: Random, call: Call) -> None:
    at = rng.randrange(len(call.target))
    encoded = b"%%%02x" % call.target[at]
    call.target = (
        call.target[:at] + rng.choice([encoded, encoded.replace(b"%", b"%25")]) + call.target[at + 1 :]
    )


def _parameter(rng: Random, call: Call) -> None:
    call.target += b"&" + rng.choice(_PARAMETERS)


def _target(rng: Random, call: Call) -> None:
    call.target = rng.choice(_TARGETS)


def _method(rng: Random, call: Call) -> None:
    call.method, call.framed = rng.choice(_METHODS), False


def _version(rng: Random, call: Call) -> None:
    call.version, call.framed = rng.choice(_VERSIONS), False


def _header(rng: Random, call: Call) -> None:
    added = rng.choice(_HEADERS)
    # Some of these change how a message or its response ends.
    call.framed &= not added.startswith((b"connection", b"upgrade", b"expect"))
    call.headers.insert(rng.randint(0, len(call.headers)), added)


def _repeat_header(rng: Random, call: Call) -> None:
    call.headers += rng.choices(call.headers or [b"x-a: b"], k=rng.choice([1, 2, 90]))


def _drop_header(rng: Random, call: Call) -> None:
    del call.headers[rng.randrange(len(call.headers))]


def _broken_line(rng: Random, call: Call) -> None:
    call.headers.insert(rng.randint(0, len(call.headers)), rng.choice(_BROKEN_LINES))
    call.framed = False


def _credential(rng: Random, call: Call) -> None:
    call.headers[0] = rng.choice(_CREDENTIALS) + CANARY.encode() + b"%x" % rng.getrandbits(80)
    if rng.random() < 0.2:
        call.headers.append(b"api-key: " + CANARY.encode())


def _framing(rng: Random, call: Call) -> None:
    call.framing, call.encoded = rng.choice(_FRAMINGS)
    call.framed = False


def _second_request(rng: Random, call: Call) -> None:
    call.encoded = call.render()[len(call.head()) :] + b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"


def _json(rng: Random, call: Call) -> None:
    _replace_body(call, rng.choice(_JSON_BODIES))


def _json_value(rng: Random, call: Call) -> None:
    value: object = rng.choice([None, 1, [], {}, True, 1e308, *MODELS, "m" * 5000])
    _replace_body(call, json.dumps({rng.choice(["model", "stream", "messages"]): value}).encode())


def _form(rng: Random, call: Call) -> None:
    _replace_body(call, call.body.replace(*rng.choice(_FORM_CHANGES), rng.choice([1, -1])))


def _compressed(rng: Random, call: Call) -> None:
    call.headers.append(b"content-encoding: gzip")
    _replace_body(call, gzip.compress(call.body, mtime=0))


def _truncated(rng: Random, call: Call) -> None:
    _replace_body(call, call.body[: rng.randint(0, len(call.body))])


def _flipped(rng: Random, call: Call) -> None:
    if call.body:
        at = rng.randrange(len(call.body))
        _replace_body(call, call.body[:at] + rng.randbytes(1) + call.body[at + 1 :])


def _replace_body(call: Call, body: bytes) -> None:
    call.body, call.framing, call.encoded = body, None, None


def _chunked(rng: Random, call: Call) -> None:
    as_chunks(rng, call)


def _cut(rng: Random, call: Call) -> None:
    call.cuts = sorted(rng.random() for _ in range(rng.choice([1, 2, 8])))


def _leaves(rng: Random, call: Call) -> None:
    call.leaves, call.framed = rng.choice([0, 0, 0.001, 0.01, 0.03]), False
    call.sends = rng.choice([1, rng.random()])


def _half_closes(rng: Random, call: Call) -> None:
    call.half_closes, call.framed = True, False


MUTATIONS: dict[str, tuple[int, Mutate]] = {
    "path": (4, _path),
    "encoded path": (2, _encode_path),
    "parameter": (3, _parameter),
    "target": (1, _target),
    "method": (1, _method),
    "version": (1, _version),
    "header": (6, _header),
    "repeated header": (1, _repeat_header),
    "dropped header": (1, _drop_header),
    "broken line": (2, _broken_line),
    "credential": (3, _credential),
    "framing": (4, _framing),
    "second request": (1, _second_request),
    "json": (4, _json),
    "json value": (2, _json_value),
    "form": (4, _form),
    "compressed body": (1, _compressed),
    "truncated body": (2, _truncated),
    "flipped byte": (2, _flipped),
    "chunks": (1, _chunked),
    "cuts": (4, _cut),
    "leaves": (3, _leaves),
    "half-closes": (1, _half_closes),
}


def mutate(rng: Random, call: Call, most: int) -> None:
    """Up to `most` changes."""
    weights = [weight for weight, _ in MUTATIONS.values()]
    for name in rng.choices(list(MUTATIONS), weights, k=rng.randint(0, most)):
        try:
            MUTATIONS[name][1](rng, call)
        except (IndexError, ValueError):
            continue  # nothing left for this change to change
        call.mutations.append(name)


def mutate_bytes(rng: Random, content: bytes) -> bytes:
    """Bytes that no table has thought of: some flipped, inserted, deleted or doubled."""
    for _ in range(rng.choice([1, 1, 2, 5])):
        at, size = rng.randint(0, len(content)), rng.choice([1, 1, 2, 20])
        piece = rng.choice(
            [rng.randbytes(size), b"\r\n", b"\0", b" ", b":", b"\xff", content[at : at + size] * 2]
        )
        content = content[:at] + piece + content[at + rng.choice([0, size]) :]
    return content
