"""Lets only a program's own page use it: no page of another site, and no foreign name of this machine."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The page loads nothing from elsewhere. Its pictures and sounds are also made in the page (`data:`, `blob:`).
_POLICY = (
    "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; connect-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
]


class Guard:
    """Refuses requests of foreign pages with 403.

    A browser sends `Origin` with every request that changes something, and `Sec-Fetch-Site` with every request. The
    header `Host` shows whether a foreign name was made to point to this machine (DNS rebinding).

    Args:
        app: answers the others.
        hosts: what `Host` may be, such as `127.0.0.1:8600`.
    """

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        problem = self._problem(Headers(scope=scope))
        answer = JSONResponse({"error": problem}, status_code=403) if problem else self._app
        await answer(scope, receive, with_headers)

    def _problem(self, headers: Headers) -> str:
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self._hosts:
            return f"this page answers to {' and '.join(sorted(self._hosts))} only; open one of these addresses"
        if origin is not None and origin not in {f"http://{name}" for name in self._hosts}:
            return "a page of another site asked; open this address itself"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "a page of another site asked; open this address itself"
        return ""
