"""What the pretended model says: the same input always gets the same answer."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from devhost.standin.stores import Json, new_id

# Recursive schemas are legal for structured output; below this depth the smallest value is taken.
_DEPTH = 5

_BY_FORMAT = {
    "date": "2025-01-31",
    "time": "12:00:00Z",
    "date-time": "2025-01-31T12:00:00Z",
    "email": "kari@example.com",
    "uuid": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model's wish to have a function called; `arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Said:
    """The last message of a conversation, as text and a number of images."""

    role: str
    text: str
    images: int = 0


def last_said(role: str, content: object) -> Said:
    """A message's content: a text or a list of typed parts, in the chat and the responses API alike."""
    if not isinstance(content, list):
        return Said(role, "" if content is None else str(content))
    parts = [part for part in content if isinstance(part, dict)]
    text = " ".join(str(part["text"]) for part in parts if "text" in part)
    images = sum(part.get("type") in ("image_url", "input_image") for part in parts)
    return Said(role, text, images)


def text_for(said: Said) -> str:
    """A text that quotes what was said."""
    if said.role == "tool":
        return f"The tool answered: {said.text}"
    pictures = f" [{said.images} image{'s' if said.images > 1 else ''}]" if said.images else ""
    return f"You said: {said.text}{pictures}"


def call_of(name: str, parameters: Json | None) -> ToolCall:
    """A call of a function with arguments its parameters allow."""
    arguments = (
        example_of(parameters) if parameters and parameters.get("properties") else {"location": "Oslo"}
    )
    return ToolCall(new_id("call_"), name, json.dumps(arguments))


def json_for(schema: Json) -> str:
    """JSON text that satisfies a simple schema."""
    return json.dumps(example_of(schema))


def words(text: str) -> list[str]:
    """The pieces in which a text is streamed; joined they are the text."""
    return re.findall(r"\s*\S+\s*|\s+", text)


def tokens(text: str) -> int:
    """A plausible token count."""
    return len(text) // 4 + 1


def example_of(schema: Json) -> Any:
    """A value that satisfies a JSON schema made of the parts that structured output allows."""
    return _example(schema, schema, 0)


def _example(schema: Json, root: Json, depth: int) -> Any:
    if "$ref" in schema:
        return _example(_resolve(schema["$ref"], root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return _example(_simplest(options) if depth > _DEPTH else options[0], root, depth + 1)
    return _example_of_type(schema, root, depth)


def _example_of_type(schema: Json, root: Json, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0] if depth <= _DEPTH or "null" not in kind else "null"
    match kind:
        case "object":
            members: Json = schema.get("properties", {})
            return {name: _example(member, root, depth + 1) for name, member in members.items()}
        case "array":
            count = schema.get("minItems", 0 if depth > _DEPTH else 1)
            return [_example(schema.get("items", {}), root, depth + 1) for _ in range(count)]
        case "integer" | "number":
            return schema.get("minimum", schema.get("maximum", 7))
        case "boolean":
            return True
        case "null":
            return None
    return _BY_FORMAT.get(schema.get("format", ""), "Oslo")


def _resolve(reference: str, root: Json) -> Json:
    found: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        found = found[step] if step else found
    return dict(found)


def _simplest(options: Sequence[Json]) -> Json:
    return next((option for option in options if option.get("type") == "null"), options[-1])
