"""Rows of usage from Log Analytics, for who is left. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shim.cli.retire.left import UsageRow
from shim.monitoring.clients import IN_PAGE

# What Log Analytics keeps of metrics: https://learn.microsoft.com/azure/azure-monitor/reference/tables/appmetrics.
# Calls without a good key have no label: nobody has to move them.
_QUERY = """AppMetrics
| where TimeGenerated > ago({both}d) and Name == "gen_ai.server.request.duration"
| extend label = tostring(Properties["apim_shim.subscription"]), client = tostring(Properties["apim_shim.client"]),
    key_header = tostring(Properties["apim_shim.key_header"]), dialect = tostring(Properties["apim_shim.dialect"]),
    model = tostring(Properties["gen_ai.request.model"])
| where isnotempty(label)
| summarize calls = sum(ItemCount)
    by label, key_header, dialect, client, model, is_before = TimeGenerated <= ago({days}d)
| order by label asc"""


def left_query(days: int) -> str:
    """Rows of the last `days`, and of as many before, to be asked for with a time span of twice `days`."""
    return _QUERY.format(days=days, both=2 * days)


def rows_of(found: Iterable[Mapping[str, Any]]) -> tuple[list[UsageRow], list[UsageRow]]:
    """The rows of now, and those of before."""
    now: list[UsageRow] = []
    before: list[UsageRow] = []
    for row in found:
        (before if row["is_before"] else now).append(_row_of(row))
    return now, before


def _row_of(row: Mapping[str, Any]) -> UsageRow:
    return UsageRow(
        label=row["label"],
        scheme=row["key_header"],
        dialect=row["dialect"],
        client=row["client"],
        model=row["model"],
        is_page=row["client"].partition("/")[0] in ("browser", IN_PAGE),
        calls=round(row["calls"] or 0),
    )
