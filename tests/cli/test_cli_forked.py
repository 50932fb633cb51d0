"""What ``forked`` starts is what ``python -m diptych`` is."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import forked
from cli.command_line import command, environment
from running import Daemon


def _both(*arguments: object, **more: str) -> tuple[Any, Any]:
    options: dict[str, Any] = {"env": environment(**more), "capture_output": True, "timeout": 60}
    return (
        subprocess.run(command(*arguments), check=False, **options),
        forked.run(command(*arguments), **options),
    )


# In `index rebuild`.
_POINT = "index.before-rename"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--version",), 0),
        (("verdicts", "--help"), 0),
        (("verdicts", "--format", "csv"), 4),
        (("verdicts", "--nonsense"), 2),
        ((), 2),
    ],
)
def test_a_forked_command_says_and_returns_the_same(
    tmp_path: Path, arguments: tuple[object, ...], status: int
) -> None:
    real, made = _both(*arguments, DIPTYCH_DATA=str(tmp_path), COLUMNS="80")
    assert (real.returncode, real.stdout, real.stderr) == (
        made.returncode,
        made.stdout,
        made.stderr,
    )
    assert made.returncode == status


def test_it_reads_the_environment_of_the_test(stopped: Path) -> None:
    real, made = _both("index", "rebuild", "--data", stopped, DIPTYCH_FAULT=f"{_POINT}:ENOSPC@1")
    assert (real.returncode, real.stderr) == (made.returncode, made.stderr)
    assert b"No space left" in made.stderr


def test_a_defect_ends_it_with_a_traceback_and_status_1(stopped: Path) -> None:
    """A fault whose error does not exist is a defect that we can have at will."""
    real, made = _both("index", "rebuild", "--data", stopped, DIPTYCH_FAULT=f"{_POINT}:NOSUCH@1")
    assert real.returncode == made.returncode == 1
    assert real.stderr.splitlines()[-1] == made.stderr.splitlines()[-1]
    assert made.stderr.startswith(b"Traceback")


def test_its_children_are_its_own_and_end_with_it(make_daemon: Any) -> None:
    daemon: Daemon = make_daemon().start()
    assert daemon.process is not None
    pid = daemon.process.pid
    assert b"zygote.py" in Path(f"/proc/{pid}/cmdline").read_bytes(), "not forked"
    assert os.getsid(pid) == pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    names = [Path(f"/proc/{child}/comm").read_text().strip() for child in children]
    assert {"diptych-accept", "diptych-worker"} <= set(names)
    daemon.kill()
    assert daemon.process.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_with_a_variable_that_is_read_at_the_start_it_is_a_process_of_its_own(
    tmp_path: Path,
) -> None:
    with forked.Popen(
        command("serve", "--data", tmp_path),
        env=environment(PYTHONOPTIMIZE="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        said = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.kill()
    assert b"zygote.py" not in said
