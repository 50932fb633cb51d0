"""Who may ask over HTTP: a token for everything but health, and no other site's pages."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

OPEN = frozenset({"/healthz", "/readyz"})
"""Asked by whoever restarts containers: they say nothing but whether."""


class Access:
    """Middleware. token: that every request but health must bear (RFC 6750); None: none is needed.

    A browser names the page that asks in Origin (RFC 6454): what is not this host's own is refused,
    health too, so that a page elsewhere cannot read what its visitor may.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refused = self._refused(scope["path"], Headers(scope=scope))
            if refused is not None:
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refused(self, path: str, headers: Headers) -> PlainTextResponse | None:
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return PlainTextResponse("pages of other sites may not ask\n", status_code=403)
        if self._token is None or path in OPEN:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # In constant time, and as the bytes that came: a header is read as Latin-1.
        right = secrets.compare_digest(given.strip().encode("latin-1"), self._token.encode())
        if scheme.lower() == "bearer" and right:
            return None
        return PlainTextResponse(
            "a token is needed: Authorization: Bearer …\n",
            status_code=401,
            headers={"WWW-Authenticate": 'Bearer realm="diptych"'},
        )
