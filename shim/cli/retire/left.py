"""Who is left: what each caller still needs the shim for, from rows of usage and the shim's settings. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from shim.settings import Settings


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Calls that are alike: the key's label, how and from what it calls, and what for.

    `scheme` is the header that the key came in, as auth.Principal has it; `dialect` that of the paths; `is_page`
    whether a browser said which page calls.
    """

    label: str
    scheme: str
    dialect: str
    client: str
    model: str
    is_page: bool
    calls: int


@dataclass(frozen=True, slots=True)
class Caller:
    """All calls of one label. `needs` says why it cannot do without the shim; empty if it can move today.

    `change` is the number of calls that came or went since the period before, None if that is not known.
    """

    label: str
    calls: int
    clients: tuple[str, ...]
    needs: tuple[str, ...]
    change: int | None = None

    @property
    def can_move(self) -> bool:
        return not self.needs


def _api(row: UsageRow, settings: Settings) -> str:
    deployment = settings.model_deployments.get(row.model, row.model)
    apis = settings.model_apis
    return apis.get(row.model) or apis.get(deployment) or settings.apim_api


# In words that complete "needs the shim for".
_NEEDS: tuple[tuple[str, Callable[[UsageRow, Settings], bool]], ...] = (
    (
        "the key as Bearer",
        lambda row, settings: row.scheme == "bearer" and settings.apim_key_header != "authorization",
    ),
    (
        "v1 paths onto a dated API",
        lambda row, settings: row.dialect == "v1" and _api(row, settings) == "legacy",
    ),
    (
        "dated paths onto a v1 API",
        lambda row, settings: row.dialect == "legacy" and _api(row, settings) == "v1",
    ),
    ("browsers (CORS)", lambda row, _: row.is_page),
    (
        "a model's other name",
        lambda row, settings: (
            row.dialect == "v1" and settings.model_deployments.get(row.model, row.model) != row.model
        ),
    ),
)


def callers(
    rows: Iterable[UsageRow], settings: Settings, *, before: Iterable[UsageRow] | None = None
) -> list[Caller]:
    """Each label once: those with needs first, then by calls. `before` are the rows of an earlier period as long.

    A label that only called then is listed with no calls: it is gone.
    """
    now = _by_label(rows)
    earlier = None if before is None else _by_label(before)
    labels = {**now, **(earlier or {})}
    found = [_caller(label, now.get(label, []), settings, earlier) for label in labels]
    return sorted(found, key=lambda caller: (caller.can_move, -caller.calls, caller.label))


def summary(found: Sequence[Caller]) -> str:
    """One line for the whole."""
    calling = [caller for caller in found if caller.calls]
    if not calling:
        return "Nobody has called: the shim can be deleted."
    movable = [caller for caller in calling if caller.can_move]
    share = 100 * sum(caller.calls for caller in movable) // sum(caller.calls for caller in calling)
    if len(movable) == len(calling):
        return f"All {len(calling)} callers can move."
    return f"{len(movable)} of {len(calling)} callers can move; {share} % of the calls are theirs."


def table(found: Sequence[Caller]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows, for people."""
    columns = ["label", "calls", "change", "clients", "still needs the shim for"]
    return columns, [
        [
            caller.label,
            f"{caller.calls:,}",
            "" if caller.change is None else f"{caller.change:+,}",
            ", ".join(caller.clients),
            "; ".join(caller.needs) if caller.needs else ("nothing" if caller.calls else "nothing: gone"),
        ]
        for caller in found
    ]


def _by_label(rows: Iterable[UsageRow]) -> dict[str, list[UsageRow]]:
    found: dict[str, list[UsageRow]] = {}
    for row in rows:
        found.setdefault(row.label, []).append(row)
    return found


def _caller(
    label: str, rows: list[UsageRow], settings: Settings, earlier: dict[str, list[UsageRow]] | None
) -> Caller:
    calls = sum(row.calls for row in rows)
    return Caller(
        label=label,
        calls=calls,
        clients=tuple(sorted({row.client for row in rows})),
        needs=tuple(need for need, applies in _NEEDS if any(applies(row, settings) for row in rows)),
        change=None if earlier is None else calls - sum(row.calls for row in earlier.get(label, [])),
    )
