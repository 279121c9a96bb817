"""`python -m shim usage`, on a double of Log Analytics that runs its KQL; and the KQL of docs and infra.

A query that is only read over looks right until somebody needs its answer.
"""

import csv
import fcntl
import io
import json
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from shim.__main__ import app
from shim.cli.usage.query import usage_query
from shim.cli.usage.report import short, sparkline
from tests.conftest import ROOT
from tests.support.bicep import File
from tests.support.log_analytics import WORKSPACE, LogAnalytics, Workspace, log_analytics

CALLS, TOKENS = "gen_ai.server.request.duration", "gen_ai.client.token.usage"
DOCUMENT = (ROOT / "docs/observability.md").read_text()
NOW = datetime.now(UTC)


@pytest.fixture
def analytics(tmp_path: Path) -> Iterator[tuple[LogAnalytics, object]]:
    with log_analytics(tmp_path) as (double, client):
        yield double, lambda: client


def usage(opened: object, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["usage", "--workspace", WORKSPACE, *arguments], obj=opened)


def call(label: str, **attributes: str) -> dict[str, Any]:
    named = {
        "apim_shim__subscription": label,
        "apim_shim__client": "openai-python/3",
        "apim_shim__key_header": "bearer",
        "apim_shim__dialect": "v1",
    }
    return {**named, **attributes}


def fill(workspace: Workspace) -> None:
    for days, count in ((20, 5), (2, 7), (1, 100)):
        at = NOW - timedelta(days=days)
        workspace.metric(CALLS, at, 1.5 * count, count, **call("team-a"))
        workspace.metric(TOKENS, at, 40.0 * count, count, **call("team-a", gen_ai__token__type="input"))
        workspace.metric(TOKENS, at, 10.0 * count, count, **call("team-a", gen_ai__token__type="output"))
    workspace.metric(CALLS, NOW - timedelta(days=3), 1, 2, **call("=team-b", error__type="429"))
    workspace.metric(
        CALLS, NOW - timedelta(days=1), 1, 3, apim_shim__client="curl/8", error__type="invalid_api_key"
    )


def test_usage_is_added_up_by_label(analytics: tuple[LogAnalytics, object]) -> None:
    double, opened = analytics
    fill(double.workspace)
    done = usage(opened, "--json")
    assert done.exit_code == 0, done.output
    first, second, third = json.loads(done.stdout)
    assert first == {
        "label": "team-a", "calls": 112, "errors": 0, "input": 4480, "output": 1120, "cached": 0, "reasoning": 0,
        "last_call": f"{NOW - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}", "clients": ["openai-python/3"],
        "key_headers": ["bearer"], "dialects": ["v1"],
    }  # fmt: skip
    assert (second["label"], second["calls"], second["errors"]) == ("(no good key)", 3, 3)
    assert (third["label"], third["errors"]) == ("=team-b", 2)


def test_fewer_days_and_one_label_are_asked_for(analytics: tuple[LogAnalytics, object]) -> None:
    double, opened = analytics
    fill(double.workspace)
    [line] = json.loads(usage(opened, "--json", "--days", "10", "--label", "team-a").stdout)
    assert line["calls"] == 107
    assert json.loads(usage(opened, "--json", "--label", 'x" or true or "').stdout) == []
    assert usage(opened, "--label", "a\nb").exit_code == 1


def test_csv_is_for_spreadsheets_and_starts_no_formula(analytics: tuple[LogAnalytics, object]) -> None:
    double, opened = analytics
    fill(double.workspace)
    rows = list(csv.DictReader(io.StringIO(usage(opened, "--csv").stdout)))
    assert [(row["label"], row["calls"]) for row in rows] == [
        ("team-a", "112"), ("(no good key)", "3"), ("'=team-b", "2")
    ]  # fmt: skip


def test_the_table_fits_a_terminal_of_80_columns(analytics: tuple[LogAnalytics, object]) -> None:
    double, opened = analytics
    fill(double.workspace)
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with os.fdopen(writer, "w") as terminal, redirect_stdout(terminal):
        app(["usage", "--workspace", WORKSPACE], standalone_mode=False, obj=opened)
        terminal.flush()
        seen = re.sub(r"\x1b\[[0-9;]*m", "", os.read(reader, 65536).decode())
    os.close(reader)
    lines = seen.splitlines()
    assert all(len(line) <= 80 for line in lines), seen
    [row] = [line for line in lines if "team-a" in line]
    assert "112" in row
    assert "4.5k" in row
    assert "openai-python/3" in row
    assert "█" in row


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((403, "InsufficientAccessError"), "Log Analytics Reader"),
        ((404, "PathNotFoundError"), "no workspace of this id"),
        ((400, "BadArgumentError"), "no metrics yet"),
        ((500, "InternalServerError"), "try again"),
    ],
)
def test_a_refusal_says_what_to_do(
    analytics: tuple[LogAnalytics, object], refusal: tuple[int, str], words: str
) -> None:
    double, opened = analytics
    double.refusal = refusal
    done = usage(opened)
    assert done.exit_code == 1
    assert words in done.stderr
    assert done.stdout == ""


def test_without_a_workspace_it_says_how_to_name_one() -> None:
    done = CliRunner().invoke(app, ["usage"], env={"LOG_ANALYTICS_WORKSPACE_ID": ""})
    assert done.exit_code == 2
    assert "azd env get-value LOG_ANALYTICS_WORKSPACE_ID" in done.stderr


def test_who_is_left_is_told_with_what_each_still_needs(
    analytics: tuple[LogAnalytics, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APIM_BASE_URL", "https://apim.example/openai")
    monkeypatch.setenv("LOCAL_SUBSCRIPTION_KEYS", "a=key-of-team-a-000000")
    double, opened = analytics
    moved = call("team-b", apim_shim__key_header="api-key", apim_shim__dialect="legacy")
    for days, label, calls in (
        (5, call("team-a"), 6),
        (12, call("team-a"), 1),
        (5, moved, 2),
        (12, call("gone"), 9),
    ):
        double.workspace.metric(CALLS, NOW - timedelta(days=days), 1, calls, **label)
    done = usage(opened, "--retire", "--days", "10", "--json")
    assert done.exit_code == 0, done.output
    found = {caller["label"]: caller for caller in json.loads(done.stdout)}
    assert found["team-a"]["needs"] == ["the key as Bearer", "v1 paths onto a dated API"]
    assert (found["team-a"]["calls"], found["team-a"]["change"]) == (6, 5)
    assert (found["team-b"]["needs"], found["gone"]["calls"]) == ([], 0)
    told = usage(opened, "--retire", "--days", "10")
    assert "1 of 2 callers can move; 25 % of the calls are theirs." in told.stderr


def test_no_calls_are_said_to_be_none(analytics: tuple[LogAnalytics, object]) -> None:
    done = usage(analytics[1])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "No calls in the last 30 days.\n")


def test_a_spark_line_shows_each_part_of_the_time() -> None:
    now = datetime(2026, 1, 15, tzinfo=UTC)
    shown = sparkline({now - timedelta(days=7, hours=1): 1, now - timedelta(hours=1): 8}, 8, now)
    assert shown == "▁      █"
    assert sparkline({}, 8, now) == ""


@pytest.mark.parametrize(("count", "shown"), [(0, "0"), (999, "999"), (12345, "12.3k"), (4_600_000, "4.6M")])
def test_numbers_are_short(count: int, shown: str) -> None:
    assert short(count) == shown


def documented() -> list[str]:
    return re.findall(r"```kql\n(.*?)\n```", DOCUMENT, re.DOTALL)


def in_workbook() -> list[str]:
    content = json.loads((ROOT / "infra/workbook.json").read_text())
    return [item["content"]["query"] for item in content["items"] if item["type"] == 3]


def in_alerts() -> list[str]:
    return re.findall(r"query: '(.*)'", (ROOT / "infra/modules/alerts.bicep").read_text())


@pytest.mark.parametrize("query", [*documented(), *in_alerts(), usage_query(30), usage_query(1, "a")])
def test_a_query_runs_on_the_tables_as_they_are(query: str) -> None:
    workspace = Workspace()
    fill(workspace)
    for name in re.findall(r'"(apim_shim\.[\w.]+)"', query):
        workspace.metric(name, NOW - timedelta(minutes=5), 1, **call("team-a"))
    refused = call("", error__type="invalid_api_key", apim_shim__status_class="5xx")
    for _ in range(30):
        workspace.metric(CALLS, NOW - timedelta(minutes=5), 1, 400, **refused)
        workspace.metric("apim_shim.vault.duration", NOW, 1, 1, error__type="key_store_unavailable")
        workspace.metric("gen_ai.server.time_to_first_token", NOW, 30, 1, **call("a"))
        workspace.metric(CALLS, NOW, 1, 1, **call("a"))
    _, rows = workspace.run(query)
    assert rows, query


def test_the_workbook_has_the_tiles_of_the_documentation() -> None:
    assert in_workbook() == documented()
    assert len(documented()) == 8


def test_every_tile_of_the_workbook_follows_the_time_that_is_chosen() -> None:
    content = json.loads((ROOT / "infra/workbook.json").read_text())
    assert content["version"] == "Notebook/1.0"
    (chooser,) = (item["content"] for item in content["items"] if item["type"] == 9)
    (time,) = chooser["parameters"]
    day = 86_400_000
    # 4: a range of time.
    assert (time["name"], time["type"], time["isRequired"]) == ("range", 4, True)
    assert time["value"] == {"durationMs": 7 * day}
    assert [each["durationMs"] for each in time["typeSettings"]["selectableValues"]] == [
        day // 24, day, 7 * day, 30 * day,
    ]  # fmt: skip
    tiles = [item for item in content["items"] if item["type"] == 3]
    for tile in tiles:
        assert tile["content"]["version"] == "KqlItem/1.0"
        assert tile["content"]["timeContextFromParameter"] == "range"
        # Of the workspace, where tables are called AppMetrics.
        assert tile["content"]["queryType"] == 0
        assert tile["content"]["resourceType"] == "microsoft.operationalinsights/workspaces"
        assert tile["content"]["title"] == tile["name"]
    assert {tile["name"]: tile["content"]["visualization"] for tile in tiles} == {
        "Calls by label": "timechart",
        "Errors": "table",
        "Tokens": "table",
        "Latency, and time to the first event": "table",
        "Who still calls, and how": "table",
        "Key lookups": "timechart",
        "Key Vault": "table",
        "Cold starts": "barchart",
    }


FIRST = "gen_ai.server.time_to_first_token"

type Measured = tuple[str, int, float, dict[str, str]]


def ended(calls: int, status: str) -> Measured:
    return CALLS, calls, 1, {"apim_shim__status_class": status}


@pytest.mark.parametrize(
    ("rule", "measured", "fires"),
    [
        ("5xx-rate", [ended(96, "2xx"), ended(4, "5xx")], False),
        ("5xx-rate", [ended(94, "2xx"), ended(6, "5xx")], True),
        ("5xx-rate", [ended(94, "2xx"), ended(6, "4xx")], False),
        ("5xx-rate", [ended(20, "5xx")], False),
        ("vault-failures", [("apim_shim.vault.duration", 6, 1, {"error__type": "forbidden"})], True),
        ("vault-failures", [("apim_shim.vault.duration", 5, 1, {"error__type": "forbidden"})], False),
        ("vault-failures", [("apim_shim.vault.duration", 600, 1, {})], False),
        ("401-storm", [(CALLS, 301, 1, {"error__type": "invalid_api_key"})], True),
        ("401-storm", [(CALLS, 301, 1, {"error__type": "malformed_api_key"})], True),
        ("401-storm", [(CALLS, 301, 1, {"error__type": "missing_api_key"})], True),
        ("401-storm", [(CALLS, 300, 1, {"error__type": "missing_api_key"})], False),
        ("401-storm", [(CALLS, 900, 1, {"error__type": "apim_rate_limited"})], False),
        ("slow-first-event", [(FIRST, 11, 21 * 11, {})], True),
        ("slow-first-event", [(FIRST, 11, 19 * 11, {})], False),
        ("slow-first-event", [(FIRST, 10, 90 * 10, {})], False),
    ],
)  # fmt: skip
def test_an_alert_fires_above_its_bound(rule: str, measured: list[Measured], fires: bool) -> None:
    workspace = Workspace()
    for name, count, total, attributes in measured:
        workspace.metric(name, datetime.now(UTC), total, count, **attributes)
    rules = File.named("modules/alerts.bicep").value("rules")
    (query,) = [each["query"] for each in rules if each["name"] == rule]
    assert bool(workspace.run(query)[1]) is fires
