"""Named points where a test may kill the daemon or make a system call fail.

``DIPTYCH_FAULT`` holds rules, ``<point>:<action>[@<n>]`` with ``;`` between them: at the n-th
passage (default: the first) of that point in a process do the action once. Actions: ``kill``
(SIGKILL to this process), ``kill-daemon`` (SIGKILL to the supervisor and to this process), an errno
name such as ``ENOSPC`` (raise that OSError; with ``@n+`` at the n-th and every later passage, until
the file named by ``DIPTYCH_FAULT_UNTIL`` exists). With ``DIPTYCH_FAULT_ONCE`` a point kills only
where the file of that name and ``.<point>`` does not exist yet, and leaves it behind. Without the
first variable a point costs one dictionary look-up.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections import Counter
from pathlib import Path

SUPERVISOR_PID = "DIPTYCH_SUPERVISOR_PID"

POINTS = (
    "receive.in-memory",
    "receive.write-file",
    "journal.append",
    "journal.sync",
    "journal.after-sync",
    "journal.before-files",
    "journal.after-files",
    "receive.open",
    "receive.write",
    "receive.after-temporary-write",
    "receive.fsync",
    "receive.before-rename",
    "receive.after-rename",
    "receive.before-commit",
    "receive.after-commit",
    "judge.begin",
    "judge.inside-transaction",
    "judge.after-commit",
    "index.after-temporary-write",
    "index.before-rename",
    "index.after-rename",
)
"""In the order of the path."""

_passages: Counter[str] = Counter()
_lock = threading.Lock()


def point(name: str) -> None:
    """Pass the point ``name``; raise OSError or die if a rule says so."""
    rules = os.environ.get("DIPTYCH_FAULT")
    for rule in rules.split(";") if rules else ():
        if rule.startswith(f"{name}:"):
            _obey(name, rule.removeprefix(f"{name}:"))


def _obey(name: str, what: str) -> None:
    action, _, when = what.partition("@")
    with _lock:
        _passages[name] += 1
        passage = _passages[name]
    first, for_ever = int(when.rstrip("+") or 1), when.endswith("+")
    if passage != first and not (for_ever and passage > first):
        return
    if action in ("kill", "kill-daemon"):
        # A rule that kills on every start would never let a restarted daemon finish.
        marker = os.environ.get("DIPTYCH_FAULT_ONCE")
        if marker:
            try:
                os.close(os.open(f"{marker}.{name}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        if action == "kill-daemon":
            os.kill(int(os.environ[SUPERVISOR_PID]), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    until = os.environ.get("DIPTYCH_FAULT_UNTIL")
    if until and Path(until).exists():
        return
    code = getattr(errno, action)
    raise OSError(code, f"{os.strerror(code)} (injected at {name})")
