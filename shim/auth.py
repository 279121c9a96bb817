"""Who is calling: the subscription key from the headers, and the subscription from the key store."""

import re
from typing import NamedTuple, NoReturn

from shim.errors import InvalidRequest, MalformedKey, MissingKey, UnknownKey
from shim.headers import Headers, values_of
from shim.keys.store import KeyStore
from shim.keys.subscription import Subscription, digest_of

MAX_KEY_LENGTH = 256
# RFC 9110, section 11.4: the scheme ignores case, one or more spaces follow it.
_BEARER = re.compile(rb"bearer +([\x21-\x7e]+)", re.IGNORECASE)
_VISIBLE_ASCII = re.compile(rb"[\x21-\x7e]+")


class Principal(NamedTuple):
    """A caller whose key is good.

    `authorization` is a user's token, which is sent upstream beside the key; `scheme` is where the key was found.
    """

    subscription: Subscription
    scheme: str
    authorization: bytes | None = None

    def __repr__(self) -> str:
        """Without the token."""
        return f"Principal({self.subscription!r}, {self.scheme!r})"


async def authenticate(headers: Headers, keys: KeyStore, user_token_header: str) -> Principal:
    """Raises MissingKey, MalformedKey, UnknownKey, InvalidRequest, or KeyStoreUnavailable."""
    presented, scheme, authorization = _presented_key(headers)
    subscription = await keys.find(digest_of(presented))
    if subscription is None:
        raise UnknownKey(
            "The subscription key is not known here, or no longer valid."
            " Check it for missing characters, or ask the operator of this API for a new one."
        )
    user_tokens = values_of(headers, user_token_header.encode())
    if len(user_tokens) > 1:
        raise InvalidRequest(f"Send only one {user_token_header} header.")
    return Principal(subscription, scheme, user_tokens[0] if user_tokens else authorization)


def _presented_key(headers: Headers) -> tuple[str, str, bytes | None]:
    """The key, where it was found, and Authorization if that is a user's token.

    Azure's own clients send `api-key`; an Authorization header beside it with any other value is a user's token,
    meant for the API behind the shim.
    """
    api_keys = values_of(headers, b"api-key")
    authorizations = values_of(headers, b"authorization")
    if len(authorizations) > 1 or len(api_keys) > 1:
        raise MalformedKey("Send one Authorization header or one api-key header, not several.")
    if api_keys:
        key = _checked(api_keys[0], _VISIBLE_ASCII.fullmatch(api_keys[0]) is not None)
        bearer = _BEARER.fullmatch(authorizations[0]) if authorizations else None
        same = bearer is not None and bearer[1] == api_keys[0]
        return key, "api-key", None if same or not authorizations else authorizations[0]
    if authorizations:
        bearer = _BEARER.fullmatch(authorizations[0])
        return _checked(bearer[1] if bearer else b"", bearer is not None), "bearer", None
    raise MissingKey(
        'This call has no subscription key. Send it as "Authorization: Bearer <key>",'
        " which is what OpenAI clients do with their `api_key`."
    )


def _checked(key: bytes, well_formed: bool) -> str:
    if not well_formed:
        _refuse_form(
            'The subscription key must come as "Authorization: Bearer <key>", in visible ASCII characters.'
        )
    if len(key) > MAX_KEY_LENGTH:
        _refuse_form(
            f"This is longer than a subscription key can be ({MAX_KEY_LENGTH} characters). If it is a user's token,"
            " send the subscription key as `api-key` beside it."
        )
    return key.decode("ascii")


def _refuse_form(message: str) -> NoReturn:
    raise MalformedKey(message)
