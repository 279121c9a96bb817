"""A stand-in for Log Analytics: its query API over TLS, which runs the KQL that it is sent."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb_kql
import uvloop
from aiohttp import web
from azure.core.credentials import AccessToken
from azure.monitor.query import LogsQueryClient

from devhost.azure.tls import server_tls, write_authority

WORKSPACE = "22222222-3333-4444-8555-666666666666"

# Of the columns that queries here may use, as the tables' reference has them:
# https://learn.microsoft.com/azure/azure-monitor/reference/tables/appmetrics and …/apprequests, …/apptraces
SCHEMA = {
    "AppMetrics": "TimeGenerated TIMESTAMP, Name VARCHAR, Sum DOUBLE, Min DOUBLE, Max DOUBLE, ItemCount INTEGER,"
    " Properties JSON, AppRoleName VARCHAR, AppRoleInstance VARCHAR",
    "AppRequests": "TimeGenerated TIMESTAMP, Name VARCHAR, ResultCode VARCHAR, DurationMs DOUBLE, ItemCount INTEGER,"
    " Success BOOLEAN, Properties JSON",
    "AppTraces": "TimeGenerated TIMESTAMP, Message VARCHAR, SeverityLevel INTEGER, ItemCount INTEGER, Properties JSON",
}
_LONG_AGO = timedelta(days=3650)
_TYPES = {int: "long", float: "real", datetime: "datetime", str: "string"}


class Workspace:
    """Tables with rows of a test's own. Not for several threads at once."""

    def __init__(self) -> None:
        self._tables = duckdb_kql.connect()
        for name, columns in SCHEMA.items():
            self._tables.execute(f"CREATE TABLE every_{name} ({columns})")

    def metric(self, name: str, at: datetime, total: float, count: int = 1, **attributes: str) -> None:
        properties = json.dumps({key.replace("__", "."): value for key, value in attributes.items()})
        self._tables.execute(
            "INSERT INTO every_AppMetrics VALUES (?, ?, ?, ?, ?, ?, ?, 'func-x', 'instance-1')",
            [at.replace(tzinfo=None), name, total, total / count, total / count, count, properties],
        )

    def run(self, query: str, timespan: timedelta = _LONG_AGO) -> tuple[list[str], Sequence[Sequence[Any]]]:
        """Columns and rows, of what is no older than `timespan` whatever the query says.

        Raises duckdb_kql.KqlError for what is not KQL, or names what no table has.
        """
        since = datetime.now(UTC) - timespan
        for name in SCHEMA:
            rows = f"SELECT * FROM every_{name} WHERE TimeGenerated >= TIMESTAMP '{since:%Y-%m-%d %H:%M:%S}'"
            self._tables.execute(f"CREATE OR REPLACE VIEW {name} AS {rows}")
        found = duckdb_kql.kql(self._tables, query)
        return list(found.columns), found.fetchall()


class _Credential:
    def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken("a-token", 4_000_000_000)


class LogAnalytics:
    """`refusal` is a status and an error's code, answered in place of rows; `is_partial` adds an error to them."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.refusal: tuple[int, str] | None = None
        self.is_partial = False

    async def answer(self, request: web.Request) -> web.Response:
        response = await self._response(request)
        response.force_close()  # else TLS's goodbyes would keep the end waiting
        return response

    async def _response(self, request: web.Request) -> web.Response:
        assert request.headers["authorization"] == "Bearer a-token"
        if self.refusal:
            status, code = self.refusal
            return web.json_response({"error": {"code": code, "message": "no"}}, status=status)
        asked = await request.json()
        days = re.fullmatch(r"P(\d+)D|PT([\d.]+)S", asked["timespan"])
        assert days, asked["timespan"]
        timespan = timedelta(days=int(days[1] or 0), seconds=float(days[2] or 0))
        columns, rows = self.workspace.run(asked["query"], timespan)
        kinds = [_TYPES.get(type(next(iter(values), "")), "string") for values in zip(*rows, strict=True)]
        table = {
            "name": "PrimaryResult",
            "columns": [
                {"name": name, "type": kind}
                for name, kind in zip(columns, kinds or ["string"] * len(columns), strict=True)
            ],
            "rows": [
                [f"{cell.isoformat()}Z" if isinstance(cell, datetime) else cell for cell in row]
                for row in rows
            ],
        }
        partial = {"error": {"code": "PartialError", "message": "too much"}} if self.is_partial else {}
        return web.json_response({"tables": [table], **partial})


@contextmanager
def log_analytics(folder: Path) -> Iterator[tuple[LogAnalytics, LogsQueryClient]]:
    """The double, in a thread of its own since the command waits without a loop, and the official client of it."""
    double = LogAnalytics(Workspace())
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post(f"/v1/workspaces/{WORKSPACE}/query", double.answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_tls()).start()
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    authority = folder / "authority.pem"
    write_authority(authority)
    endpoint = f"https://127.0.0.1:{runner.addresses[0][1]}"
    with LogsQueryClient(
        _Credential(), endpoint=endpoint, connection_verify=str(authority), retry_total=0
    ) as client:
        yield double, client
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)
    loop.close()
