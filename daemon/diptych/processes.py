"""Children that never outlive their parent: an orphaned acceptor would go on acknowledging."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import threading
import time
from typing import Any

from diptych import log as logs

log = logs.get_logger(__name__)

# prctl(2).
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
# Blocked while a child is spawned: it must not hear them before it has said what it does then.
OF_THE_GROUP = frozenset({signal.SIGINT, signal.SIGHUP})
BEAT_SECONDS = 1.0


def child_main(
    parent_pid: int,
    name: str,
    logging: logs.Settings,
    target: str,
    beats: Any,
    arguments: tuple[Any, ...],
) -> None:
    """What a spawned process runs: ``target`` ("module:function") with ``arguments``.

    Named rather than passed: the parent, and its other children, need not import what only this
    child uses. ``name`` is what ps and top show (15 characters). ``beats``, a shared number, grows
    every second while the interpreter runs: not while the process is stopped, or a library keeps
    the interpreter's lock; None: nobody looks.
    """
    follow(parent_pid, name)
    logs.configure(logging)
    if logging.shared_level is not None:
        logs.heed_level(logging)
    if beats is not None:
        threading.Thread(target=_beat, args=(beats,), daemon=True).start()
    module, _, function = target.partition(":")
    try:
        getattr(importlib.import_module(module), function)(*arguments)
    except Exception:  # multiprocessing would print it past the log
        log.exception("process-failed")
        sys.exit(1)


def follow(parent_pid: int, name: str) -> None:
    """Make this process, spawned by ``parent_pid``, end with it and leave Ctrl-C to it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the line above
        os._exit(1)
    libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    # Ctrl-C and a hang-up reach the whole process group; the parent decides what comes of them.
    for number in OF_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_THE_GROUP)


def _beat(beats: Any) -> None:
    while True:
        beats.value += 1
        time.sleep(BEAT_SECONDS)
