"""An error answer that any part of the stand-in may raise."""

import json
from collections.abc import Iterable
from typing import Any

from aiohttp import web


def json_answer(body: object, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> web.Response:
    """A JSON answer, compact and without a charset, as both APIM and Azure OpenAI write it."""
    content = json.dumps(body, separators=(",", ":")).encode()
    response = web.Response(body=content, status=status, content_type="application/json")
    response.headers.extend(headers)
    return response


class Refusal(Exception):
    """An error status with its exact body and headers."""

    def __init__(self, status: int, body: dict[str, Any], headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body
        self.headers = tuple(headers)

    def response(self) -> web.Response:
        """The refusal as an answer; a new one each time, as an aiohttp response serves one request."""
        return json_answer(self.body, self.status, self.headers)
