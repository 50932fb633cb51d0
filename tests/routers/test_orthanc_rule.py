"""The rule for Orthanc as it is shipped, in a real Orthanc that stands before a real daemon."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from forward.archives import free_port
from orthanc import Orthanc, orthanc
from running import Daemon, program, send, series
from support import REPOSITORY

MakeDaemon = Callable[..., Daemon]
RULES = REPOSITORY / "deploy" / "routers"
SOURCES = json.dumps([{"name": "router", "ae_titles": ["ARCHIVE"]}])


@contextmanager
def router(folder: Path, node_port: int) -> Iterator[tuple[Orthanc, int]]:
    """Orthanc under the shipped rule, impatient, and its DICOM port."""
    program("Orthanc")
    shutil.copy(RULES / "orthanc.lua", folder / "diptych.lua")
    settings = json.loads((RULES / "orthanc.json").read_text())
    settings |= {"LuaScripts": [str(folder / "diptych.lua")], "StableAge": 1}
    del settings["DicomModalities"]  # the same entry, with the port of this test
    port = free_port()
    with orthanc(folder / "orthanc", port, free_port(), node_port, **settings) as made:
        yield made, port


def test_what_orthanc_receives_is_sent_on_and_judged(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    daemon = make_daemon(DIPTYCH_SOURCE=SOURCES).start()
    slices = series(4, seed=71)
    with router(tmp_path, daemon.port) as (_, port):
        assert send(port, slices, called="ARCHIVE") == [0] * 4
        assert _verdicts(daemon, 1) == [("router", "unique", 4)]


def test_what_diptych_answers_with_out_of_resources_is_sent_when_it_is_asked_for_again(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    room = tmp_path / "room"
    daemon = make_daemon(DIPTYCH_SOURCE=SOURCES).start(
        DIPTYCH_FAULT="journal.append:ENOSPC@2+", DIPTYCH_FAULT_UNTIL=str(room)
    )
    with router(tmp_path, daemon.port) as (made, port):
        assert send(port, series(3, seed=72), called="ARCHIVE") == [0] * 3
        daemon.wait_until(lambda: _states(made) == ["Failure"], "failed", 30)
        assert "0xA700" in daemon.log()
        assert _resubmit(made) == "1 resubmitted"
        daemon.wait_until(lambda: _states(made) == ["Failure"], "failed again", 30)
        room.touch()
        assert _resubmit(made) == "1 resubmitted"
        daemon.wait_until(lambda: _states(made) == ["Success"], "sent", 30)
    daemon.wait_until(lambda: _newest(daemon) == ("router", 3), "judged whole", 60)
    assert daemon.value("SELECT sum(resends) FROM series") == 0


def test_while_diptych_is_away_nothing_is_lost(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon(DIPTYCH_SOURCE=SOURCES).start()
    with _relay(lambda: daemon.port) as front, router(tmp_path, front) as (made, port):
        assert daemon.stop() == 0
        for seed in (73, 74):
            assert send(port, series(2, seed=seed), called="ARCHIVE") == [0] * 2
        states = ["Failure", "Failure"]
        _until(lambda: _states(made) == states)
        daemon.start()
        assert _resubmit(made) == "2 resubmitted"
        assert _verdicts(daemon, 2) == [("router", "unique", 2)] * 2
        assert _resubmit(made) == "0 resubmitted"


def _verdicts(daemon: Daemon, count: int) -> list[tuple[str, str, int]]:
    query = "SELECT source, relation, slices FROM verdict ORDER BY id"
    daemon.wait_until(lambda: len(daemon.rows(query)) == count, f"{count} judged", 90)
    return [tuple(row) for row in daemon.rows(query)]


def _newest(daemon: Daemon) -> tuple[str, int] | None:
    rows = daemon.rows("SELECT source, slices FROM verdict ORDER BY id DESC LIMIT 1")
    return tuple(rows[0]) if rows else None  # type: ignore[return-value]


def _states(made: Orthanc) -> list[str]:
    return [job["State"] for job in made.get("/jobs?expand")]


def _resubmit(made: Orthanc) -> str:
    command = [sys.executable, RULES / "orthanc-resubmit"]
    done = subprocess.run(
        [*command, f"http://127.0.0.1:{made.http_port}", "diptych"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.strip()


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    waited = threading.Event()
    for _ in range(int(seconds / 0.2)):
        if condition():
            return
        waited.wait(0.2)
    raise AssertionError("not in time")


@contextmanager
def _relay(port: Callable[[], int]) -> Iterator[int]:
    """A port that stays while the daemon behind it comes back on another one."""
    listening = socket.create_server(("127.0.0.1", 0))

    def pump(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                caller, _ = listening.accept()
                try:
                    behind = socket.create_connection(("127.0.0.1", port()))
                except (OSError, AssertionError):
                    caller.close()
                    continue
                for pair in ((caller, behind), (behind, caller)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.close()
