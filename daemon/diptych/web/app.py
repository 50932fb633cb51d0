"""HTTP: /healthz, /readyz and /metrics. Nothing here holds a UID or a patient."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from diptych.errors import StoreError
from diptych.web.access import Access
from diptych.web.exposition import Exposition


def application(
    exposition: Exposition, readiness: Callable[[], dict[str, str]], token: str | None = None
) -> Starlette:
    """readiness: names each condition and what is wrong with it; empty text: it holds. token: what
    every request but health must bear."""

    def healthz(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    def readyz(_: Request) -> Response:
        conditions = readiness()
        ready = not any(conditions.values())
        body = {
            "ready": ready,
            "conditions": {name: problem or "ok" for name, problem in conditions.items()},
        }
        return JSONResponse(body, status_code=200 if ready else 503)

    def metrics(_: Request) -> Response:
        try:
            return Response(exposition.render(), media_type=CONTENT_TYPE_LATEST)
        except StoreError:
            return PlainTextResponse("the audit database is away\n", status_code=503)
        except OSError:
            return PlainTextResponse("the spool cannot be read\n", status_code=503)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
        ],
        middleware=[Middleware(Access, token=token)],
    )
