"""What the pretended model says, and how many tokens that takes: the same input always gets the same reply."""

import json
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from devhost.standin.resource import new_id
from devhost.standin.wire import Json

# Recursive schemas are legal for structured output; below this depth the smallest value is taken.
_DEPTH = 5
_BY_FORMAT = {
    "date": "2025-01-31", "time": "12:00:00Z", "date-time": "2025-01-31T12:00:00Z", "email": "kari@example.com",
    "uuid": "3fa85f64-5717-4562-b3fc-2c963f66afa6",
}  # fmt: skip


def reply_to(message: Json, body: Json, functions: Sequence[Json], schema: Json | None) -> str | Json:
    """A call of the first function if a user spoke, else JSON of the schema, else a text that quotes the message."""
    role, content = message.get("role", "user"), message.get("content")
    if functions and role == "user" and body.get("tool_choice") != "none":
        arguments = example_of({"type": "object"} | (functions[0].get("parameters") or {}))
        return {"call_id": new_id("call_"), "name": functions[0]["name"], "arguments": json.dumps(arguments)}
    if schema is not None:
        return json.dumps(example_of(schema))
    return f"The tool answered: {text_of(content)}" if role == "tool" else f"You said: {text_of(content)}"


def text_of(content: object) -> str:
    """A message's content: a text or a list of typed parts, in chat and in the Responses API alike."""
    if not isinstance(content, list):
        return "" if content is None else str(content)
    parts = [part for part in content if isinstance(part, dict)]
    text = " ".join(str(part["text"]) for part in parts if "text" in part)
    images = sum(part.get("type") in ("image_url", "input_image") for part in parts)
    return f"{text} [{images} image{'s' if images > 1 else ''}]" if images else text


def words(text: str) -> list[str]:
    """The pieces in which a text is streamed; joined they are the text."""
    return re.findall(r"\s*\S+\s*|\s+", text)


def tokens(text: str) -> int:
    """A plausible token count."""
    return len(text) // 4 + 1


def usage_of(model: str, asked: object, replies: Sequence[str], names: tuple[str, str]) -> Json:
    """Token counts by the names that an API has for input and output.

    Prompts of 1,024 tokens and more count as cached, in steps of 128. Reasoning takes 64 tokens a reply, or none.
    https://learn.microsoft.com/azure/ai-foundry/openai/how-to/prompt-caching
    """
    count = tokens(json.dumps(asked, ensure_ascii=False))
    reasoning = 64 * len(replies) if re.match(r"o\d|gpt-5", model) else 0
    output = sum(map(tokens, replies)) + reasoning
    return {
        f"{names[0]}_tokens": count,
        f"{names[0]}_tokens_details": {"cached_tokens": count - count % 128 if count >= 1_024 else 0},
        f"{names[1]}_tokens": output,
        f"{names[1]}_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": count + output,
    }


def example_of(schema: Json, root: Json | None = None, depth: int = 0) -> Any:
    """A value that satisfies a JSON schema made of the parts that structured output allows."""
    root = schema if root is None else root
    example = partial(example_of, root=root, depth=depth + 1)
    if reference := schema.get("$ref"):
        found: Any = root
        for step in reference.removeprefix("#").strip("/").split("/"):
            found = found[step] if step else found
        return example(found)
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else schema["enum"][0]
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return example(options[-1] if depth > _DEPTH else options[0])
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind if isinstance(kind, str) else kind[-1 if depth > _DEPTH else 0]:
        case "object":
            return {name: example(member) for name, member in (schema.get("properties") or {}).items()}
        case "array":
            count = schema.get("minItems", 0 if depth > _DEPTH else 1)
            return [example(schema.get("items", {})) for _ in range(count)]
        case "integer" | "number":
            return schema.get("minimum", schema.get("maximum", 7))
        case "boolean" | "null" as constant:
            return True if constant == "boolean" else None
    return _BY_FORMAT.get(schema.get("format", ""), "Oslo")
