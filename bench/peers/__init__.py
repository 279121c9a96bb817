"""The shim and those it is measured against: how each is started, and how it is called."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit
from uuid import uuid4

from bench.environments import python_of
from bench.places import BENCH, CACHE, ROOT
from bench.processes import PROXY_CORE, Process, free_port, until_answered

KEY = "5b1c0d6a9e7f4c2d8a3b6e1f0c9d7a52"
FILE_BYTES = 20 * 1024 * 1024

# What the OpenAI SDK for Python sends. No encoding, since one of the peers would compress on the core under test.
SDK_HEADERS = (
    "accept: application/json",
    "accept-encoding: identity",
    "content-type: application/json",
    "user-agent: OpenAI/Python 3.52.0",
    "x-stainless-arch: x64",
    "x-stainless-async: async:asyncio",
    "x-stainless-lang: python",
    "x-stainless-os: Linux",
    "x-stainless-package-version: 3.52.0",
    "x-stainless-retry-count: 0",
    "x-stainless-runtime: CPython",
    "x-stainless-runtime-version: 3.13.0",
)


@dataclass(frozen=True)
class Upstream:
    """Where it listens, in the clear and over TLS 1.3, and the file with the certificate to trust."""

    port: int
    tls_port: int
    certificate: Path


@dataclass(frozen=True)
class Launch:
    """How a process is started. Where `port` is 0, the process prints the URL at which it listens."""

    command: list[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    cores: str = PROXY_CORE
    share: float = 1.0  # of a core


@dataclass(frozen=True)
class Peer:
    """`root` is the path of the OpenAI API; `files` whether files go through it."""

    name: str
    launch: Callable[[Upstream], Launch | None]
    root: str = "/openai/v1"
    authorization: str = f"authorization: Bearer {KEY}"
    extra_headers: tuple[str, ...] = ()
    files: bool = True
    invocation: bool = False

    def headers(self, upstream: Upstream) -> list[str]:
        ports = {"@UPSTREAM@": upstream.port, "@TLS@": upstream.tls_port}
        extra = list(self.extra_headers)
        for name, port in ports.items():
            extra = [header.replace(name, str(port)) for header in extra]
        return [*SDK_HEADERS, self.authorization, *extra]


class Running:
    """A peer that answers."""

    def __init__(
        self, peer: Peer, port: int, upstream: Upstream, process: Process | None, cold_start: float
    ) -> None:
        self.peer = peer
        self.port = port
        self.headers = peer.headers(upstream)
        self.process = process
        self.cold_start = cold_start

    @classmethod
    def start(cls, peer: Peer, upstream: Upstream, log: str = "") -> Self:
        """Raises Failed."""
        launch = peer.launch(upstream)
        if launch is None:
            return cls(peer, upstream.port, upstream, None, 0.0)
        process = Process(
            log or peer.name,
            launch.command,
            launch.environ,
            launch.cores,
            launch.share,
            announces=not launch.port,
        )
        try:
            port = launch.port or urlsplit(process.line()).port or 0
            seconds = until_answered(port, lambda: probe(peer, port, upstream), process)
        except BaseException:
            process.stop()
            raise
        return cls(peer, port, upstream, process, seconds)

    def restart(self, upstream: Upstream) -> None:
        """Raises Failed."""
        self.stop()
        anew = Running.start(self.peer, upstream)
        self.port, self.process = anew.port, anew.process

    def pids(self) -> list[int]:
        return self.process.pids() if self.process else []

    def pause(self) -> None:
        if self.process:
            self.process.pause()

    def resume(self) -> None:
        if self.process:
            self.process.resume()

    def stop(self) -> None:
        if self.process:
            self.process.stop()


CHAT = (
    '{"messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":'
    '"Tell me about the fox and the dog, in one sentence."}],"model":"gpt-4o","temperature":0.7,"max_tokens":64}'
)


def chat_path(peer: Peer) -> str:
    return f"{peer.root}/chat/completions"


def probe(peer: Peer, port: int, upstream: Upstream) -> bytes:
    """A small chat completion as it goes over the wire."""
    lines = [f"POST {chat_path(peer)} HTTP/1.1", f"host: 127.0.0.1:{port}", *peer.headers(upstream)]
    if peer.invocation:
        lines.append(f"x-ms-invocation-id: {uuid4()}")
    lines += ["connection: close", f"content-length: {len(CHAT)}", "", CHAT]
    return "\r\n".join(lines).encode()


def shim(
    name: str = "shim", folder: Path = ROOT, *, tls: bool = False, loop: str = "uvloop", **settings: str
) -> Peer:
    """The app of a checkout, by default this one's, in the real worker runtime."""
    environ = settings or {"LOCAL_SUBSCRIPTION_KEYS": f"bench={KEY}"}

    def launch(upstream: Upstream) -> Launch:
        if not tls:
            return _worker(python_of("shim"), folder, upstream, environ, loop)
        secure = {
            "APIM_BASE_URL": f"https://127.0.0.1:{upstream.tls_port}/openai",
            "SSL_CERT_FILE": str(upstream.certificate),
        }
        return _worker(python_of("shim"), folder, upstream, {**environ, **secure}, loop)

    return Peer(name, launch, invocation=True)


def all_peers(loop: str = "uvloop") -> dict[str, Peer]:
    peers = [
        Peer(
            "direct",
            lambda _: None,
            root="/openai/deployments/gpt-4o",
            authorization=f"api-key: {KEY}",
        ),
        Peer("nginx", partial(_nginx, buffer="4k")),
        Peer("nginx-64k", partial(_nginx, buffer="64k")),
        Peer("nginx+tls", partial(_nginx, buffer="4k", tls=True)),
        Peer("nginx-64k+tls", partial(_nginx, buffer="64k", tls=True)),
        Peer("envoy", _envoy),
        Peer(
            "floor",
            lambda upstream: _worker(python_of("shim"), BENCH / "peers/floor", upstream, loop=loop),
            files=False,
            invocation=True,
        ),
        shim(loop=loop),
        shim("shim+tls", tls=True, loop=loop),
        *(
            Peer(
                name,
                _portkey,
                root="/v1",
                extra_headers=("x-portkey-provider: openai", f"x-portkey-custom-host: {upstream}/v1"),
            )
            for name, upstream in (
                ("portkey", "http://127.0.0.1:@UPSTREAM@"),
                ("portkey+tls", "https://localhost:@TLS@"),
            )
        ),
        Peer(
            "naive",
            lambda upstream: _worker(python_of("naive"), BENCH / "peers/naive", upstream),
            invocation=True,
        ),
        # Their files need settings and a database of their own.
        Peer("litellm", _litellm, root="/v1", files=False),
        Peer("litellm+tls", partial(_litellm, tls=True), root="/v1", files=False),
    ]
    return {peer.name: peer for peer in peers}


def _worker(
    python: Path,
    folder: Path,
    upstream: Upstream,
    settings: Mapping[str, str] | None = None,
    loop: str = "uvloop",
) -> Launch:
    return Launch(
        [str(python), "-P", "-X", "no_debug_ranges", str(BENCH / "functions_worker.py"), str(folder), loop],
        {
            "PYTHONPATH": str(ROOT),
            "APIM_BASE_URL": f"http://127.0.0.1:{upstream.port}/openai",
            **(settings or {}),
        },
    )


def _nginx(upstream: Upstream, *, buffer: str, tls: bool = False) -> Launch:
    port = free_port()
    config = _configured(
        "nginx.conf",
        upstream.tls_port if tls else upstream.port,
        port,
        SCHEME="https" if tls else "http",
        BUFFER=buffer,
        CERTIFICATE=upstream.certificate,
    )
    nginx = "/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else "nginx"
    as_root = ["-g", "user root;"] if os.geteuid() == 0 else []
    return Launch([nginx, "-p", str(config.parent), "-e", "stderr", "-c", str(config), *as_root], port=port)


def _envoy(upstream: Upstream) -> Launch:
    port = free_port()
    config = _configured("envoy.yaml", upstream.port, port)
    envoy = next(
        (CACHE / "envoy").glob("lib/python*/site-packages/envoy/_bin/envoy"), CACHE / "envoy/bin/envoy"
    )
    quiet = ["--log-level", "error", "--disable-hot-restart", "--concurrency", "1"]
    return Launch([str(envoy), "-c", str(config), *quiet], port=port)


def _litellm(upstream: Upstream, *, tls: bool = False) -> Launch:
    port = free_port()
    to, scheme = (upstream.tls_port, "https") if tls else (upstream.port, "http")
    config = _configured("litellm.yaml", to, port, SCHEME=scheme)
    command = [str(CACHE / "litellm/bin/litellm"), "--config", str(config), "--host", "127.0.0.1"]
    environ = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches a list of prices from the internet
        "NO_PROXY": "127.0.0.1,localhost",
        "SSL_CERT_FILE": str(upstream.certificate),
    }
    return Launch(
        [*command, "--port", str(port), "--num_workers", "1", "--telemetry", "False"], environ, port
    )


def _portkey(upstream: Upstream) -> Launch:
    port = free_port()
    script = CACHE / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    environ = {"NODE_ENV": "production", "NODE_EXTRA_CA_CERTS": str(upstream.certificate)}
    return Launch(["node", str(script), f"--port={port}", "--headless"], environ, port)


def _configured(template: str, upstream: int, port: int, **others: object) -> Path:
    """The template with its ports and what else it asks for, in .cache."""
    folder = CACHE / "run" / f"{template.partition('.')[0]}-{port}"
    folder.mkdir(parents=True, exist_ok=True)
    text = (BENCH / "peers" / template).read_text()
    values = {"UPSTREAM": upstream, "PORT": port, "FOLDER": folder, "KEY": KEY, **others}
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    config = folder / template
    config.write_text(text)
    return config
