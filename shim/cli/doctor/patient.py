"""What the doctor examines, and the one client that it examines it with."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Self

import httpx

from shim.keys.azure.credential import open_credential
from shim.keys.azure.key_vault import VaultSecrets
from shim.settings import Settings, SettingsError

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncSupportsTokenInfo

# Seconds: for the head of an answer, and for each piece of a stream.
_PATIENCE = 30.0
_CONNECT = 10.0
_MAX_ANSWER_BYTES = 64 * 1024
_MAX_WORDS = 200


class NoAnswerError(Exception):
    """Nothing came back, for a reason in words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`seconds` until its head; `at` is this machine's time halfway through the exchange."""

    status: int
    headers: Mapping[str, str]
    text: str
    seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class Patient:
    """The settings, and what the operator said on the command line. `key` must never be shown."""

    settings: Settings
    problems: list[str]
    shim_url: str | None = None
    origin: str | None = None
    model: str | None = None
    key: str | None = field(default=None, repr=False)
    trust: ssl.SSLContext = field(default_factory=ssl.create_default_context)
    open_vault: Callable[[Settings], tuple[AsyncSupportsTokenInfo, VaultSecrets]] = lambda s: open_vault(s)

    @classmethod
    def read(cls, environ: Mapping[str, str], *, base_url: str | None = None, **said: object) -> Self:
        """The patient of an environment. With faulty settings, what can be examined without them still is.

        Raises SettingsError if not even the URL of the APIM API is known.
        """
        environ = {**environ, **({"APIM_BASE_URL": base_url} if base_url else {})}
        try:
            return cls(Settings.from_environment(environ), [], **said)  # type: ignore[arg-type]
        except SettingsError as error:
            return cls(_what_is_left(environ, error), error.problems, **said)  # type: ignore[arg-type]

    def words(self, answer: Answer) -> str:
        """The message of an answer, short, in one line, and without the key."""
        text = " ".join(answer.text.split())
        if self.key:
            text = text.replace(self.key, "<key>")
        return text[:_MAX_WORDS] or "nothing"


def _what_is_left(environ: Mapping[str, str], error: SettingsError) -> Settings:
    """The settings without those that are at fault. Raises `error` if they still do not make sense."""
    faulty = {problem.split()[0].rstrip(":") for problem in error.problems}
    good = {name: value for name, value in environ.items() if name not in faulty}
    if not good.get("KEY_VAULT_URL"):
        good["LOCAL_SUBSCRIPTION_KEYS"] = "nobody=nothing"
    for attempt in (
        good,
        {name: good.get(name, "") for name in ("APIM_BASE_URL", "LOCAL_SUBSCRIPTION_KEYS")},
    ):
        try:
            return Settings.from_environment(attempt)
        except SettingsError:
            continue
    raise error from None


def open_vault(settings: Settings) -> tuple[AsyncSupportsTokenInfo, VaultSecrets]:
    """The vault of the settings, and whose token is shown to it."""
    assert settings.key_vault_url
    credential = open_credential(in_azure=settings.in_azure, client_id=settings.azure_client_id)
    # A token may take longer than a call of the shim would wait for it.
    return credential, VaultSecrets(
        settings.key_vault_url, in_azure=settings.in_azure, credential=credential, budget=_PATIENCE
    )


class Client:
    """Asks, and times the answers. Follows no redirects, keeps no cookies, takes no proxy from the environment."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def ask(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: object = None
    ) -> Answer:
        """Raises NoAnswerError."""
        began, at = time.monotonic(), time.time()
        with _Reasons(url):
            async with self._http.stream(method, url, headers=_encoded(headers), json=body) as response:
                seconds = time.monotonic() - began
                content = await anext(response.aiter_bytes(_MAX_ANSWER_BYTES), b"")
        text = content.decode("utf-8", "replace")
        return Answer(response.status_code, response.headers, text, seconds, at + seconds / 2)

    async def stream(
        self, url: str, *, headers: Mapping[str, str], body: object
    ) -> AsyncIterator[tuple[float, bytes]]:
        """First the status as text, then each piece as it comes, with the seconds since it was asked for.

        Raises NoAnswerError.
        """
        began = time.monotonic()
        with _Reasons(url):
            async with self._http.stream("POST", url, headers=_encoded(headers), json=body) as response:
                yield time.monotonic() - began, str(response.status_code).encode()
                async for piece in response.aiter_bytes():
                    yield time.monotonic() - began, piece


def _encoded(headers: Mapping[str, str] | None) -> httpx.Headers:
    """Left to itself, httpx takes ASCII alone; a key that was pasted wrongly is for APIM to judge."""
    return httpx.Headers(headers, encoding="utf-8")


class _Reasons:
    """Turns what goes wrong underneath into words."""

    def __init__(self, url: str) -> None:
        self._host = url.split("/")[2]

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, httpx.ConnectError) and _is_of_certificate(error):
            raise NoAnswerError(f"the certificate of {self._host} is not trusted here") from None
        if isinstance(error, httpx.TimeoutException):
            raise NoAnswerError(f"{self._host} gave no answer within {_PATIENCE:g} s") from None
        if isinstance(error, httpx.HTTPError | httpx.InvalidURL | OSError | ValueError):
            raise NoAnswerError(f"{self._host} could not be asked ({type(error).__name__})") from None


def _is_of_certificate(error: BaseException | None) -> bool:
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
        timeout=httpx.Timeout(_PATIENCE, connect=_CONNECT),
    ) as http:
        yield Client(http)
