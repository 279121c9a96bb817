"""What the Functions host takes, how long it waits and how often it tries: its own settings and its parts' defaults.

Bytes and seconds. Core Tools run the same host with the same settings (StartHostAction.cs of
Azure/azure-functions-core-tools 4.14 raises Kestrel's body limit to the host's).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Self

_BODY_LIMIT = "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"


@dataclass(frozen=True, slots=True)
class Limits:
    # Kestrel 8: src/Servers/Kestrel/Core/src/KestrelServerLimits.cs and Internal/Infrastructure/Constants.cs of
    # dotnet/aspnetcore. The host changes none of these (WebJobs.Script.WebHost/Program.cs, 4.1037).
    request_line: float = 8 * 1024
    request_headers: float = 32 * 1024
    header_count: float = 100
    #: Bytes per second that a caller must send of a body, and take of a response, once the grace is over.
    minimum_rate: float = 240
    grace: float = 5
    #: What is left of a request's body after its response is read for this long, so that the caller sees the response.
    drain: float = 5

    #: ScriptConstants.DefaultMaxRequestBodySize; HttpRequestBodySizeMiddleware.cs takes another from the environment.
    body: float = 104_857_600

    # SocketsHttpHandler of .NET 8: HttpHandlerDefaults.cs, HttpConnection.cs and HttpConnectionPool.cs of
    # dotnet/runtime (src/libraries/System.Net.Http).
    response_head: float = 64 * 1024
    #: How long a body that was announced by `Expect: 100-continue` waits for the worker's 100.
    wait_for_continue: float = 1
    #: Bodies up to this size are sent even if the worker has refused them (Expect100ErrorSendThreshold).
    sent_all_the_same: int = 1024
    #: Of a request that the worker's closing connection met before any of its body was sent.
    connection_tries: int = 4
    idle_connection: float = 60

    # The host's RetryProxyHandler.cs (WebJobs.Script.Grpc/Server, 4.1037).
    attempts: int = 10
    first_delay: float = 0.05
    longest_delay: float = 0.25

    #: DefaultHttpProxyService.cs sets YARP's ActivityTimeout: without a byte in either direction for this long it ends.
    activity: float = 240
    #: `functionTimeout`, whose default is half an hour on Flex Consumption and with Core Tools.
    invocation: float = 1800

    #: Bodies of a known length are read whole before the invocation, a response waits for the end of the upload, and
    #: its head for its first byte.
    buffers: bool = True

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """The host's, with the app's own limit on bodies; one that is no number counts as none."""
        try:
            return cls(body=int(environ[_BODY_LIMIT]))
        except (KeyError, ValueError):
            return cls()


#: A host that takes everything, waits for ever and passes every byte on as it comes.
NO_LIMITS = replace(
    Limits(),
    request_line=inf,
    request_headers=2**20,
    header_count=inf,
    grace=inf,
    body=inf,
    response_head=2**20,
    attempts=1,
    activity=inf,
    invocation=inf,
    buffers=False,
)


def fault_of_head(received: bytes, limits: Limits) -> int | None:
    """The status with which Kestrel refuses a request's head, of which `received` may be only the beginning.

    414 and 431 as KestrelBadHttpRequestException.cs has them; Http1Connection.cs counts the request line with its line
    break, the headers with theirs, and not the blank line at their end.
    """
    line, line_break, rest = received.partition(b"\n")
    if len(line) >= limits.request_line:
        return 414
    if not line_break or rest.startswith(b"\r\n"):
        return None
    end = rest.find(b"\r\n\r\n")
    headers = rest if end < 0 else rest[: end + 2]
    if len(headers) > limits.request_headers or headers.count(b"\n") > limits.header_count:
        return 431
    return None
