"""What Azure's SDKs are told with every client and every call, so that they log and trace no secret."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from azure.core.pipeline import PipelineRequest

# Spans would carry the URL, or an error that quotes the secret's name, and with it the whole digest.
NO_SPAN = {"enabled": False}

# Seconds to connect, and to wait for more of a response.
CONNECT_TIMEOUT = 1.5
READ_TIMEOUT = 2.0


def call_options() -> dict[str, Any]:
    """Options of every call to Key Vault."""
    from azure.core.exceptions import HttpResponseError

    return {
        # No span around the call, which would record an error with its message.
        "tracing_options": NO_SPAN,
        # Otherwise the SDK logs the body of a response that it cannot parse, and a 401 from the vault looks
        # like a failure of the credential.
        "error_map": dict.fromkeys(range(300, 600), HttpResponseError),
        # Of each call: a client's own are for a transport that it makes itself.
        "connection_timeout": CONNECT_TIMEOUT,
        "read_timeout": READ_TIMEOUT,
    }


def suppress_span(request: PipelineRequest[Any]) -> None:
    """A `raw_request_hook`: the tracing policy consumes its option, and a challenged request passes it again."""
    request.context.options["tracing_options"] = NO_SPAN


def silent_logger() -> logging.Logger:
    """A logger outside the hierarchy and disabled, so that no log level can turn it on.

    The SDK's own log lines quote the URL, and with it the whole digest.
    """
    logger = logging.Logger("shim.keys.silent")
    logger.disabled = True
    return logger
