"""What Log Analytics says, one line for each label. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 8
NO_LABEL = "(no good key)"


@dataclass(slots=True)
class Line:
    """What calls with one label came to."""

    label: str
    calls: int = 0
    errors: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0
    last_call: datetime | None = None
    clients: set[str] = field(default_factory=set)
    key_headers: set[str] = field(default_factory=set)
    dialects: set[str] = field(default_factory=set)
    at: dict[datetime, int] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        for name in ("calls", "errors", "input", "output", "cached", "reasoning"):
            setattr(self, name, getattr(self, name) + round(row[name] or 0))
        last = row["last_call"]
        self.last_call = last if self.last_call is None else max(self.last_call, last)
        for name in ("clients", "key_headers", "dialects"):
            getattr(self, name).update(filter(None, _items(row[name])))
        self.at[row["at"]] = self.at.get(row["at"], 0) + round(row["calls"] or 0)

    def described(self) -> dict[str, Any]:
        """For programs."""
        names = ("label", "calls", "errors", "input", "output", "cached", "reasoning")
        return {
            **{name: getattr(self, name) for name in names},
            "last_call": self.last_call and f"{self.last_call.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            **{name: sorted(getattr(self, name)) for name in ("clients", "key_headers", "dialects")},
        }


def lines_of(rows: Iterable[Mapping[str, Any]]) -> list[Line]:
    """By label, those with the most calls first."""
    lines: dict[str, Line] = {}
    for row in rows:
        label = row["label"] or NO_LABEL
        lines.setdefault(label, Line(label)).add(row)
    return sorted(lines.values(), key=lambda line: (-line.calls, line.label))


def sparkline(at: Mapping[datetime, int], days: int, now: datetime) -> str:
    """Calls over the last `days`, the oldest first; a gap where there were none."""
    span = timedelta(days=days) / _WIDTH
    counts = [0] * _WIDTH
    for moment, calls in at.items():
        index = _WIDTH - 1 - int((now - moment) / span)
        counts[min(max(index, 0), _WIDTH - 1)] += calls
    most = max(counts)
    return "".join(_BARS[(count * 8 - 1) // most] if count else " " for count in counts) if most else ""


def short(count: int) -> str:
    """A number in four characters or five: 950, 12.3k, 4.6M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            value = count / size
            return f"{value:.0f}{unit}" if value >= 100 else f"{value:.1f}{unit}"
    return str(count)


def _items(found: str | Sequence[str] | None) -> Sequence[str]:
    """A set as Log Analytics sends it: JSON within a string."""
    if isinstance(found, str):
        return list(json.loads(found)) if found else []
    return found or []
