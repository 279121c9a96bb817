"""What a call asks for, by a name out of a bounded list. Pure."""

OTHER = "other"

# The operations and collections of OpenAI's APIs; ids and all else below them are left out of names.
# https://learn.microsoft.com/azure/ai-foundry/openai/latest
_FAMILIES = (
    "/chat/completions", "/completions", "/embeddings", "/responses", "/conversations", "/models", "/files", "/uploads",
    "/batches", "/assistants", "/threads/runs", "/threads", "/vector_stores", "/fine_tuning/jobs", "/evals",
    "/containers", "/videos", "/audio/speech", "/audio/transcriptions", "/audio/translations", "/images/generations",
    "/images/edits",
)  # fmt: skip
_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])


def operation_name(method: str, path: str) -> str:
    """`POST /chat/completions`; `GET /files/…` for what is below a collection; `other` for what is in no list."""
    if method in _METHODS:
        for family in _FAMILIES:
            if path.startswith(family):
                below = path[len(family) :]
                if not below:
                    return f"{method} {family}"
                if below.startswith("/"):
                    return f"{method} {family}/…"
    return OTHER
