"""The response to `GET /models` where the APIM API has no such operation, in OpenAI's shape. Pure."""

from urllib.parse import unquote

from shim.errors import encode_json
from shim.settings import Settings

_LIST = "/models"


def from_settings(path: str, settings: Settings) -> bytes | None:
    """The list, or the one model that `path` asks for; None if the settings name none."""
    names = dict.fromkeys([*settings.models, *settings.model_deployments])
    if path == _LIST:
        return encode_json({"object": "list", "data": [_model(name) for name in names]}) if names else None
    root, _, name = path.partition(f"{_LIST}/")
    name = unquote(name)
    return encode_json(_model(name)) if not root and name in names else None


def _model(name: str) -> dict[str, object]:
    # https://platform.openai.com/docs/api-reference/models/object; when it was created is unknown.
    return {"id": name, "object": "model", "created": 0, "owned_by": "azure-openai"}
