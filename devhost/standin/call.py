"""One call to an operation: the request, its record, and the resource it is made on."""

import json
from dataclasses import dataclass

from aiohttp import web

from devhost.standin import azure_openai
from devhost.standin.received import Received
from devhost.standin.stores import Json, Resource


@dataclass(frozen=True, slots=True)
class Call:
    """What an operation is given. `deployment` is the path's, None where the body names the model."""

    request: web.Request
    received: Received
    resource: Resource
    deployment: str | None = None

    async def json(self) -> Json:
        """The body, which must be a JSON object; anything else is a 400."""
        body = await self.received.read_body(self.request)
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise azure_openai.bad_request("We could not parse the JSON body of your request.")
        return document

    def model(self, named: object) -> str:
        """The deployment that answers: the path's, else the one `named` in the body."""
        if self.deployment is not None:
            return self.deployment
        if not isinstance(named, str) or not named:
            raise azure_openai.bad_request("you must provide a model parameter", "model")
        return self.resource.require(named)

    @property
    def path_id(self) -> str:
        """The `{id}` in the path."""
        return self.request.match_info["id"]

    @property
    def chunk_delay(self) -> float:
        """Seconds between a stream's events: the caller's `x-standin-chunk-delay`, else the stand-in's."""
        asked = self.request.headers.get("x-standin-chunk-delay")
        try:
            return self.resource.chunk_delay if asked is None else float(asked)
        except ValueError:
            raise azure_openai.bad_request("x-standin-chunk-delay must be a number of seconds") from None
