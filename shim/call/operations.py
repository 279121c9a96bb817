"""The operations of Azure OpenAI's API, one row each, and where each has the name of its deployment."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

type Place = Literal["path", "body", "nowhere"]


@dataclass(frozen=True, slots=True)
class Operation:
    """A method and a path of the v1 API; `{…}` stands for one segment.

    `deployment` is where the legacy API has the deployment: in its path, as `/deployments/{deployment}<path>`, or in
    the body, as `model`. The v1 API has it in the body always.
    """

    method: str
    path: str
    deployment: Place = "nowhere"
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(re.sub(r"\{\w+\}", "[^/]+", self.path)))


# https://learn.microsoft.com/azure/ai-foundry/openai/reference and …/latest. Where two fit, the first is taken.
# The `model` of a fine-tuning job is a base model, and the models of a batch are in its file: neither is a deployment.
OPERATIONS = (
    Operation("POST", "/chat/completions", "path"),
    Operation("POST", "/completions", "path"),
    Operation("POST", "/embeddings", "path"),
    Operation("POST", "/audio/speech", "path"),
    Operation("POST", "/audio/transcriptions", "path"),
    Operation("POST", "/audio/translations", "path"),
    Operation("POST", "/images/generations", "path"),
    Operation("POST", "/images/edits", "path"),
    # Stored completions are of all deployments.
    Operation("GET", "/chat/completions"),
    Operation("GET", "/chat/completions/{id}"),
    Operation("POST", "/chat/completions/{id}"),
    Operation("DELETE", "/chat/completions/{id}"),
    Operation("GET", "/chat/completions/{id}/messages"),
    Operation("POST", "/responses", "body"),
    Operation("GET", "/responses/{id}"),
    Operation("DELETE", "/responses/{id}"),
    Operation("GET", "/responses/{id}/input_items"),
    Operation("POST", "/responses/{id}/cancel"),
    Operation("GET", "/models"),
    Operation("GET", "/models/{id}"),
    Operation("POST", "/files"),
    Operation("GET", "/files"),
    Operation("POST", "/files/import"),
    Operation("GET", "/files/{id}"),
    Operation("DELETE", "/files/{id}"),
    Operation("GET", "/files/{id}/content"),
    Operation("POST", "/uploads"),
    Operation("POST", "/uploads/{id}/parts"),
    Operation("POST", "/uploads/{id}/complete"),
    Operation("POST", "/uploads/{id}/cancel"),
    Operation("POST", "/batches"),
    Operation("GET", "/batches"),
    Operation("GET", "/batches/{id}"),
    Operation("POST", "/batches/{id}/cancel"),
    Operation("POST", "/assistants", "body"),
    Operation("GET", "/assistants"),
    Operation("GET", "/assistants/{id}"),
    Operation("POST", "/assistants/{id}", "body"),
    Operation("DELETE", "/assistants/{id}"),
    Operation("POST", "/threads"),
    Operation("POST", "/threads/runs", "body"),
    Operation("GET", "/threads/{id}"),
    Operation("POST", "/threads/{id}"),
    Operation("DELETE", "/threads/{id}"),
    Operation("POST", "/threads/{id}/messages"),
    Operation("GET", "/threads/{id}/messages"),
    Operation("GET", "/threads/{id}/messages/{message}"),
    Operation("POST", "/threads/{id}/messages/{message}"),
    Operation("DELETE", "/threads/{id}/messages/{message}"),
    Operation("POST", "/threads/{id}/runs", "body"),
    Operation("GET", "/threads/{id}/runs"),
    Operation("GET", "/threads/{id}/runs/{run}"),
    Operation("POST", "/threads/{id}/runs/{run}"),
    Operation("POST", "/threads/{id}/runs/{run}/cancel"),
    Operation("POST", "/threads/{id}/runs/{run}/submit_tool_outputs"),
    Operation("GET", "/threads/{id}/runs/{run}/steps"),
    Operation("GET", "/threads/{id}/runs/{run}/steps/{step}"),
    Operation("POST", "/vector_stores"),
    Operation("GET", "/vector_stores"),
    Operation("GET", "/vector_stores/{id}"),
    Operation("POST", "/vector_stores/{id}"),
    Operation("DELETE", "/vector_stores/{id}"),
    Operation("POST", "/vector_stores/{id}/search"),
    Operation("POST", "/vector_stores/{id}/files"),
    Operation("GET", "/vector_stores/{id}/files"),
    Operation("GET", "/vector_stores/{id}/files/{file}"),
    Operation("POST", "/vector_stores/{id}/files/{file}"),
    Operation("DELETE", "/vector_stores/{id}/files/{file}"),
    Operation("GET", "/vector_stores/{id}/files/{file}/content"),
    Operation("POST", "/vector_stores/{id}/file_batches"),
    Operation("GET", "/vector_stores/{id}/file_batches/{batch}"),
    Operation("POST", "/vector_stores/{id}/file_batches/{batch}/cancel"),
    Operation("GET", "/vector_stores/{id}/file_batches/{batch}/files"),
    Operation("POST", "/fine_tuning/jobs"),
    Operation("GET", "/fine_tuning/jobs"),
    Operation("GET", "/fine_tuning/jobs/{id}"),
    Operation("POST", "/fine_tuning/jobs/{id}/cancel"),
    Operation("POST", "/fine_tuning/jobs/{id}/pause"),
    Operation("POST", "/fine_tuning/jobs/{id}/resume"),
    Operation("GET", "/fine_tuning/jobs/{id}/events"),
    Operation("GET", "/fine_tuning/jobs/{id}/checkpoints"),
    Operation("POST", "/evals"),
    Operation("GET", "/evals"),
    Operation("GET", "/evals/{id}"),
    Operation("POST", "/evals/{id}"),
    Operation("DELETE", "/evals/{id}"),
    Operation("POST", "/evals/{id}/runs"),
    Operation("GET", "/evals/{id}/runs"),
    Operation("GET", "/evals/{id}/runs/{run}"),
    Operation("POST", "/evals/{id}/runs/{run}"),
    Operation("DELETE", "/evals/{id}/runs/{run}"),
    Operation("GET", "/evals/{id}/runs/{run}/output_items"),
    Operation("GET", "/evals/{id}/runs/{run}/output_items/{item}"),
)


def _key(method: str, path: str) -> tuple[str, str]:
    return method, path.split("/", 2)[1]


_BY_METHOD_AND_ROOT: defaultdict[tuple[str, str], list[Operation]] = defaultdict(list)
for _operation in OPERATIONS:
    _BY_METHOD_AND_ROOT[_key(_operation.method, _operation.path)].append(_operation)


def find(method: str, path: str) -> Operation | None:
    """The operation that `path`, without a trailing slash, asks for."""
    if not path:
        return None
    candidates = _BY_METHOD_AND_ROOT.get(_key(method, path), ())
    return next((operation for operation in candidates if operation.pattern.fullmatch(path)), None)
