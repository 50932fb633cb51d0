"""Processes that die, caches that rot, pixels that age: the daemon goes on and says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from running import Daemon, send, series


def _child(daemon: Daemon, name: str) -> int:
    """The process of the daemon that ps shows as ``name``."""
    assert daemon.process is not None
    pid = daemon.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return next(int(c) for c in children if Path(f"/proc/{c}/comm").read_text() == f"{name}\n")


def _judged(daemon: Daemon, count: int) -> None:
    daemon.wait_until(
        lambda: daemon.value("SELECT count(*) FROM revision WHERE status = 'judged'") == count,
        f"{count} revisions judged",
        120,
    )


@pytest.mark.both
def test_a_killed_worker_is_started_again_and_its_work_resumes(daemon: Daemon) -> None:
    os.kill(_child(daemon, "diptych-worker"), signal.SIGKILL)
    assert send(daemon.port, series(3, seed=1)) == [0, 0, 0]
    _judged(daemon, 1)
    assert daemon.value("SELECT relation FROM verdict") == "unique"
    daemon.wait_until(lambda: daemon.get("/readyz")[0] == 200, "ready again")


def test_a_series_that_kills_every_worker_ends_in_a_verdict_and_the_next_is_judged(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon(DIPTYCH_DECODE__ATTEMPTS="2").start(DIPTYCH_FAULT="judge.begin:kill")
    assert send(daemon.port, series(2, seed=1)) == [0, 0]
    _judged(daemon, 1)
    (row,) = daemon.rows("SELECT relation, reason FROM verdict")
    assert tuple(row) == ("not-screenable", "internal-error")
    assert daemon.stop() == 0
    daemon.start()
    assert send(daemon.port, series(2, seed=2)) == [0, 0]
    _judged(daemon, 2)
    assert daemon.rows("SELECT relation FROM verdict ORDER BY id")[1]["relation"] == "unique"


def test_a_corrupt_index_is_refused_in_words_and_built_from_the_database(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon().start()
    for seed in range(2):
        send(daemon.port, series(6, seed=seed))
    _judged(daemon, 2)
    vectors = daemon.value("SELECT count(*) FROM node")
    assert vectors == 12
    assert daemon.stop() == 0
    (graph,) = (daemon.data / "index").rglob("*.usearch")
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 0xFF
    graph.write_bytes(content)
    daemon.start()
    assert "index-snapshot-refused" in daemon.log()
    assert daemon.metric("diptych_index_vectors") == vectors
    (graph,) = (daemon.data / "index").rglob("*.usearch")
    assert daemon.stop() == 0
    for path in (daemon.data / "index").rglob("index-*"):
        path.unlink()
    daemon.start()
    assert daemon.metric("diptych_index_vectors") == vectors


@pytest.mark.both
def test_judged_pixels_are_purged_by_age_and_come_back_with_a_resend(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon(
        DIPTYCH_SPOOL__KEEP_DAYS="0",
        DIPTYCH_JOBS__PURGE="0.5",
        DIPTYCH_JOBS__RECALL="0.5",
        DIPTYCH_JOBS__SNAPSHOT="0.5",
    ).start()
    sent = series(3, seed=4)
    send(daemon.port, sent)
    _judged(daemon, 1)
    daemon.wait_until(lambda: daemon.kept_files() == [], "purged")
    assert daemon.metric("diptych_purged_bytes_total") > 0
    send(daemon.port, sent)
    daemon.wait_until(lambda: daemon.value("SELECT resends FROM series") == 1, "counted")
    assert daemon.value("SELECT count(*) FROM revision") == 1
    daemon.wait_until(lambda: daemon.kept_files() == [], "purged again")
    assert daemon.metric("diptych_index_recall") == 1.0
    assert daemon.metric("diptych_index_snapshot_age_seconds") < 60


def test_a_daemon_that_is_killed_leaves_no_semaphore_behind(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon().start()
    assert daemon.process is not None
    pid = daemon.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    # A named one stays in /dev/shm when nobody is left to remove it.
    assert [
        line
        for process in (str(pid), *children)
        for line in Path(f"/proc/{process}/maps").read_text().splitlines()
        if "/dev/shm/sem." in line
    ] == []
