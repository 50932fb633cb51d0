"""Children that never outlive their parent: an orphaned acceptor would go on acknowledging."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
from typing import Any

# prctl(2).
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15


def child_main(parent_pid: int, name: str, target: str, arguments: tuple[Any, ...]) -> None:
    """What a spawned process runs: ``target`` ("module:function") with ``arguments``.

    Named rather than passed: the parent, and its other children, need not import what only this
    child uses. ``name`` is what ps and top show (15 characters).
    """
    follow(parent_pid, name)
    module, _, function = target.partition(":")
    getattr(importlib.import_module(module), function)(*arguments)


def follow(parent_pid: int, name: str) -> None:
    """Make this process, spawned by ``parent_pid``, end with it and leave Ctrl-C to it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)
    libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    # Ctrl-C reaches the whole process group; the parent decides how its children stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
