"""What a service manager hears over a real $NOTIFY_SOCKET; what becomes of a child that hangs."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diptych import notify
from forward.archives import free_port
from running import Daemon, send, series


class Manager:
    """The socket of a service manager; ``heard`` has every field in the order it came."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.heard: list[tuple[str, str]] = []

    def listen(self, seconds: float = 0) -> list[tuple[str, str]]:
        """What came within this time, and what was there before."""
        deadline = time.monotonic() + seconds
        while True:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                message = self.socket.recv(4096).decode()
            except TimeoutError:
                return self.heard
            self.heard += [
                (name, value) for name, _, value in (f.partition("=") for f in message.split("\n"))
            ]

    def has(self, name: str, value: str = "1") -> bool:
        return (name, value) in self.listen()

    def pings(self, seconds: float) -> int:
        self.listen()
        self.heard.clear()
        return self.listen(seconds).count(("WATCHDOG", "1"))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.socket.close()


def _changed(code: str) -> list[str]:
    """A prefix under which ``diptych serve`` runs after ``code``, on an HTTP port we know."""
    return [
        sys.executable,
        "-c",
        f"import sys; {code}; sys.argv = ['diptych', *sys.argv[4:]]; "
        "from diptych.cli import app; app()",
    ]


_IMPATIENT = _changed("from diptych import service as s; s.SILENT_SECONDS = 3; s.HUNG_SECONDS = 8")


def _child(daemon: Daemon, name: str) -> int | None:
    assert daemon.process is not None
    pid = daemon.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if Path(f"/proc/{child}/comm").read_text() == f"{name}\n":
            return int(child)
    return None


def _worker(daemon: Daemon) -> int:
    found = daemon.wait_until(lambda: _child(daemon, "diptych-worker"), "a worker there")
    assert isinstance(found, int)
    return found


def _answers(port: int) -> bool:
    with socket.socket() as calling:
        return calling.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_ready_is_said_once_the_model_and_the_index_are_there_and_not_before(
    make_daemon: Callable[..., Daemon], manager: Manager
) -> None:
    daemon, port = make_daemon(), free_port()
    daemon.spawn(*_changed(f"sys.argv += ['--http-port', '{port}']"), NOTIFY_SOCKET=manager.path)
    with _stopped(_worker(daemon)):
        daemon.wait_until(lambda: _answers(port), "served")
        manager.listen(1.5)
        status, said = daemon.get("/readyz", port=port)
        assert status == 503
        assert "loading the index" in said
        assert not manager.has("READY")
        daemon.wait_until(
            lambda: any(n == "STATUS" and "loading the index" in v for n, v in manager.listen(0.1)),
            "the status",
        )
    daemon.wait_until(lambda: manager.has("READY"), "ready")
    assert daemon.get("/readyz", port=port)[0] == 200
    daemon.wait_until(lambda: manager.has("STATUS", "receiving and judging"), "the status")
    assert not manager.has("STOPPING")
    assert daemon.stop() == 0
    assert manager.has("STOPPING")
    assert manager.heard[-1] == ("STATUS", "stopping")


def test_a_full_disk_is_told_by_readyz_and_is_no_start_that_hangs(
    make_daemon: Callable[..., Daemon], manager: Manager
) -> None:
    daemon = make_daemon(DIPTYCH_SPOOL__MIN_FREE_BYTES=str(2**60)).start(NOTIFY_SOCKET=manager.path)
    daemon.wait_until(lambda: manager.has("READY"), "ready")
    status, said = daemon.get("/readyz")
    assert status == 503
    assert "bytes free" in said


def test_the_watchdog_hears_the_supervisor_for_as_long_as_its_loop_turns(
    make_daemon: Callable[..., Daemon], manager: Manager
) -> None:
    daemon = make_daemon().start(NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="1000000")
    assert 3 <= manager.pings(3) <= 7
    assert daemon.process is not None
    with _stopped(daemon.process.pid):
        assert manager.pings(2) == 0
    assert manager.pings(2) >= 2


def test_a_worker_that_hangs_is_named_killed_and_replaced_while_receiving_goes_on(
    make_daemon: Callable[..., Daemon], manager: Manager
) -> None:
    daemon = make_daemon().start(*_IMPATIENT, NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="1000000")
    hung = _worker(daemon)
    os.kill(hung, signal.SIGSTOP)
    assert send(daemon.port, series(3, seed=1)) == [0, 0, 0]
    daemon.wait_until(lambda: daemon.get("/readyz")[0] == 503, "told")
    assert "sign of life" in daemon.get("/readyz")[1]
    # systemd need not do it: a restart of everything would cut off who is sending.
    assert manager.pings(2) >= 2
    daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM verdict") == 1, "judged", 90)
    assert "process-hung child=worker" in daemon.log()
    assert _worker(daemon) != hung
    daemon.wait_until(lambda: daemon.get("/readyz")[0] == 200, "ready again")


def test_a_daemon_paused_as_a_whole_kills_nobody_when_it_goes_on(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon().start(*_IMPATIENT)
    worker = _worker(daemon)
    assert daemon.process is not None
    os.killpg(daemon.process.pid, signal.SIGSTOP)
    time.sleep(10)
    os.kill(daemon.process.pid, signal.SIGCONT)
    time.sleep(0.5)
    os.killpg(daemon.process.pid, signal.SIGCONT)
    daemon.wait_until(lambda: daemon.get("/readyz")[0] == 200, "ready")
    assert _worker(daemon) == worker
    assert "sign of life" not in daemon.log()


def test_nothing_is_said_without_a_manager_and_one_that_is_gone_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.say(ready=1)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify.say(ready=1)


def test_an_abstract_socket_is_spoken_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0diptych-test-{os.getpid()}")
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@diptych-test-{os.getpid()}")
        notify.say(ready=1, status="well")
        assert listening.recv(100) == b"READY=1\nSTATUS=well"


def test_a_watchdog_that_waits_for_another_process_hears_nothing_of_us(
    monkeypatch: pytest.MonkeyPatch, manager: Manager
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    notify.Manager().alive()
    assert manager.listen(0.1) == []
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notify.Manager().alive()
    assert manager.has("WATCHDOG")
