"""The Azure OpenAI resource behind the API: its deployments, and the objects that calls create in it."""

import secrets
from collections.abc import Sequence

from devhost.standin.wire import Json, bad_request, fault

DEPLOYMENTS = (
    "gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-5", "o3-mini", "o4-mini", "text-embedding-3-small",
    "text-embedding-3-large", "whisper", "whisper-1", "gpt-4o-transcribe", "tts", "tts-1", "gpt-4o-mini-tts",
    "dall-e-3", "gpt-image-1", "sora-2",
)  # fmt: skip

OBJECTS_KEPT = 1_000
FILES_KEPT = 64
FILE_BYTES_KEPT = 4 * 1024 * 1024


def new_id(prefix: str) -> str:
    """An id as the service makes them: `prefix` and letters nobody can guess."""
    return f"{prefix}{secrets.token_hex(12)}"


def page(objects: Sequence[Json]) -> Json:
    """A list response. There is always one page."""
    ids = [each["id"] for each in objects] or [None]
    return {"object": "list", "data": objects, "first_id": ids[0], "last_id": ids[-1], "has_more": False}


class Resource:
    """One Azure OpenAI resource. `chunk_delay` is the pause before each event of a stream, in seconds.

    Objects are stored by the path of their collection, such as `/threads/thread_1/messages`, and their id. Of each
    collection the newest 1,000 are kept, and the content of the newest 64 small files.
    """

    def __init__(self, chunk_delay: float = 0.02) -> None:
        self.chunk_delay = chunk_delay
        self.contents: dict[tuple[str, str], bytes] = {}
        self._collections: dict[str, dict[str, Json]] = {}
        model = {"object": "model", "created": 1_700_000_000, "owned_by": "standin"}
        for name in reversed(DEPLOYMENTS):
            self.put("/models", model | {"id": name})

    def put(self, collection: str, stored: Json, content: bytes | None = None) -> Json:
        """Keep an object, and return it."""
        objects = self._collections.setdefault(collection, {})
        objects[stored["id"]] = stored
        if len(objects) > OBJECTS_KEPT:
            self.remove(collection, next(iter(objects)))
        if content is not None and len(content) <= FILE_BYTES_KEPT:
            self.contents[collection, stored["id"]] = content
        if len(self.contents) > FILES_KEPT:
            del self.contents[next(iter(self.contents))]
        return stored

    def get(self, collection: str, object_id: str) -> Json:
        """The object, or Azure OpenAI's 404 as a Refusal."""
        found = self._collections.get(collection, {}).get(object_id)
        if found is not None:
            return found
        if collection == "/models":
            raise fault("aoai_404_deployment")
        raise bad_request(f"No such object: {collection}/{object_id}", "id", 404)

    def remove(self, collection: str, object_id: str) -> None:
        """Forget an object and all below it, or raise as `get` does."""
        self.get(collection, object_id)
        del self._collections[collection][object_id]
        self.contents.pop((collection, object_id), None)
        for path in list(self._collections):
            if path.startswith(f"{collection}/{object_id}/"):
                del self._collections[path]

    def newest_first(self, collection: str) -> list[Json]:
        """Every object of a collection, in the order in which the service lists them."""
        return list(reversed(self._collections.get(collection, {}).values()))
