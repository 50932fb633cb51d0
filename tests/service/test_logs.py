"""The log of a whole daemon: followed from an association to a verdict, and made to say more."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import forked
from running import Daemon, send, series

MakeDaemon = Callable[..., Daemon]
NOBODY = '[[forward]]\nname = "nobody"\nhost = "127.0.0.1"\nport = 9\nae_title = "NOBODY"\n'
CHILDREN = {"acceptor", "worker", "forwarder"}


def test_one_id_leads_from_the_association_to_the_verdict(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(DIPTYCH_LOG__FORMAT="json").start()
    slices = series(4, seed=81)
    assert send(daemon.port, slices[:2]) == [0, 0]
    assert send(daemon.port, slices[2:]) == [0, 0]
    (verdict,) = _wait(daemon, "verdict", 1)
    ended = {one["association"]: one for one in _events(daemon, "association-ended")}
    (sealed,) = _events(daemon, "series-sealed")
    # The newest first.
    assert verdict["associations"] == sealed["associations"] == list(ended)[::-1]
    assert [one["instances"] for one in ended.values()] == [2, 2]
    assert all(one["source"] == "default" for one in (*ended.values(), sealed, verdict))
    assert (verdict["relation"], verdict["slices"]) == ("unique", 4)
    names = [row["name"] for row in daemon.rows("SELECT name FROM association ORDER BY id")]
    assert [name[:12] for name in names] == list(ended)
    row = daemon.rows("SELECT id, series_id, case_id, revision FROM verdict")[0]
    found = tuple(verdict[name] for name in ("verdict", "series", "case", "revision"))
    assert found == tuple(row)
    # An operator who knows the UID finds its lines.
    (said,) = _log_id(daemon, slices[0].SeriesInstanceUID)
    assert said == verdict["series_instance_uid"] == sealed["series_instance_uid"]
    # What comes again gets no verdict, but a line.
    assert send(daemon.port, slices) == [0] * 4
    (again,) = _wait(daemon, "series-resent", 1)
    newest = _wait(daemon, "association-ended", 3)[-1]
    assert again["associations"][0] == newest["association"]
    assert again["series"] == verdict["series"]


def test_a_refused_instance_names_its_association(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(DIPTYCH_LOG__FORMAT="json").start(DIPTYCH_FAULT="journal.append:ENOSPC@2")
    assert send(daemon.port, series(2, seed=82)) == [0, 0xA700]
    (ended,) = _wait(daemon, "association-ended", 1)
    (refused,) = _events(daemon, "store-refused")
    assert refused["association"] == ended["association"]
    assert (refused["status"], refused["level"]) == ("0xA700", "WARNING")
    assert (ended["instances"], ended["refused"]) == (1, 1)


def test_a_hang_up_changes_the_level_of_every_process(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    file = tmp_path / "diptych.toml"

    def level(name: str) -> None:
        file.write_text(f'{NOBODY}[log]\nformat = "json"\nlevel = "{name}"\n')

    level("WARNING")
    daemon = make_daemon(DIPTYCH_CONFIG=str(file)).start()
    send(daemon.port, series(2, seed=83))
    daemon.wait_until(lambda: daemon.rows("SELECT id FROM verdict"), "judged", 60)
    assert _events(daemon, "association-ended", "verdict", "instance-kept") == []

    level("DEBUG")
    _hang_up(daemon)
    changed = _wait(daemon, "log-level", 4)
    assert {one["process"] for one in changed} == {"supervisor", *CHILDREN}
    assert {(one["was"], one["to"]) for one in changed} == {("WARNING", "DEBUG")}
    send(daemon.port, series(2, seed=84))
    _wait(daemon, "verdict", 1)
    assert len(_wait(daemon, "instance-kept", 2)) == 2
    # A child that is started now has that level as well.
    acceptor = _child(daemon, "diptych-accept")
    os.kill(acceptor, signal.SIGKILL)
    daemon.wait_until(lambda: _child(daemon, "diptych-accept") not in (0, acceptor), "another", 30)
    send(daemon.port, series(1, seed=85))
    _wait(daemon, "instance-kept", 3)

    level("ERROR")
    _hang_up(daemon)
    assert len(_wait(daemon, "log-level", 8)) == 8
    before = len(_events(daemon))
    send(daemon.port, series(1, seed=86))
    daemon.wait_until(lambda: len(daemon.rows("SELECT id FROM verdict")) == 4, "judged", 60)
    assert [e for e in _events(daemon)[before:] if e["level"] in ("DEBUG", "INFO", "WARNING")] == []
    assert daemon.stop() == 0


def test_a_configuration_that_cannot_be_read_leaves_everything_as_it_is(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    file = tmp_path / "diptych.toml"
    file.write_text('[log]\nformat = "json"\n')
    daemon = make_daemon(DIPTYCH_CONFIG=str(file)).start()
    file.write_text('[log]\nlevel = "LOUD"\n')
    _hang_up(daemon)
    (refused,) = _wait(daemon, "configuration-refused", 1)
    assert "log.level" in refused["error"]
    assert send(daemon.port, series(1, seed=87)) == [0]
    _wait(daemon, "association-ended", 1)


def test_a_terminal_that_goes_away_ends_what_runs_in_it(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "diptych", "serve", "--data", tmp_path / "data"]
    started = subprocess.Popen(
        [*command, "--dicom-port", "0", "--http-port", "0"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    try:
        said = b""
        while b" ready " not in said:
            said += os.read(ours, 1 << 16)
        started.send_signal(signal.SIGHUP)
        assert started.wait(20) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)


def test_log_id_needs_an_archive(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diptych", "log-id", "1.2.3", "--data", tmp_path / "none"]
    done = forked.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 4
    assert "holds no archive" in done.stderr


def _events(daemon: Daemon, *names: str) -> list[dict[str, Any]]:
    """The whole log is JSON, one object a line."""
    said = [json.loads(line) for line in daemon.log().splitlines() if line]
    return [one for one in said if not names or one["event"] in names]


def _wait(daemon: Daemon, name: str, count: int) -> list[dict[str, Any]]:
    daemon.wait_until(lambda: len(_events(daemon, name)) >= count, f"{count} of {name}", 60)
    return _events(daemon, name)


def _hang_up(daemon: Daemon) -> None:
    assert daemon.process is not None
    os.kill(daemon.process.pid, signal.SIGHUP)


def _child(daemon: Daemon, name: str) -> int:
    assert daemon.process is not None
    pid = daemon.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = (c for c in children if Path(f"/proc/{c}/comm").read_text() == f"{name}\n")
    return int(next(found, 0))


def _log_id(daemon: Daemon, *uids: str) -> list[str]:
    command = [sys.executable, "-m", "diptych", "log-id", *uids, "--data", daemon.data]
    done = forked.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()
