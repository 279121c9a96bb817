"""The question to Log Analytics, in KQL. Pure."""

import json
import re

# What Log Analytics keeps of metrics: https://learn.microsoft.com/azure/azure-monitor/reference/tables/appmetrics
_CALLS = "gen_ai.server.request.duration"
_TOKENS = "gen_ai.client.token.usage"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_QUERY = f"""AppMetrics
| where TimeGenerated > ago({{days}}d) and Name in ("{_CALLS}", "{_TOKENS}")
| extend label = tostring(Properties["apim_shim.subscription"]), code = tostring(Properties["error.type"]),
    client = tostring(Properties["apim_shim.client"]), token = tostring(Properties["gen_ai.token.type"]),
    key_header = tostring(Properties["apim_shim.key_header"]), dialect = tostring(Properties["apim_shim.dialect"])
{{filter}}| summarize calls = sumif(ItemCount, Name == "{_CALLS}"),
    errors = sumif(ItemCount, Name == "{_CALLS}" and isnotempty(code)),
    input = sumif(Sum, token == "input"), output = sumif(Sum, token == "output"),
    cached = sumif(Sum, token == "cached"), reasoning = sumif(Sum, token == "reasoning"),
    last_call = max(TimeGenerated), clients = make_set(client, 20),
    key_headers = make_set(key_header, 4), dialects = make_set(dialect, 4)
    by label, at = bin(TimeGenerated, {{step}})
| order by label asc, at asc"""


def usage_query(days: int, label: str | None = None) -> str:
    """Rows by label and day, or by label and hour for two days or less.

    Raises ValueError for a label that no key could have.
    """
    if label is not None and _CONTROL.search(label):
        raise ValueError("a label has no control characters")
    # JSON's quoting is KQL's: https://learn.microsoft.com/kusto/query/scalar-data-types/string
    only = "" if label is None else f"| where label == {json.dumps(label, ensure_ascii=False)}\n"
    return _QUERY.format(days=days, filter=only, step=step_of(days))


def step_of(days: int) -> str:
    return "1h" if days <= 2 else "1d"
