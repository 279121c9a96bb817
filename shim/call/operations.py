"""The operations whose `model` is a deployment of Azure OpenAI, and where the legacy API wants its name. Pure.

These are all that a route depends on. Every other operation, known or not, has the same path in the legacy API and in
the v1 API; it is passed on as it came, to the API that the setting APIM_API names, its body unread. So an operation
that Azure adds tomorrow works today, as long as MODEL_DEPLOYMENTS and MODEL_APIS need not apply to it; if they should,
it gets a row here.
"""

import re
from typing import Literal

# In the path, as `/deployments/{deployment}<path>`, or in the body, as `model`. The v1 API has it always in the body.
type DeploymentPlace = Literal["path", "body"]

# Paths of the v1 API, all of them called with POST; `{…}` stands for one segment.
# https://learn.microsoft.com/azure/ai-foundry/openai/reference, https://learn.microsoft.com/azure/ai-foundry/openai/latest
OPERATIONS: dict[str, DeploymentPlace] = {
    "/audio/speech": "path",
    "/audio/transcriptions": "path",
    "/audio/translations": "path",
    "/chat/completions": "path",
    "/completions": "path",
    "/embeddings": "path",
    "/images/edits": "path",
    "/images/generations": "path",
    "/assistants": "body",
    "/assistants/{assistant}": "body",
    "/realtime/calls/{call}/accept": "body",
    "/realtime/sessions": "body",
    "/responses": "body",
    "/responses/compact": "body",
    "/responses/input_tokens": "body",
    "/threads/runs": "body",
    "/threads/{thread}/runs": "body",
    "/videos": "body",
}

_TEMPLATES = {
    re.compile(re.sub(r"\{\w+\}", "[^/]+", path)): place for path, place in OPERATIONS.items() if "{" in path
}


def deployment_place(method: str, path: str) -> DeploymentPlace | None:
    """Where the operation at `path` of the v1 API has its deployment; None if it has none, or a trailing slash."""
    if method != "POST":
        return None
    if path in OPERATIONS:
        return OPERATIONS[path]
    return next((place for template, place in _TEMPLATES.items() if template.fullmatch(path)), None)
