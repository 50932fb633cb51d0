"""A system call fails, as the kernel would say it: injected into the running process by strace.

Unlike the named points this reaches SQLite's own writes; strace goes away and the fault with it,
without a restart.
"""

from __future__ import annotations

import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from receive.peers import LoneAcceptor, Peer, lone_acceptor, sha256
from receive.peers import encoded as bytes_of
from running import Daemon, instance, program

OUT_OF_RESOURCES = 0xA700
CLEARS_SECONDS = 8
# More than is received in memory.
LARGE = 1_100_000


@contextmanager
def failing(process: int, rule: str, trace: Path) -> Iterator[None]:
    """While the block runs, system calls of ``process`` fail as ``rule`` says (strace(1), -e)."""
    command = [program("strace"), "-f", "-p", str(process), "-o", trace, "-e", f"inject={rule}"]
    strace = subprocess.Popen([*command, "-e", f"trace={rule.partition(':')[0]}"])
    deadline = time.monotonic() + 20
    while not all(_traced(task) == strace.pid for task in _tasks(process)):
        assert strace.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        yield
    finally:
        strace.terminate()
        strace.wait(20)
    assert "(INJECTED)" in trace.read_text(), "no call was made to fail"


@pytest.fixture(scope="module")
def acceptor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneAcceptor]:
    with lone_acceptor(tmp_path_factory.mktemp("injected") / "data") as made:
        yield made


@pytest.mark.parametrize(
    ("rule", "padding"),
    [
        ("write:error=ENOSPC", 0),
        ("write:error=EDQUOT", 0),
        ("write:error=ENOSPC", LARGE),
        ("fsync:error=EIO", LARGE),
        ("fsync:error=EIO:when=1", LARGE),
        ("fsync:error=EIO:when=2", LARGE),
        ("rename:error=EDQUOT", LARGE),
        ("rename:error=EIO:when=1", LARGE),
        ("pwrite64:error=ENOSPC", 0),
        ("pwrite64:error=EIO", 0),
        ("pwrite64:error=EIO:when=1", 0),
        ("pwrite64:error=EIO:when=2", 0),
        ("fdatasync:error=EIO", 0),
        ("fdatasync:error=EIO:when=1", 0),
        ("fdatasync:error=EIO:when=2", 0),
        ("fdatasync:error=EIO", LARGE),
    ],
)
def test_no_failing_call_is_answered_with_success_and_the_next_instance_is_kept(
    acceptor: LoneAcceptor, tmp_path: Path, rule: str, padding: int
) -> None:
    files, receipts = set(acceptor.kept()), _receipts(acceptor)
    data_set = instance()
    data_set.DataSetTrailingPadding = bytes(padding)
    peer = Peer(acceptor.port)
    assert peer.store(instance()) == 0x0000  # the association has its row
    with failing(acceptor.pid, rule, tmp_path / "trace"):
        assert peer.store(data_set) == OUT_OF_RESOURCES
        _wait(lambda: acceptor.refusing.value == 1)
    assert len(set(acceptor.kept()) - files) == 1
    assert _receipts(acceptor) == receipts + 1
    assert list(acceptor.spool.incoming.glob("*.part")) == []
    assert peer.store(data_set) == 0x0000
    assert len(set(acceptor.kept()) - files) == 2
    assert _receipts(acceptor) == receipts + 2
    assert sha256(bytes_of(data_set)) in _contents(acceptor)
    _wait(lambda: acceptor.refusing.value == 0)
    peer.release()


@pytest.mark.parametrize("rule", ["fdatasync:error=EIO", "pwrite64:error=ENOSPC"])
def test_readiness_is_gone_while_the_database_cannot_be_written_although_nobody_sends(
    make_daemon: Callable[..., Daemon], tmp_path: Path, rule: str
) -> None:
    daemon = make_daemon().start()
    assert daemon.get("/readyz")[0] == 200
    assert daemon.process is not None
    with failing(daemon.process.pid, rule, tmp_path / "trace"):
        daemon.wait_until(lambda: daemon.get("/readyz")[0] == 503, "unready", CLEARS_SECONDS)
        assert "audit database" in daemon.get("/readyz")[1]
    daemon.wait_until(lambda: daemon.get("/readyz")[0] == 200, "ready", CLEARS_SECONDS)


def _tasks(process: int) -> list[int]:
    return [int(task.name) for task in Path(f"/proc/{process}/task").iterdir()]


def _traced(task: int) -> int:
    """The process that traces this thread; 0: none."""
    for line in Path(f"/proc/{task}/status").read_text().splitlines():
        if line.startswith("TracerPid:"):
            return int(line.split()[1])
    return 0


def _receipts(acceptor: LoneAcceptor) -> int:
    with closing(sqlite3.connect(acceptor.data / "diptych.sqlite3")) as connection:
        return int(connection.execute("SELECT count(*) FROM receipt").fetchone()[0])


def _contents(acceptor: LoneAcceptor) -> set[str]:
    with closing(sqlite3.connect(acceptor.data / "diptych.sqlite3")) as connection:
        return {row[0] for row in connection.execute("SELECT sha256 FROM blob")}


def _wait(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
