"""One call to an operation: the request, its body, its script, and the resource it is made on."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import web
from multipart import MultipartError, MultipartParser, MultipartPart, parse_options_header

from devhost.standin.received import Received
from devhost.standin.resource import Resource
from devhost.standin.wire import Json, bad_request

RECEIVED = web.RequestKey("received", Received)
SCRIPT = web.RequestKey("script", dict)


@dataclass(frozen=True, slots=True)
class Call:
    """What an operation is given. `deployment` is the path's, None where the body names the model."""

    request: web.Request
    resource: Resource
    deployment: str | None = None

    async def json(self) -> Json:
        """The body, which must be a JSON object; anything else is a 400."""
        body = await self.request[RECEIVED].read_body(self.request)
        with suppress(ValueError):
            if isinstance(document := json.loads(body), dict):
                return document
        raise bad_request("We could not parse the JSON body of your request.")

    async def form(self) -> tuple[Json, list[MultipartPart]]:
        """The fields and the files of a multipart body, or of JSON in its place; a malformed one is a 400."""
        content_type, options = parse_options_header(self.request.headers.get("Content-Type", ""))
        if content_type != "multipart/form-data":
            return await self.json(), []
        body = await self.request[RECEIVED].read_body(self.request)
        limits = {"spool_limit": len(body) + 1, "memory_limit": len(body) + 1}
        try:
            parts = MultipartParser(io.BytesIO(body), options.get("boundary", ""), **limits).parts()
        except MultipartError as error:
            raise bad_request(f"Could not parse multipart form: {error}") from None
        fields = {part.name: part.raw.decode("utf-8", "replace") for part in parts if part.filename is None}
        return fields, [part for part in parts if part.filename is not None]

    def model(self, named: object) -> str:
        """The deployment that answers: the path's, else the one `named` in the body."""
        if self.deployment is not None:
            return self.deployment
        if not isinstance(named, str) or not named:
            raise bad_request("you must provide a model parameter", "model")
        self.resource.get("/models", named)
        return named

    async def stream(self, events: Iterable[bytes]) -> web.StreamResponse:
        """Stream events to the caller, one write each, as slowly and as many as the script says."""
        script = self.request[SCRIPT]
        delay = script.get("chunk_delay", self.resource.chunk_delay)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(self.request)
        for number, event in enumerate(events):
            if number == script.get("cut_after") and self.request.transport is not None:
                self.request.transport.abort()
                break
            if number and delay:
                await asyncio.sleep(delay)
            await response.write(event)
        return response


Operation = Callable[[Call], Awaitable[web.StreamResponse]]
