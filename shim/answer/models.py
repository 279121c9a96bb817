"""What `GET /models` says where the APIM API has no such operation, in OpenAI's shape. Pure."""

import json
from urllib.parse import unquote

from shim.settings import Settings

_LIST = "/models"


def answer(path: str, settings: Settings) -> bytes | None:
    """The list, or the one model that `path` asks for; None where the settings do not know."""
    names = dict.fromkeys([*settings.models, *settings.model_deployments])
    if path == _LIST:
        return _json({"object": "list", "data": [_model(name) for name in names]}) if names else None
    root, _, name = path.partition(f"{_LIST}/")
    name = unquote(name)
    return _json(_model(name)) if not root and name in names else None


def _model(name: str) -> dict[str, object]:
    # https://platform.openai.com/docs/api-reference/models/object; nobody knows when it was created.
    return {"id": name, "object": "model", "created": 0, "owned_by": "azure-openai"}


def _json(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()
