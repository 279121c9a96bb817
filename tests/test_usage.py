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
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.monitor.query import LogsQueryClient
from typer.testing import CliRunner, Result

from shim.__main__ import app
from shim.cli.usage.query import usage_query
from shim.cli.usage.report import lines_of, short, sparkline
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


def test_tokens_and_ways_of_calling_are_told_apart(analytics: tuple[LogAnalytics, object]) -> None:
    double, opened = analytics
    at = NOW - timedelta(days=1)
    for kind, tokens in (("input", 100.0), ("output", 20.0), ("cached", 7.0), ("reasoning", 5.0)):
        # A failed call's tokens are no second error.
        attributes = call("team-a", gen_ai__token__type=kind, error__type="stream_broken")
        double.workspace.metric(TOKENS, at, tokens, 3, **attributes)
    double.workspace.metric(CALLS, at, 1, 2, **call("team-a", error__type="stream_broken"))
    # Of a day, the last one counts.
    before = at - timedelta(seconds=2)
    double.workspace.metric(TOKENS, before, 0.0, 1, **call("team-a", gen_ai__token__type="input"))
    double.workspace.metric(
        CALLS, NOW - timedelta(days=2), 1, 4, **call("team-a", apim_shim__client="curl/8")
    )
    other = call("team-a", apim_shim__key_header="api-key", apim_shim__dialect="legacy")
    double.workspace.metric(CALLS, NOW - timedelta(days=3), 1, 1, **other)
    # What else is measured is no usage.
    double.workspace.metric("apim_shim.vault.duration", NOW, 1, 1, **call("team-b"))
    [line] = json.loads(usage(opened, "--json").stdout)
    assert line == {
        "label": "team-a", "calls": 7, "errors": 2, "input": 100, "output": 20, "cached": 7, "reasoning": 5,
        "last_call": f"{at:%Y-%m-%dT%H:%M:%SZ}", "clients": ["curl/8", "openai-python/3"],
        "key_headers": ["api-key", "bearer"], "dialects": ["legacy", "v1"],
    }  # fmt: skip


def test_thirty_days_are_asked_for_unless_said_otherwise_and_two_years_at_most(
    analytics: tuple[LogAnalytics, object],
) -> None:
    double, opened = analytics
    for days in (29, 31):
        double.workspace.metric(CALLS, NOW - timedelta(days=days), 1, days, **call("team-a"))
    assert json.loads(usage(opened, "--json").stdout)[0]["calls"] == 29
    assert json.loads(usage(opened, "--json", "--days", "730").stdout)[0]["calls"] == 60
    assert [usage(opened, "--days", days).exit_code for days in ("0", "731")] == [2, 2]


def test_fewer_days_and_one_label_are_asked_for(analytics: tuple[LogAnalytics, object]) -> None:
    double, opened = analytics
    fill(double.workspace)
    double.workspace.metric(CALLS, NOW, 1, 5, **call("team-a2"))
    [line] = json.loads(usage(opened, "--json", "--days", "10", "--label", "team-a").stdout)
    assert line["calls"] == 107
    assert json.loads(usage(opened, "--json", "--label", 'x" or true or "').stdout) == []
    double.workspace.metric(CALLS, NOW, 1, 3, **call('Équipe "C"\\'))
    [named] = json.loads(usage(opened, "--json", "--label", 'Équipe "C"\\').stdout)
    assert named["calls"] == 3
    for label in ("a\nb", "a\x7f"):
        refused = usage(opened, "--label", label)
        assert (refused.exit_code, refused.stderr) == (1, "Error: a label has no control characters\n")


def test_calls_are_added_up_by_the_hour_for_two_days_and_by_the_day_for_more() -> None:
    assert "bin(TimeGenerated, 1h)" in usage_query(2)
    assert "TimeGenerated > ago(2d)" in usage_query(2)
    assert "bin(TimeGenerated, 1d)" in usage_query(3)


def test_of_many_clients_some_are_named() -> None:
    # The double's sets have no bound.
    for words in ("make_set(client, 20)", "make_set(key_header, 4)", "make_set(dialect, 4)"):
        assert words in usage_query(30)


@pytest.mark.parametrize("empty", [None, "", "[]", []])
def test_what_log_analytics_leaves_empty_is_nothing(empty: Any) -> None:
    row: dict[str, Any] = dict.fromkeys(("calls", "errors", "input", "output", "cached", "reasoning"))
    row |= {
        "label": "",
        "clients": empty,
        "key_headers": empty,
        "dialects": empty,
        "last_call": NOW,
        "at": NOW,
    }
    [line] = lines_of([row])
    assert line.described() == {
        "label": "(no good key)", "calls": 0, "errors": 0, "input": 0, "output": 0, "cached": 0, "reasoning": 0,
        "last_call": f"{NOW:%Y-%m-%dT%H:%M:%SZ}", "clients": [], "key_headers": [], "dialects": [],
    }  # fmt: skip


def test_rows_of_a_label_make_one_line_with_its_last_call_and_the_busiest_come_first() -> None:
    def row(label: str, calls: float, days: int, clients: str = '["a", ""]') -> dict[str, Any]:
        counted = dict.fromkeys(("calls", "errors", "input", "output", "cached", "reasoning"), calls)
        at = datetime(2026, 1, 15, tzinfo=timezone(timedelta(hours=9))) - timedelta(days=days)
        named = {"clients": clients, "key_headers": ["bearer"], "dialects": ["v1"]}
        return {"label": label, "last_call": at, "at": at, **counted, **named}

    found = lines_of(
        [
            row("b", 1.0, 0),
            row("b", 1.9999999, 1, '["z"]'),
            row("b", 4.0, 1),
            row("c", 7.0, 0),
            row("a", 7.0, 0),
        ]
    )
    assert [line.label for line in found] == ["a", "b", "c"]
    assert list(found[1].at.values()) == [1, 6]
    assert found[1].described() == {
        "label": "b", "calls": 7, "errors": 7, "input": 7, "output": 7, "cached": 7, "reasoning": 7,
        # In UTC, wherever the workspace is.
        "last_call": "2026-01-14T15:00:00Z", "clients": ["a", "z"], "key_headers": ["bearer"], "dialects": ["v1"],
    }  # fmt: skip


def test_csv_is_for_spreadsheets_and_starts_no_formula(analytics: tuple[LogAnalytics, object]) -> None:
    double, opened = analytics
    fill(double.workspace)
    for first in "+-@":
        double.workspace.metric(
            CALLS, NOW - timedelta(days=3), 1, 1, **call(f"{first}1", apim_shim__dialect="legacy")
        )
    double.workspace.metric(CALLS, NOW - timedelta(days=3), 1, 1, **call("+1", apim_shim__client="curl/8"))
    said = usage(opened, "--csv").stdout
    assert said.splitlines()[:2] == [
        "label,calls,errors,input,output,cached,reasoning,last_call,clients,key_headers,dialects",
        f"team-a,112,0,4480,1120,0,0,{NOW - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ},openai-python/3,bearer,v1",
    ]
    rows = list(csv.DictReader(io.StringIO(said)))
    assert [(row["label"], row["calls"]) for row in rows] == [
        ("team-a", "112"), ("(no good key)", "3"), ("'+1", "2"), ("'=team-b", "2"), ("'-1", "1"), ("'@1", "1"),
    ]  # fmt: skip
    assert (rows[2]["clients"], rows[2]["dialects"]) == ("curl/8 openai-python/3", "legacy v1")


def test_the_table_has_a_column_for_each_and_a_line_for_every_client(
    analytics: tuple[LogAnalytics, object],
) -> None:
    double, opened = analytics
    at = NOW - timedelta(days=1)
    double.workspace.metric(CALLS, at, 1, 1200, **call("team-a", apim_shim__client="openai-python/3"))
    double.workspace.metric(CALLS, at, 1, 3, **call("team-a", apim_shim__client="curl/8", error__type="429"))
    double.workspace.metric(TOKENS, at, 45_600, 9, **call("team-a", gen_ai__token__type="input"))
    double.workspace.metric(TOKENS, at, 789, 9, **call("team-a", gen_ai__token__type="output"))
    heading, _, first, second, third = usage(opened, "--days", "10").stdout.strip().splitlines()
    assert heading.split() == ["label", "calls", "err.", "in/out", "last", "clients", "10", "days"]
    assert first.split() == ["team-a", "1.2k", "3", "45.6k/789", f"{at:%m-%d}", "curl/8", "█"]
    assert (second.split(), third.split()) == (["openai-python/3"], ["bearer", "v1"])


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
        (
            (403, "InsufficientAccessError"),
            "the role 'Log Analytics Reader' on the workspace is missing: whoever owns it grants it with"
            ' \'az role assignment create --assignee <you> --role "Log Analytics Reader"'
            " --scope <resource id of the workspace>'",
        ),
        (
            (404, "NotFound"),
            "there is no workspace of this id: 'azd env get-value LOG_ANALYTICS_WORKSPACE_ID' shows it",
        ),
        (
            (400, "PathNotFoundError"),
            "there is no workspace of this id: 'azd env get-value LOG_ANALYTICS_WORKSPACE_ID' shows it",
        ),
        (
            (400, "BadArgumentError"),
            "the workspace has no metrics yet: they appear some minutes after the first calls",
        ),
        ((401, "InvalidTokenError"), "no token could be had: sign in with 'az login', and try again"),
        (
            (500, "InternalServerError"),
            "Log Analytics answered 500 InternalServerError: try again in a while",
        ),
    ],
)
def test_a_refusal_says_what_to_do(
    analytics: tuple[LogAnalytics, object], refusal: tuple[int, str], words: str
) -> None:
    double, opened = analytics
    double.refusal = refusal
    done = usage(opened)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"Error: {words}\n")


def test_a_part_of_the_answer_is_none(analytics: tuple[LogAnalytics, object]) -> None:
    double, opened = analytics
    fill(double.workspace)
    double.is_partial = True
    done = usage(opened, "--json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "Error: Log Analytics gave a part of the answer only: ask for fewer --days\n"


class SignedIn:
    """The login of whoever types the command, which may have none."""

    def __init__(self, *, has_token: bool) -> None:
        self._has_token = has_token

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        if not self._has_token:
            raise ClientAuthenticationError("DefaultAzureCredential failed to retrieve a token")
        return AccessToken("a-token", 4_000_000_000)


@pytest.mark.parametrize(
    ("has_token", "words"),
    [
        (False, "no token could be had: sign in with 'az login', and try again"),
        (True, "Log Analytics could not be reached: check the network, and try again"),
    ],
)
def test_whoever_is_not_signed_in_or_has_no_network_is_told_so(has_token: bool, words: str) -> None:
    credential = SignedIn(has_token=has_token)
    with LogsQueryClient(credential, endpoint="https://127.0.0.1:9", retry_total=0) as client:
        done = usage(lambda: client)
    assert (done.exit_code, done.stderr) == (1, f"Error: {words}\n")


def test_without_a_workspace_it_says_how_to_name_one() -> None:
    done = CliRunner().invoke(app, ["usage"], env={"LOG_ANALYTICS_WORKSPACE_ID": ""})
    assert done.exit_code == 2
    assert done.stderr == (
        "Error: say which workspace: give --workspace, or set LOG_ANALYTICS_WORKSPACE_ID"
        " ('azd env get-value LOG_ANALYTICS_WORKSPACE_ID' shows it)\n"
    )


def test_the_workspace_may_be_named_by_the_environment_and_an_option_wins(
    analytics: tuple[LogAnalytics, object],
) -> None:
    double, opened = analytics
    fill(double.workspace)
    named = CliRunner().invoke(app, ["usage"], obj=opened, env={"LOG_ANALYTICS_WORKSPACE_ID": WORKSPACE})
    assert (named.exit_code, "team-a" in named.stdout) == (0, True)
    other = {"LOG_ANALYTICS_WORKSPACE_ID": "33333333-3333-4444-8555-666666666666"}
    assert CliRunner().invoke(app, ["usage"], obj=opened, env=other).exit_code == 1
    given = CliRunner().invoke(app, ["usage", "--workspace", WORKSPACE], obj=opened, env=other)
    assert given.exit_code == 0


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
    monkeypatch.setenv("MODEL_DEPLOYMENTS", "gpt-4o=mine")
    page = call("team-c", apim_shim__client="openai-browser/5", gen_ai__request__model="gpt-4o")
    page |= {"apim_shim__key_header": "api-key"}
    double.workspace.metric(CALLS, NOW - timedelta(days=5), 1, 4, **page)
    double.workspace.metric(CALLS, NOW - timedelta(days=5), 1, 90, apim_shim__client="curl/8")
    told = usage(opened, "--retire", "--days", "10")
    assert told.stderr == "1 of 3 callers can move; 16 % of the calls are theirs.\n"
    assert "v1 paths onto a dated API; browsers (CORS); a model's other name" in told.stdout
    assert [line.split()[:3] for line in told.stdout.splitlines() if "team-" in line or "gone" in line] == [
        ["team-a", "6", "+5"], ["team-c", "4", "+4"], ["team-b", "2", "+2"], ["gone", "0", "-9"]
    ]  # fmt: skip


def test_who_is_left_depends_on_settings_and_on_an_answer(
    analytics: tuple[LogAnalytics, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    double, opened = analytics
    monkeypatch.setenv("APIM_BASE_URL", "")
    without = usage(opened, "--retire")
    assert without.exit_code == 2
    assert without.stderr.startswith("Error: who can move depends on the shim's settings: ")
    assert "APIM_BASE_URL is missing" in without.stderr
    monkeypatch.setenv("APIM_BASE_URL", "https://apim.example/openai")
    monkeypatch.setenv("LOCAL_SUBSCRIPTION_KEYS", "a=key-of-team-a-000000")
    double.refusal = (500, "InternalServerError")
    refused = usage(opened, "--retire")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == "Error: Log Analytics answered 500 InternalServerError: try again in a while\n"


def test_no_calls_are_said_to_be_none(analytics: tuple[LogAnalytics, object]) -> None:
    done = usage(analytics[1])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "No calls in the last 30 days.\n")


def test_a_spark_line_shows_each_part_of_the_time() -> None:
    now = datetime(2026, 1, 15, tzinfo=UTC)
    shown = sparkline({now - timedelta(days=7, hours=1): 1, now - timedelta(hours=1): 8}, 8, now)
    assert shown == "▁      █"
    assert sparkline({}, 8, now) == ""
    rising = {now - timedelta(hours=1 + 3 * n): 8 - n for n in range(8)}
    assert sparkline(rising, 1, now) == "▁▂▃▄▅▆▇█"
    thirds = {now - timedelta(days=1, hours=1): 2, now - timedelta(hours=1): 3}
    assert sparkline(thirds, 8, now) == "      ▆█"
    # A clock that is ahead, and a day that began before the first.
    assert sparkline({now + timedelta(days=3): 1, now - timedelta(days=9): 1}, 8, now) == "█      █"
    halves = {now - timedelta(hours=1): 3, now - timedelta(hours=2): 5, now - timedelta(days=1): 1}
    assert sparkline(halves, 8, now) == "      ▁█"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0"), (999, "999"), (1000, "1.0k"), (12345, "12.3k"), (99_949, "99.9k"), (100_000, "100k"),
        (123_456, "123k"), (1_000_000, "1.0M"), (4_600_000, "4.6M"), (1_000_000_000, "1.0G"), (250_000_000_000, "250G"),
    ],
)  # fmt: skip
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
