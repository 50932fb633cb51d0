"""Fetching over a real HTTP server on loopback: whole and right, or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from diptych.errors import ModelError
from diptych.registry import fetch as fetching
from diptych.registry.fetch import fetch

CONTENT = bytes(range(256)) * 5000
RIGHT = hashlib.sha256(CONTENT).hexdigest()


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/missing.pth":
            self.send_error(404)
            return
        if self.path == "/silent.pth":
            threading.Event().wait(2)
            return
        self.send_response(200)
        if self.path != "/unsized.pth":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        sent = CONTENT[: len(CONTENT) // 2] if self.path == "/cut.pth" else CONTENT
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["model.pth", "unsized.pth"])
def test_a_whole_file_is_kept_and_its_checksum_told(server: str, tmp_path: Path, name: str) -> None:
    heard: list[tuple[int, int | None]] = []
    target = tmp_path / "model.pth"
    digest = fetch(f"{server}/{name}", target, None, lambda *at: heard.append(at))
    assert digest == RIGHT
    assert target.read_bytes() == CONTENT
    assert heard[-1][0] == len(CONTENT)
    assert fetch(f"{server}/{name}", target, RIGHT) == RIGHT


@pytest.mark.parametrize(
    ("name", "sha256", "reason"),
    [
        ("missing.pth", None, "Not Found"),
        ("cut.pth", None, f"ended after {len(CONTENT) // 2} of {len(CONTENT)} bytes"),
        ("model.pth", "0" * 64, f"its checksum is {RIGHT}, not {'0' * 64}"),
    ],
)
def test_anything_else_leaves_nothing_and_says_what_to_do_by_hand(
    server: str, tmp_path: Path, name: str, sha256: str | None, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason) as refused:
        fetch(f"{server}/{name}", tmp_path / "model.pth", sha256)
    assert f"{server}/{name}" in str(refused.value)
    assert "--file model.pth" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_there_stays_when_the_next_one_is_wrong(
    server: str, tmp_path: Path
) -> None:
    target = tmp_path / "model.pth"
    target.write_bytes(b"earlier")
    with pytest.raises(ModelError):
        fetch(f"{server}/cut.pth", target, None)
    assert target.read_bytes() == b"earlier"


@pytest.mark.parametrize("name", ["model.pth", "unsized.pth"])
def test_more_than_the_limit_is_refused(server: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="more than 1000"):
        fetch(f"{server}/{name}", tmp_path / "model.pth", None, largest=1000)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_says_nothing_is_given_up(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "SECONDS", 0.2)
    with pytest.raises(ModelError, match="timed out"):
        fetch(f"{server}/silent.pth", tmp_path / "model.pth", None)


def test_only_http_is_fetched(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    with pytest.raises(ModelError, match="only http and https"):
        fetch(secret.as_uri(), tmp_path / "model.pth", None)
