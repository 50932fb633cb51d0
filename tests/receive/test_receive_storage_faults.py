"""Disk full, disk broken, database away: 0xA700, nothing kept, and it heals by itself."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from receive.peers import LoneAcceptor, Peer, deliver, lone_acceptor
from running import Daemon, instance, series
from support import missing

OUT_OF_RESOURCES = 0xA700
# Five seconds after the last failure, one for the cached probe, one for a slow machine.
CLEARS_SECONDS = 7
MEBI = 1 << 20
# More than is received in memory.
LARGE = MEBI + 1000


@pytest.mark.parametrize(
    ("point", "padding"),
    [("journal.append", 0), ("receive.write-file", 0), ("receive.write", LARGE)],
)
def test_a_full_disk_refuses_and_heals_without_a_restart(
    make_daemon: Callable[..., Daemon], tmp_path: Path, point: str, padding: int
) -> None:
    healed = tmp_path / "healed"
    daemon = make_daemon(
        DIPTYCH_FAULT=f"{point}:ENOSPC@1+", DIPTYCH_FAULT_UNTIL=str(healed)
    ).start()
    slices = series(3, seed=41)
    for data_set in slices:
        data_set.DataSetTrailingPadding = bytes(padding)
    assert daemon.get("/readyz")[0] == 200
    assert deliver(daemon.port, slices) == [OUT_OF_RESOURCES] * 3
    daemon.wait_until(lambda: daemon.get("/readyz")[0] == 503, "unready", 2)
    assert _nothing_is_kept(daemon)
    daemon.wait_until(
        lambda: daemon.metric('diptych_store_failures_total{reason="storage"}') == 3, "counted", 3
    )
    healed.touch()
    daemon.wait_until(lambda: daemon.get("/readyz")[0] == 200, "ready", CLEARS_SECONDS)
    assert deliver(daemon.port, slices) == [0x0000] * 3
    assert len(daemon.kept_files()) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A data folder whose spool is a file system of 3 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    spool = tmp_path / "data" / "spool"
    spool.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(spool)]
    if subprocess.run(mount, check=False).returncode != 0:
        missing("the right to mount a tmpfs")
    try:
        yield spool
    finally:
        subprocess.run(["umount", "--lazy", str(spool)], check=True)


def test_a_really_full_disk_refuses_as_long_as_it_is_full(
    small_disk: Path, make_daemon: Callable[..., Daemon]
) -> None:
    daemon = make_daemon().start()
    large = [instance() for _ in range(8)]
    for data_set in large:
        data_set.PixelData = bytes(MEBI // 2)
    statuses = deliver(daemon.port, large)
    assert set(statuses) == {0x0000, OUT_OF_RESOURCES}
    assert len(daemon.kept_files()) == statuses.count(0x0000)
    filler = small_disk / "filler"
    _fill(filler)
    assert deliver(daemon.port, [instance()]) == [OUT_OF_RESOURCES]
    until = time.monotonic() + CLEARS_SECONDS  # not only for a while after a sender tried
    while time.monotonic() < until:
        assert daemon.get("/readyz")[0] == 503
        time.sleep(0.2)
    assert list((small_disk / "incoming").iterdir()) == []
    filler.unlink()
    daemon.wait_until(lambda: daemon.get("/readyz")[0] == 200, "ready", CLEARS_SECONDS)
    assert deliver(daemon.port, [instance()]) == [0x0000]
    assert daemon.value("SELECT count(*) FROM receipt") == statuses.count(0x0000) + 1


@pytest.mark.parametrize(
    ("point", "padding"),
    [
        ("receive.in-memory", 0),
        ("journal.append", 0),
        ("journal.sync", 0),
        ("journal.after-sync", 0),
        ("receive.write-file", 0),
        ("receive.before-commit", 0),
        ("receive.open", LARGE),
        ("receive.write", LARGE),
        ("receive.after-temporary-write", LARGE),
        ("receive.fsync", LARGE),
        ("receive.before-rename", LARGE),
        ("receive.after-rename", LARGE),
        ("receive.before-commit", LARGE),
    ],
)
def test_an_error_at_any_step_keeps_nothing_and_the_next_instance_is_stored(
    tmp_path: Path, point: str, padding: int
) -> None:
    with lone_acceptor(tmp_path / "data", DIPTYCH_FAULT=f"{point}:EIO") as acceptor:
        peer = Peer(acceptor.port)
        data_set = instance()
        data_set.DataSetTrailingPadding = bytes(padding)
        assert peer.store(data_set) == OUT_OF_RESOURCES
        assert acceptor.kept() == []
        assert list(acceptor.spool.incoming.iterdir()) == []
        assert _count(acceptor, "receipt") == 0
        _wait(lambda: acceptor.refusing.value == 1)
        assert peer.store(data_set) == 0x0000
        assert len(acceptor.kept()) == _count(acceptor, "receipt") == 1
        _wait(lambda: acceptor.refusing.value == 0)
        peer.release()


def test_too_little_free_space_refuses_before_the_disk_is_full(
    small_disk: Path, make_daemon: Callable[..., Daemon]
) -> None:
    daemon = make_daemon(DIPTYCH_SPOOL__MIN_FREE_BYTES=str(MEBI)).start()
    peer = Peer(daemon.port)
    statuses = []
    for _ in range(12):
        data_set = instance()
        data_set.PixelData = bytes(MEBI // 4)
        statuses.append(peer.store(data_set))
    assert statuses == [0x0000] * len(daemon.kept_files()) + [OUT_OF_RESOURCES] * (
        12 - len(daemon.kept_files())
    )
    assert shutil.disk_usage(small_disk).free > MEBI // 2
    daemon.wait_until(
        lambda: daemon.metric('diptych_store_failures_total{reason="low-space"}') > 0, "counted", 5
    )
    peer.release()


def test_with_the_database_away_nothing_is_acknowledged_until_it_is_back(plain: Daemon) -> None:
    files, receipts = plain.kept_files(), plain.value("SELECT count(*) FROM receipt")
    data_set = instance()
    answers: list[int] = []
    lock = sqlite3.connect(plain.data / "diptych.sqlite3", isolation_level=None, timeout=30)
    with closing(lock):
        lock.execute("BEGIN EXCLUSIVE")
        sender = threading.Thread(target=lambda: answers.extend(deliver(plain.port, [data_set])))
        sender.start()
        assert plain.get("/readyz")[0] == 503  # answers when the busy timeout is over
        sender.join()
        assert answers in ([OUT_OF_RESOURCES], [-1])
        assert plain.kept_files() == files
        lock.execute("ROLLBACK")
    plain.wait_until(lambda: plain.get("/readyz")[0] == 200, "ready", CLEARS_SECONDS)
    assert answers == [OUT_OF_RESOURCES]
    assert plain.value("SELECT count(*) FROM receipt") == receipts
    assert list((plain.data / "spool" / "incoming").iterdir()) == []
    assert deliver(plain.port, [data_set]) == [0x0000]
    assert len(plain.kept_files()) == len(files) + 1


def _fill(path: Path) -> None:
    """Grow a file until its file system has no room left."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def _nothing_is_kept(daemon: Daemon) -> bool:
    return (
        daemon.kept_files() == []
        and list((daemon.data / "spool" / "incoming").glob("*.part")) == []
        and daemon.value("SELECT count(*) FROM receipt") == 0
    )


def _count(acceptor: LoneAcceptor, table: str) -> int:
    with closing(sqlite3.connect(acceptor.data / "diptych.sqlite3")) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _wait(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
