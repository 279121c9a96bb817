"""What the Functions host and its Python worker say to each other, as far as HTTP needs it.

In Azure these are protobuf messages over gRPC
(https://github.com/Azure/azure-functions-language-worker-protobuf); the runtime library asks no more of them
than to be classes that take keywords.
"""

import json
from types import SimpleNamespace
from typing import Any

from devhost.trigger_metadata import Metadata


class Message:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class StatusResult(Message):
    Failure = 0
    Success = 1


class BindingInfo(Message):
    """Directions and data types as azure-functions numbers them."""

    undefined = 0
    inward = 0
    out = 1
    inout = 2


class TypedData(Message):
    """A value of which one kind is set; `kind` says which."""

    kind: str | None = None

    def WhichOneof(self, _: str) -> str | None:  # noqa: N802 - protobuf's name
        return self.kind


class ParameterBinding(Message):
    def WhichOneof(self, _: str) -> str:  # noqa: N802 - protobuf's name
        return "data"


PROTOS = SimpleNamespace(
    BindingInfo=BindingInfo,
    FunctionEnvironmentReloadResponse=Message,
    FunctionLoadResponse=Message,
    FunctionMetadataResponse=Message,
    InvocationResponse=Message,
    ParameterBinding=ParameterBinding,
    RpcException=Message,
    RpcFunctionMetadata=Message,
    RpcHttp=Message,
    RpcRetryOptions=Message,
    StatusResult=StatusResult,
    TypedData=TypedData,
    WorkerInitResponse=Message,
    WorkerMetadata=Message,
)


def http_invocation(
    invocation_id: str,
    function_id: str,
    parameter: str,
    route_params: dict[str, str],
    metadata: Metadata | None = None,
) -> Message:
    """An invocation of an HTTP trigger as it is with HTTP streams: `http` has nothing but the route's parameters."""
    http = Message(method="", url="", headers={}, query={}, params=route_params, body=TypedData())
    data = TypedData(kind="http", http=http)
    return _invocation(invocation_id, function_id, parameter, data, metadata)


def timer_invocation(invocation_id: str, function_id: str, parameter: str) -> Message:
    """An invocation of a timer trigger whose time has come."""
    timer = json.dumps({"IsPastDue": False, "Schedule": {"AdjustForDST": True}, "ScheduleStatus": None})
    return _invocation(invocation_id, function_id, parameter, TypedData(kind="json", json=timer))


def _invocation(
    invocation_id: str, function_id: str, parameter: str, data: TypedData, metadata: Metadata | None = None
) -> Message:
    return Message(
        invocation_id=invocation_id,
        function_id=function_id,
        input_data=[ParameterBinding(name=parameter, data=data)],
        trigger_metadata={
            name: TypedData(kind=kind, **{kind: value}) for name, (kind, value) in (metadata or {}).items()
        },
        trace_context=Message(trace_parent="", trace_state="", attributes={}),
        retry_context=Message(retry_count=0, max_retry_count=0, exception=None),
    )


def envelope(kind: str, message: Message, **properties: Any) -> Message:
    """A message as the runtime's entry points take it."""
    return Message(request=Message(**{kind: message}), properties=properties)
