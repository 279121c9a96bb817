"""A first tier as one would write it in an hour: it moves the key, and answers CORS beside what upstream answers."""

import contextlib
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

_HOP_BY_HOP = ("connection", "content-length", "transfer-encoding")


@contextlib.asynccontextmanager
async def naive_tier(upstream: str) -> AsyncIterator[str]:
    """The URL of a tier in front of `upstream`, running."""
    async with aiohttp.ClientSession() as session:

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            cors = {
                "Access-Control-Allow-Origin": "*",
                "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", ""),
            }
            if request.method == "OPTIONS":
                return web.Response(status=204, headers=cors)
            headers = {
                "api-key": request.headers["Authorization"].removeprefix("Bearer "),
                "content-type": request.content_type,
                "x-standin": request.headers.get("x-standin", "{}"),
            }
            body = await request.read()
            url = upstream + request.path_qs
            async with session.request(request.method, url, headers=headers, data=body) as answer:
                kept = [header for header in answer.headers.items() if header[0].lower() not in _HOP_BY_HOP]
                return web.Response(
                    status=answer.status,
                    body=await answer.read(),
                    headers=CIMultiDict([*kept, *cors.items()]),
                )

        runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}".format(*runner.addresses[0][:2])
        await runner.cleanup()
