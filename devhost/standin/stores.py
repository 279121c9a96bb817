"""The Azure OpenAI resource behind the API: its deployments, and the objects that calls leave in it."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from devhost.standin import azure_openai

DEPLOYMENTS = (
    "gpt-4o",
    "gpt-4o-mini",
    "o3-mini",
    "text-embedding-3-small",
    "whisper",
    "gpt-4o-transcribe",
    "tts",
    "dall-e-3",
)

OBJECTS_KEPT = 1_000
FILES_KEPT = 64
FILE_BYTES_KEPT = 4 * 1024 * 1024

Json = dict[str, Any]


def new_id(prefix: str) -> str:
    """An id as the service makes them: `prefix` and letters nobody can guess."""
    return f"{prefix}{secrets.token_hex(12)}"


class Store[T]:
    """Stored objects of one kind by id; beyond `limit` the oldest goes, so that a long run does not grow."""

    def __init__(self, noun: str, limit: int = OBJECTS_KEPT) -> None:
        self._noun = noun
        self._limit = limit
        self._objects: dict[str, T] = {}

    def put(self, object_id: str, stored: T) -> T:
        """Keep an object, and return it."""
        self._objects[object_id] = stored
        if len(self._objects) > self._limit:
            del self._objects[next(iter(self._objects))]
        return stored

    def get(self, object_id: str) -> T:
        """The object, or Azure OpenAI's 404 as a Refusal."""
        try:
            return self._objects[object_id]
        except KeyError:
            raise azure_openai.object_not_found(self._noun, object_id) from None

    def remove(self, object_id: str) -> T:
        """Forget an object and return it, or raise as `get` does."""
        stored = self.get(object_id)
        del self._objects[object_id]
        return stored

    def newest_first(self) -> list[T]:
        """Every object in the order in which the service lists them."""
        return list(reversed(self._objects.values()))


def page(objects: list[Json]) -> Json:
    """A list answer. There is always one page."""
    return {
        "object": "list",
        "data": objects,
        "first_id": objects[0]["id"] if objects else None,
        "last_id": objects[-1]["id"] if objects else None,
        "has_more": False,
    }


@dataclass(slots=True)
class StoredFile:
    """An uploaded file; `content` is None where it was too large to keep."""

    description: Json
    content: bytes | None


@dataclass(slots=True)
class StoredResponse:
    """A response with the input it answered: what `previous_response_id` and `input_items` go back to."""

    response: Json
    input_items: list[Json]


@dataclass(slots=True)
class Thread:
    """An assistants thread with its messages and runs."""

    description: Json
    messages: Store[Json] = field(default_factory=lambda: Store("message"))
    runs: Store[Json] = field(default_factory=lambda: Store("run"))


@dataclass(slots=True)
class Resource:
    """One Azure OpenAI resource. `chunk_delay` is the pause before each event of a stream, in seconds."""

    deployments: tuple[str, ...] = DEPLOYMENTS
    chunk_delay: float = 0.02
    completions: Store[Json] = field(default_factory=lambda: Store("chat completion"))
    responses: Store[StoredResponse] = field(default_factory=lambda: Store("response"))
    files: Store[StoredFile] = field(default_factory=lambda: Store("File", FILES_KEPT))
    batches: Store[Json] = field(default_factory=lambda: Store("batch"))
    vector_stores: Store[Json] = field(default_factory=lambda: Store("vector store"))
    assistants: Store[Json] = field(default_factory=lambda: Store("assistant"))
    threads: Store[Thread] = field(default_factory=lambda: Store("thread"))

    def require(self, deployment: str) -> str:
        """The deployment's name, or DeploymentNotFound as a Refusal."""
        if deployment not in self.deployments:
            raise azure_openai.deployment_not_found()
        return deployment
