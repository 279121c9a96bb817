"""Azure OpenAI's own refusals, in the OpenAI error shape."""

from collections.abc import Iterable

from devhost.standin.refusal import Refusal


def _coded(status: int, code: str, message: str, headers: Iterable[tuple[str, str]] = ()) -> Refusal:
    return Refusal(status, {"error": {"code": code, "message": message}}, headers)


def unauthorized() -> Refusal:
    """The key that APIM's backend settings put on the call is wrong."""
    message = (
        "Access denied due to invalid subscription key or wrong API endpoint. "
        "Make sure to provide a valid key for an active subscription "
        "and use a correct regional API endpoint for your resource."
    )
    return _coded(401, "401", message)


def deployment_not_found() -> Refusal:
    """No deployment of that name."""
    message = (
        "The API deployment for this resource does not exist. If you created the deployment within the last "
        "5 minutes, please wait a moment and try again."
    )
    return _coded(404, "DeploymentNotFound", message)


def resource_not_found() -> Refusal:
    """A dated call without a (known) api-version, among other things."""
    return _coded(404, "404", "Resource not found")


def token_rate_limited() -> Refusal:
    """The deployment's tokens-per-minute are used up."""
    message = (
        "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 "
        "have exceeded token rate limit of your current OpenAI S0 pricing tier. "
        "Please retry after 6 seconds. Please go here: https://aka.ms/oai/quotaincrease "
        "if you would like to further increase the default rate limit."
    )
    return _coded(429, "429", message, [("Retry-After", "6")])


def bad_request(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """A body the operation cannot use."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Refusal(400, {"error": error})


def object_not_found(noun: str, object_id: str) -> Refusal:
    """No stored object of that id."""
    message = f"No such {noun} object: {object_id}"
    error = {"message": message, "type": "invalid_request_error", "param": "id", "code": None}
    return Refusal(404, {"error": error})
