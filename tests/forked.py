"""``subprocess.Popen`` and ``subprocess.run`` for ``python -m diptych …``, without its imports.

A command is forked off a process that has imported Diptych (``zygote.py``), one for each process
of pytest. What asks for more than such a fork can give gets an interpreter of its own.
"""

from __future__ import annotations

import atexit
import inspect
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import zygote

# What a process reads when it needs it; all else it may have read at its start or while importing.
_READ_LATER = (
    *("DIPTYCH_", "NOTIFY_SOCKET", "WATCHDOG_", "COLUMNS", "TMPDIR"),
    *("PYTEST_", "ORT_DISABLE_TELEMETRY"),
)
_DEFAULTS = {
    "executable": None,
    "preexec_fn": None,
    "close_fds": True,
    "pass_fds": (),
    "shell": False,
    "restore_signals": True,
    "gid": None,
    "gids": None,
    "uid": None,
    "umask": -1,
    "process_group": -1,
}


class Popen(subprocess.Popen[Any]):
    """A process as ``subprocess.Popen`` makes it."""

    def _execute_child(self, *arguments: Any) -> None:
        asked = _SIGNATURE.bind(self, *arguments).arguments
        words = [os.fsdecode(word) for word in asked["args"]]
        environment = dict(os.environ if asked["env"] is None else asked["env"])
        plain = all(asked.get(name, default) == default for name, default in _DEFAULTS.items())
        if words[:3] != [sys.executable, "-m", "diptych"] or not plain:
            subprocess.Popen._execute_child(self, *arguments)  # type: ignore[attr-defined]
            return
        asked_of, began_with = _zygote()
        if _at_start(environment) != began_with:
            subprocess.Popen._execute_child(self, *arguments)  # type: ignore[attr-defined]
            return
        standard = (asked["p2cread"], asked["c2pwrite"], asked["errwrite"])
        self.pid = zygote.ask(
            asked_of,
            words[1:],
            os.fspath(asked["cwd"] or Path.cwd()),
            environment,
            {number: number if one == -1 else one for number, one in enumerate(standard)},
            session=asked["start_new_session"],
        )
        self._child_created = True
        self._close_pipe_fds(  # type: ignore[attr-defined]
            *(asked[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite")),
            *(asked["errread"], asked["errwrite"]),
        )


_SIGNATURE = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]


def run(
    words: list[Any],
    *,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """As ``subprocess.run``."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(words, **options) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done


def _at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if not k.startswith(_READ_LATER)}


@cache
def _zygote() -> tuple[socket.socket, dict[str, str]]:
    """One, and the environment that it was started in."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, zygote.__file__, str(theirs.fileno())],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
        )
    atexit.register(process.wait)
    atexit.register(ours.close)  # first: it ends when nobody can ask it any more
    return ours, _at_start(os.environ)
