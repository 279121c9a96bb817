"""What the doctor reports about one thing, for people and for programs."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from shim.keys.text import printable

type Outcome = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`message` is what was seen, `next_step` what to do about it; neither ever holds a key or a token."""

    check: str
    outcome: Outcome
    message: str
    next_step: str = ""

    def __post_init__(self) -> None:
        # They quote responses, which may hold anything.
        for name in ("message", "next_step"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    def __str__(self) -> str:
        line = f"{self.outcome:<8}{self.check}: {self.message}"
        return f"{line}\n        → {self.next_step}" if self.next_step else line


def ok(check: str, message: str) -> Finding:
    return Finding(check, "ok", message)


def warning(check: str, message: str, next_step: str) -> Finding:
    return Finding(check, "warning", message, next_step)


def failed(check: str, message: str, next_step: str) -> Finding:
    return Finding(check, "failed", message, next_step)


def exit_code(findings: Iterable[Finding]) -> int:
    """1 if anything failed, else 0: a warning is for a person to judge."""
    return int(any(finding.outcome == "failed" for finding in findings))


def as_json(findings: list[Finding]) -> str:
    return json.dumps({"ok": not exit_code(findings), "findings": [asdict(f) for f in findings]}, indent=2)
