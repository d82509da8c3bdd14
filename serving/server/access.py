"""Who may use REST: clients that send the token, and web pages of other sites."""

from __future__ import annotations

from collections.abc import Callable

from serving.protocol.token import Token
from serving.server.pages import HEALTH_PAGES

# What web pages of other sites may do, as TensorFlow Serving says it.
_CORS = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
]


def cors_headers(allowed: bool, token: Token | None) -> list[tuple[str, str]]:
    """Returns the headers that tell browsers what web pages of other sites may do."""
    if not allowed or token is None:
        return _CORS if allowed else []
    return [*_CORS[:-1], ("Access-Control-Allow-Headers", "Content-Type, Authorization")]


def gate(token: Token | None, *, cors: bool) -> Callable[[str, str, str | None], bool]:
    """Returns the function that tells whether a request may be answered, by its verb, path and `authorization`.

    Health needs no token. Browsers ask with OPTIONS, and without the token, what web pages of other sites may do.
    """

    def may_ask(verb: str, path: str, authorization: str | None) -> bool:
        is_open = (verb == "GET" and path in HEALTH_PAGES) or (verb == "OPTIONS" and cors)
        return token is None or is_open or token.allows(authorization)

    return may_ask
