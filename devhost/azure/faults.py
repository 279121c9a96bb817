"""Faults of a Key Vault: responses that a test puts in place of the vault's own."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

type Fault = Callable[[web.Request], Awaitable[web.Response]]

# Whom the stand-ins' tokens speak for.
PRINCIPAL = "0f1e2d3c-1111-4222-8333-444455556666"
CLIENT = "9a8b7c6d-aaaa-4bbb-8ccc-ddddeeeeffff"


async def broken_connection(request: web.Request) -> web.Response:
    """Cuts the connection instead of an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def throttled(retry_after: int) -> Fault:
    async def fault(_: web.Request) -> web.Response:
        message = "Request was not processed because too many requests were received."
        return error(429, "Throttled", message, headers={"Retry-After": str(retry_after)})

    return fault


def forbidden(inner: str) -> Fault:
    """A 403 with this inner code. Like the real one's, its message quotes the caller and the secret's name."""

    async def fault(request: web.Request) -> web.Response:
        message = (
            f"Caller is not authorized to perform action on resource.\r\nCaller: appid={CLIENT};oid={PRINCIPAL}"
            "\r\nAction: 'Microsoft.KeyVault/vaults/secrets/getSecret/action'\r\nResource: '/subscriptions/s/"
            f"resourcegroups/g/providers/microsoft.keyvault/vaults/v{request.path}'\r\nAssignment: (not found)"
        )
        return error(403, "Forbidden", message, inner=inner)

    return fault


def failing(status: int, headers: Mapping[str, str] | None = None) -> Fault:
    """A page by something in between, which quotes the URL and claims to be JSON."""

    async def fault(request: web.Request) -> web.Response:
        text = f"<html>cannot {request.method} {request.path}</html>"
        return web.Response(status=status, headers=headers, text=text, content_type="application/json")

    return fault


async def redirecting(request: web.Request) -> web.Response:
    """Sends the client to another vault."""
    return web.Response(status=307, headers={"Location": f"https://elsewhere.vault.azure.net{request.path}"})


async def unauthorized(_: web.Request) -> web.Response:
    """Refuses the token for good, as a vault in another tenant does."""
    return challenge("https://vault.azure.net")


def error(
    status: int, code: str, message: str, *, inner: str | None = None, headers: dict[str, str] | None = None
) -> web.Response:
    content: dict[str, Any] = {"code": code, "message": message}
    if inner is not None:
        content["innererror"] = {"code": inner}
    return web.json_response({"error": content}, status=status, headers=headers)


def challenge(resource: str) -> web.Response:
    tenant = "https://login.windows.net/72f988bf-0000-4000-8000-2d7cd011db47"
    challenge = f'Bearer authorization="{tenant}", resource="{resource}"'
    return error(
        401,
        "Unauthorized",
        "AKV10000: Request is missing a Bearer or PoP token.",
        headers={"WWW-Authenticate": challenge},
    )
