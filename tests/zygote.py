"""A process that has imported Diptych and becomes, by forks, any Python process asked of it.

Half of what the tests would compute is imports: every command and every child of a daemon spends
0.5 to 1.5 s of CPU on them. ``forked.py`` asks; here is the other side. A process made here has
the words, environment, folder, descriptors, session and signals that an exec'd one would have, and
is a child of who asked: that one takes orphans in (PR_SET_CHILD_SUBREAPER) while it asks, and the
process between the two ends.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import io
import os
import pickle
import runpy
import signal
import socket
import struct
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from contextlib import closing
from ctypes import CDLL
from functools import partial
from multiprocessing import process, util
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_LENGTH = struct.Struct("!I")
_MOST_DESCRIPTORS = 64
_ONE_AT_A_TIME = threading.Lock()
_WITH_CHILDREN = ("serve", "screen", "evaluate")
_SET_BY_IMPORTS: dict[str, str] = {}
_PRELOADED = (
    "diptych.cli",
    "diptych.worker",
    "diptych.receive.acceptor",
    "diptych.forward.process",
)


class Away(Exception):
    """The process that would fork ended."""


def ask(
    zygote: socket.socket,
    words: Sequence[str],
    folder: str,
    environment: Mapping[str, str],
    descriptors: Mapping[int, int],
    session: bool = False,
) -> int:
    """The pid of a new child of ours that runs ``python *words`` (``-m module …`` or ``-c code``).

    ``descriptors``: which of ours it has under which number.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    asked = (list(words), folder, dict(environment), list(descriptors), session, mask)
    body = pickle.dumps(asked)
    prctl = CDLL(None).prctl
    with _ONE_AT_A_TIME:
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(zygote, [_LENGTH.pack(len(body))], list(descriptors.values()))
            zygote.sendall(body)
            (pid,) = _LENGTH.unpack(_exactly(zygote, _LENGTH.size))
        finally:
            prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    return int(pid)


def _serve(asking: socket.socket) -> list[str]:
    """Fork whatever is asked for; returns in the processes made, with their words."""
    while True:
        try:
            head, received, _, _ = socket.recv_fds(asking, _LENGTH.size, _MOST_DESCRIPTORS)
            body = _exactly(asking, *_LENGTH.unpack(head)) if head else b""
        except (Away, ConnectionError):
            body = b""
        if not body:
            os._exit(0)  # who asked is gone
        words, folder, environment, numbers, session, mask = pickle.loads(body)
        wait, go = os.pipe()
        said, say = os.pipe()
        between = os.fork()
        if not between:
            made = os.fork()
            if made:
                os.write(say, _LENGTH.pack(made))
                os._exit(0)
            os.read(wait, 1)  # until the asker is our parent
            for descriptor in (wait, go, said, say, asking.detach()):
                os.close(descriptor)
            _place(dict(zip(numbers, received, strict=True)))
            _enter(words, folder, environment, session)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return list(words)
        (made,) = _LENGTH.unpack(os.read(said, _LENGTH.size))
        os.waitpid(between, 0)
        os.write(go, b"!")
        for descriptor in (wait, go, said, say, *received):
            os.close(descriptor)
        asking.sendall(_LENGTH.pack(made))


def _place(descriptors: dict[int, int]) -> None:
    """Give each descriptor the number it must have, and close what it had."""
    above = max(descriptors) + 1
    moved = {
        number: fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, above)
        for number, descriptor in descriptors.items()
    }
    for descriptor in set(descriptors.values()):
        os.close(descriptor)
    for number, descriptor in moved.items():
        os.dup2(descriptor, number)
        os.close(descriptor)


def _enter(words: list[str], folder: str, environment: dict[str, str], session: bool) -> None:
    """What an exec'd interpreter begins with."""
    if session:
        os.setsid()
    os.chdir(folder)
    process.ORIGINAL_DIR = folder  # type: ignore[attr-defined]
    tempfile.tempdir = None
    os.environ.clear()
    os.environ.update({**environment, **_SET_BY_IMPORTS})
    sys.path[0] = str(Path.cwd()) if words[0] == "-m" else ""
    sys.argv = [words[0], *words[2:]]
    unbuffered = bool(environment.get("PYTHONUNBUFFERED"))
    for number, name, errors in (
        (0, "stdin", sys.stdin.errors),
        (1, "stdout", sys.stdout.errors),
        (2, "stderr", "backslashreplace"),
    ):
        raw = io.FileIO(number, "w" if number else "r", closefd=False)
        buffered = io.BufferedWriter if number else io.BufferedReader
        stream = io.TextIOWrapper(
            raw if number and unbuffered else buffered(raw),
            encoding=sys.stdout.encoding,
            errors=errors,
            line_buffering=number == 2 or raw.isatty(),
            write_through=unbuffered,
        )
        stream.mode = "w" if number else "r"
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _become() -> list[str]:
    """The words of the process we are by then."""
    given = dict(os.environ)
    for name in _PRELOADED:
        importlib.import_module(name)
    _SET_BY_IMPORTS.update(set(os.environ.items()) - set(given.items()))
    gc.freeze()
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads after the imports: a fork would lose them"
    # Signals to the group are for those who were asked for; they get a mask of their own.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    words = _serve(socket.socket(fileno=int(sys.argv[1])))
    if words[2:3] and words[2] in _WITH_CHILDREN:
        # They come of a copy of this moment: later it has threads.
        ours, theirs = socket.socketpair()
        with closing(theirs):
            if not os.fork():
                ours.close()
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                nowhere = os.open(os.devnull, os.O_RDWR)
                _place(dict.fromkeys((0, 1, 2), nowhere))
                return _serve(theirs)
        util.spawnv_passfds = partial(_spawned, ours)
    return words


def _spawned(zygote: socket.socket, path: str, words: list[bytes | str], kept: list[int]) -> int:
    """In the place of multiprocessing's ``spawnv_passfds``."""
    said = [os.fsdecode(word) for word in words]
    first = said.index("-c")  # before it: the flags of the interpreter, which we share
    descriptors = {number: number for number in (0, 1, 2, *kept)}
    return ask(zygote, said[first:], str(Path.cwd()), os.environ, descriptors)


def _exactly(connection: socket.socket, length: int) -> bytes:
    got = b""
    while len(got) < length:
        if not (more := connection.recv(length - len(got))):
            raise Away("the zygote, or who asks it, is gone")
        got += more
    return got


def _run(words: list[str]) -> None:
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(words[1], main.__dict__)


def _leave(status: list[int]) -> None:
    """The last thing that runs at exit: the kernel takes the modules apart faster than Python."""
    if status and not sys.stdout.closed:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:  # a word for the interpreter
            return
        os._exit(status[0])


def _main() -> None:
    status: list[int] = []  # none: the interpreter knows what comes of it
    atexit.register(_leave, status)
    words = _become()
    try:
        _run(words)
        status.append(0)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            status.append((end.code or 0) & 0xFF)
        raise


if __name__ == "__main__":
    _main()
