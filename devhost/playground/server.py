"""Serves the playground's files, and asks for it what no page may see: the answer to a preflight."""

from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

_FILES = Path(__file__).parent
_PAGES = {"/": "index.html", "/playground.css": "playground.css", "/playground.mjs": "playground.mjs"}
_HEADERS = {
    "cache-control": "no-store",
    # The page may call anything, for the shim may be anywhere, but runs nothing that is not its own.
    "content-security-policy": "default-src 'self'; connect-src *; img-src data:; base-uri 'none'; form-action 'none'",
}
# What a browser asks for before a page's POST with a key and a JSON body.
_PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}
_PATIENCE = aiohttp.ClientTimeout(total=10)
_LONGEST_BODY = 2_000


class Playground:
    """A running playground; `url` is what to open. No key ever comes here: the page itself calls the shim."""

    def __init__(self, shim_url: str) -> None:
        self._shim_url = shim_url
        app = web.Application()
        for path in _PAGES:
            app.router.add_get(path, _file)
        app.router.add_get("/settings", self._settings)
        app.router.add_post("/preflight", self._preflight)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        self.url = ""

    @classmethod
    async def start(cls, shim_url: str, port: int = 0) -> Self:
        """Listens on 127.0.0.1, at a free port if `port` is taken. `shim_url` is what the form begins with."""
        playground = cls(shim_url)
        await playground._runner.setup()
        try:
            await web.TCPSite(playground._runner, "127.0.0.1", port).start()
        except OSError:
            await web.TCPSite(playground._runner, "127.0.0.1", 0).start()
        playground.url = f"http://localhost:{playground._runner.addresses[0][1]}"
        return playground

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _settings(self, request: web.Request) -> web.Response:
        return web.json_response({"base_url": f"{self._shim_url}/openai/v1"}, headers=_HEADERS)

    async def _preflight(self, request: web.Request) -> web.Response:
        """Sends the preflight that the browser sends for this page, and says how it was answered."""
        origin = request.headers.get("origin", "")
        if origin not in (self.url, self.url.replace("localhost", "127.0.0.1")):
            return web.Response(status=403, text="Only the playground's own page may ask.")
        url = (await request.json())["url"]
        try:
            async with (
                aiohttp.ClientSession(timeout=_PATIENCE) as session,
                session.options(
                    url, headers={"Origin": origin, **_PREFLIGHT}, allow_redirects=False
                ) as answer,
            ):
                return web.json_response(await _described(answer, origin), headers=_HEADERS)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return web.json_response({"origin": origin, "failure": type(error).__name__}, headers=_HEADERS)


async def _file(request: web.Request) -> web.FileResponse:
    return web.FileResponse(_FILES / _PAGES[request.path], headers=_HEADERS)


async def _described(answer: aiohttp.ClientResponse, origin: str) -> dict[str, Any]:
    return {
        "origin": origin,
        "status": answer.status,
        "headers": [[name.lower(), value] for name, value in answer.headers.items()],
        "body": (await answer.content.read(_LONGEST_BODY)).decode(errors="replace"),
    }
