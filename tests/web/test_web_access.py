"""Who may ask over HTTP."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from diptych.web.access import Access

TOKEN = "pa\u00dfword-of-the-site"


def client(token: str | None) -> TestClient:
    def page(_: object) -> PlainTextResponse:
        return PlainTextResponse("said")

    paths = ("/healthz", "/readyz", "/metrics")
    app = Starlette(routes=[Route(path, page) for path in paths])
    app.add_middleware(Access, token=token)
    return TestClient(app, base_url="http://diptych:8112")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_token(path: str) -> None:
    assert client(TOKEN).get(path).status_code == 200


def bearing(value: str) -> dict[str, bytes]:
    return {"Authorization": value.encode()}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearing("Bearer"),
        bearing("Bearer wrong"),
        bearing(f"Bearer {TOKEN}x"),
        bearing(f"Basic {TOKEN}"),
        bearing(TOKEN),
    ],
)
def test_everything_else_is_refused_without_the_right_one(headers: dict[str, bytes]) -> None:
    answer = client(TOKEN).get("/metrics", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert TOKEN not in answer.text


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "Bearer   {}  "])
def test_the_right_token_opens(form: str) -> None:
    answer = client(TOKEN).get("/metrics", headers=bearing(form.format(TOKEN)))
    assert (answer.status_code, answer.text) == (200, "said")


def test_without_a_token_configured_none_is_asked_for() -> None:
    assert client(None).get("/metrics").status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/healthz"])
@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://diptych:9999", "null", "http://diptych.evil.example"]
)
def test_a_page_of_another_site_may_not_ask(path: str, origin: str) -> None:
    assert client(None).get(path, headers={"Origin": origin}).status_code == 403


@pytest.mark.parametrize("header", ["http://diptych:8112", "https://diptych:8112"])
def test_a_page_of_this_host_may(header: str) -> None:
    assert client(None).get("/metrics", headers={"Origin": header}).status_code == 200


@pytest.mark.parametrize("wrong", [b"Bearer \xff\xfe", b"\xff"])
def test_bytes_that_are_no_text_are_a_wrong_token(wrong: bytes) -> None:
    asked: Callable[..., object] = client(TOKEN).get
    answer = asked("/metrics", headers={"Authorization": wrong})
    assert answer.status_code == 401  # type: ignore[attr-defined]
