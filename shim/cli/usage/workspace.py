"""Asking a Log Analytics workspace, and what its refusals mean to whoever asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from azure.core.exceptions import HttpResponseError
    from azure.monitor.query import LogsQueryClient

_READER = (
    "the role 'Log Analytics Reader' on the workspace is missing: whoever owns it grants it with 'az role assignment"
    ' create --assignee <you> --role "Log Analytics Reader" --scope <resource id of the workspace>\''
)


class WorkspaceError(Exception):
    """The workspace gave no answer; the message says what to do next."""


def open_client() -> LogsQueryClient:
    """With the login of whoever types the command."""
    from azure.identity import DefaultAzureCredential
    from azure.monitor.query import LogsQueryClient

    return LogsQueryClient(DefaultAzureCredential())


def ask(client: LogsQueryClient, workspace: str, query: str, days: int) -> Iterator[Mapping[str, Any]]:
    """The rows, by the names of their columns. Raises WorkspaceError."""
    from azure.core.exceptions import HttpResponseError, ServiceRequestError
    from azure.monitor.query import LogsQueryPartialResult

    try:
        result = client.query_workspace(workspace, query, timespan=timedelta(days=days))
    except HttpResponseError as error:
        raise WorkspaceError(_meaning(error)) from error
    except ServiceRequestError as error:
        raise WorkspaceError(
            "Log Analytics could not be reached: check the network, and try again"
        ) from error
    if isinstance(result, LogsQueryPartialResult):
        raise WorkspaceError("Log Analytics gave a part of the answer only: ask for fewer --days")
    for table in result.tables:
        for row in table.rows:
            yield dict(zip(table.columns, row, strict=True))


def _meaning(error: HttpResponseError) -> str:
    code = error.error.code if error.error else ""
    # Without a status it was the credential that failed: the SDK wraps a ClientAuthenticationError in its base class.
    if error.status_code in (None, 401):
        return "no token could be had: sign in with 'az login', and try again"
    if error.status_code == 403:
        return _READER
    if error.status_code == 404 or code == "PathNotFoundError":
        return "there is no workspace of this id: 'azd env get-value LOG_ANALYTICS_WORKSPACE_ID' shows it"
    if code == "BadArgumentError":
        return "the workspace has no metrics yet: they appear some minutes after the first calls"
    return f"Log Analytics answered {error.status_code} {code}: try again in a while"
