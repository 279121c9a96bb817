"""Reads Bicep files, and computes what they would send to Azure as far as the tests ask for it."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pycep import BicepParser

type Tree = dict[str, Any]

INFRA = Path(__file__).parent.parent.parent / "infra"
FILES = sorted(INFRA.rglob("*.bicep"))


class Unknown(str):
    """What only Azure knows, by the expression that gives it."""

    __slots__ = ()


class File:
    """One Bicep file, parsed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = path.read_text()
        parsed: Tree = {**BicepParser().parse(text=self.text)}
        self.parameters: Tree = parsed.get("parameters", {})
        self.variables: Tree = parsed.get("variables", {})
        self.resources: Tree = {
            name: _unwrapped(resource) for name, resource in parsed.get("resources", {}).items()
        }
        self.modules: Tree = {name: _unwrapped(module) for name, module in parsed.get("modules", {}).items()}
        self.outputs: Tree = parsed.get("outputs", {})

    @classmethod
    @functools.cache
    def named(cls, name: str) -> "File":
        return cls(INFRA / name)

    def each(self, name: str, **given: Any) -> list[Any]:
        """What a resource in a loop is, once for every round."""
        resource = self.resources[name]
        return self._loop({"loop_type": resource["loop"], "config": resource["config"]}, given)

    def of_type(self, type: str) -> list[Tree]:
        """The resources of a type that this file makes, not those it only refers to."""
        return [r for r in self.resources.values() if r["type"] == type and not r["existing"]]

    def value(self, tree: Any, **given: Any) -> Any:
        """The value of an expression where parameters have their defaults or what is `given`.

        The parser tells no reference from a string: what is called like a parameter or a variable is one.
        """
        if isinstance(tree, list):
            return [self.value(item, **given) for item in tree]
        if isinstance(tree, str):
            return self._text(tree, given)
        if not isinstance(tree, dict):
            return tree
        if "loop_type" in tree:
            return self._loop(tree, given)
        if isinstance(tree.get("operator"), dict):  # which else is a property of that name
            return self._operator(tree["operator"]["type"], tree["operator"]["operands"], given)
        if "function" in tree:
            arguments = tree["function"].get("parameters", {}).values()
            return self._function(tree["function"]["type"], list(arguments), given)
        return {self._name(name, given): self.value(item, **given) for name, item in tree.items()}

    def _loop(self, tree: Tree, given: Mapping[str, Any]) -> list[Any]:
        loop = tree["loop_type"]["detail"]
        return [
            self.value(
                tree["config"], **{**given, loop["item_name"]: item, loop.get("index_name", ""): index}
            )
            for index, item in enumerate(self.value(loop["array_name"], **given))
        ]

    def _name(self, name: str, given: Mapping[str, Any]) -> str:
        """A property's name. Where it is quoted, it may hold expressions."""
        return self._interpolated(name.strip("'"), given) if name.startswith("'") else name

    def _text(self, text: str, given: Mapping[str, Any]) -> Any:
        if text in given:
            return given[text]
        if text in self.variables:
            return self.value(self.variables[text]["value"], **given)
        if text in self.parameters:
            default = self.parameters[text]["default"]
            return Unknown(text) if default is None else self.value(default, **given)
        return self._interpolated(text, given)

    def _interpolated(self, text: str, given: Mapping[str, Any]) -> str:
        return re.sub(r"\$\{([^}]+)\}", lambda match: str(self._reference(match[1], given)), text)

    def _reference(self, text: str, given: Mapping[str, Any]) -> Any:
        """`name`, or `name.property` of something that is known."""
        name, _, path = text.partition(".")
        owner = self._text(name, given)
        return owner[path] if path and isinstance(owner, dict) else self._text(text, given)

    def _operator(self, type: str, operands: Tree, given: Mapping[str, Any]) -> Any:
        if type == "conditional":
            truth = self.value(operands["condition"], **given)
            return self.value(operands["true_value" if truth else "false_value"], **given)
        if type == "property_accessor":
            owner, path = self.value(operands["operand_1"], **given), _path(operands["operand_2"])
            return owner[path] if isinstance(owner, dict) else Unknown(f"{owner}.{path}")
        values = [self.value(operand, **given) for operand in operands.values()]
        match type, values:
            case "index_accessor", [list(items), int(index)]:
                return items[index]
            case "equals", [left, right]:
                return left == right
            case "not_equals", [left, right]:
                return left != right
            case "and", _:
                return all(values)
            case "or", _:
                return any(values)
            case "not", [value]:
                return not value
            case "add", [int(left), int(right)]:
                return left + right
            case "multiply", [int(left), int(right)]:
                return left * right
            case "divide", [int(left), int(right)]:
                return left // right
        return Unknown(f"{type}({', '.join(map(str, values))})")

    def _function(self, type: str, arguments: list[Any], given: Mapping[str, Any]) -> Any:
        values = [self.value(argument, **given) for argument in arguments]
        match type, values:
            case "union", _ if all(isinstance(value, dict) for value in values):
                return {name: item for value in values for name, item in value.items()}
            case "string", [value]:
                return str(value)
            case "empty", [value]:
                return not value
            case "max" | "min", _ if all(isinstance(value, int) for value in values):
                return {"max": max, "min": min}[type](values)
            case "replace", [text, old, new]:
                return text.replace(old, new)
            case "split", [text, divider]:
                return text.split(divider)
            case "first", [[item, *_]]:
                return item
            case "last", [[*_, item]]:
                return item
            case "contains", [container, item]:
                return item in container
        return Unknown(f"{type}({', '.join(map(str, values))})")


def _path(operand: Any) -> str:
    """Names after a dot, which are never references."""
    if isinstance(operand, str):
        return operand
    return ".".join(_path(part) for part in operand["operator"]["operands"].values())


def _unwrapped(made: Tree) -> Tree:
    """What is made on a condition or in a loop, without that."""
    config = made["config"]
    while "config" in config:
        made = {
            **made,
            "condition": config.get("condition", made.get("condition")),
            "loop": config.get("loop_type", made.get("loop")),
        }
        config = config["config"]
    return {**made, "config": config}
