"""Persistent decoder children with a memory and a time limit, for one caller thread.

Not a process pool: there a crash breaks every pending job. Here a crash, a bomb or an endless loop
costs the one instance that caused it; the child is replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import cast

from diptych.errors import DiptychError, Reason

from . import wire
from .limits import MEMORY_BYTES, SECONDS_PER_INSTANCE, Limits
from .plane import Instance, Refusal

_AHEAD = 2
"""Requests a child holds: one it works on, one so that it never waits for us."""

_WINDOW_PER_CHILD = 4
"""Answers kept while an earlier one is awaited; bounds the parent's memory."""

_LOOK_UP_SECONDS = 1.0
"""How soon a thread that waits for a child notices that the pool was closed."""

_START_SECONDS = 60.0
"""For a child's imports on a loaded machine; it takes about one."""

_SEND_BUFFER = 2 << 20

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPJ_NUM_THREADS": "1"}


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    sock: socket.socket
    life: int
    work: deque[int] = field(default_factory=deque)
    since: float = 0.0

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.sock.close()
        os.close(self.life)


@dataclass
class _Job:
    """One call of ``decode``: what is still to do, what is done, what has crashed a child once."""

    paths: Sequence[Path]
    pixels: bool
    waiting: deque[int]
    done: dict[int, Instance | Refusal] = field(default_factory=dict)
    crashed: set[int] = field(default_factory=set)
    room: wire.Room = field(default_factory=wire.Room)


class DecoderPool:
    """Decodes instances in ``children`` processes.

    A context manager. ``decode`` may be called many times, from one thread at a time; children
    start with the first call and outlive it. They end with ``close``, and when this process dies,
    however it dies.
    """

    def __init__(
        self,
        children: int = 1,
        seconds_per_instance: float = SECONDS_PER_INSTANCE,
        memory_bytes: int = MEMORY_BYTES,
        limits: Limits | None = None,
    ) -> None:
        if children < 1 or seconds_per_instance <= 0:
            raise ValueError(f"{children} children, {seconds_per_instance} s")
        self._count = children
        self._seconds = seconds_per_instance
        self._memory = memory_bytes
        self._limits = limits or Limits()
        self._children: list[_Child] = []
        self._closed = False

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the children now; a ``decode`` that runs in another thread ends with DiptychError."""
        self._closed = True
        while self._children:
            self._children.pop().stop()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The children that are alive, for monitoring and tests."""
        return tuple(child.process.pid for child in self._children)

    def decode(
        self, paths: Sequence[Path], pixels: bool = True
    ) -> Generator[Instance | Refusal, None, None]:
        """Yield one outcome per path, in the order of ``paths``.

        ``pixels=False`` brings headers, geometry and digests but no arrays. Besides what
        ``instance.decode_file`` refuses: DECODER_TIMEOUT after ``seconds_per_instance`` of wall
        clock, DECODER_CRASHED when the child died over it twice. Raises ``DiptychError`` when no
        child starts.
        """
        self._refuse_when_closed()
        job = _Job(paths, pixels, deque(range(len(paths))))
        try:
            for wanted in range(len(paths)):
                while wanted not in job.done:
                    self._hand_out(job, wanted)
                    self._collect(job)
                self._hand_out(job, wanted + 1)
                yield job.done.pop(wanted)
        finally:
            # An abandoned iteration leaves answers on the way: those children start afresh.
            for child in [child for child in self._children if child.work]:
                self._drop(child)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise DiptychError("the decoder pool is closed")

    def _hand_out(self, job: _Job, wanted: int) -> None:
        last = wanted + _WINDOW_PER_CHILD * self._count
        while job.waiting and job.waiting[0] < last:
            child = self._idlest()
            if child is None:
                return
            number = job.waiting.popleft()
            path = os.fsencode(job.paths[number]).hex()
            request = json.dumps({"path": path, "pixels": job.pixels})
            if not child.work:
                child.since = time.monotonic()
            child.work.append(number)
            # A child that is gone shows in _collect, where its work is accounted for.
            with contextlib.suppress(OSError):
                child.sock.sendall(request.encode() + b"\n")

    def _idlest(self) -> _Child | None:
        for child in [c for c in self._children if not c.work and c.process.poll() is not None]:
            self._drop(child)
        idlest = min(self._children, key=lambda child: len(child.work), default=None)
        if (idlest is None or idlest.work) and len(self._children) < self._count:
            idlest = self._start()
            self._children.append(idlest)
        return idlest if idlest is not None and len(idlest.work) < _AHEAD else None

    def _collect(self, job: _Job) -> None:
        busy = [child for child in self._children if child.work]
        with selectors.DefaultSelector() as selector:
            for child in busy:
                selector.register(child.sock, selectors.EVENT_READ, child)
            now = time.monotonic()
            patience = min(child.since + self._seconds for child in busy) - now
            patience = min(max(0.0, patience), _LOOK_UP_SECONDS)
            ready = [cast(_Child, key.data) for key, _ in selector.select(patience)]
        self._refuse_when_closed()
        now = time.monotonic()
        for child in busy:
            if child in ready:
                try:
                    job.done[child.work[0]] = wire.receive(child.sock, self._memory, job.room)
                    child.work.popleft()
                    child.since = time.monotonic()
                except TimeoutError:
                    self._timed_out(child, job)
                except wire.Disconnected:
                    self._crashed(child, job)
            elif now >= child.since + self._seconds:
                self._timed_out(child, job)

    def _timed_out(self, child: _Child, job: _Job) -> None:
        number = child.work.popleft()
        detail = f"more than {self._seconds:g} s"
        job.done[number] = Refusal(str(job.paths[number]), Reason.DECODER_TIMEOUT, detail)
        self._drop(child, job)

    def _crashed(self, child: _Child, job: _Job) -> None:
        number = child.work.popleft()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(timeout=1)
        if number in job.crashed:
            detail = f"twice; the child ended with status {child.process.poll()}"
            job.done[number] = Refusal(str(job.paths[number]), Reason.DECODER_CRASHED, detail)
        else:
            # The kernel's out-of-memory killer chooses the largest, not the guilty: try once more.
            job.crashed.add(number)
            child.work.appendleft(number)
        self._drop(child, job)

    def _drop(self, child: _Child, job: _Job | None = None) -> None:
        """End a child; what it had not begun is asked again."""
        self._children.remove(child)
        if job is not None:
            job.waiting.extendleft(reversed(child.work))
        child.stop()

    def _start(self) -> _Child:
        self._refuse_when_closed()
        ours, theirs = socket.socketpair()
        # A slice at once, where the system allows it: a smaller buffer is filled in turns.
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        life_theirs, life_ours = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: S603  our own interpreter and module
                [
                    *(sys.executable, "-m", "diptych.volume.child"),
                    *("--socket", str(theirs.fileno()), "--life", str(life_theirs)),
                    *("--memory", str(self._memory)),
                    *("--limits", json.dumps(asdict(self._limits))),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), life_theirs),
                env={**os.environ, **_ONE_THREAD},
            )
        finally:
            theirs.close()
            os.close(life_theirs)
        child = _Child(process, ours, life_ours)
        ours.settimeout(_START_SECONDS)
        try:
            if wire.receive(ours, self._memory) != wire.READY:
                raise wire.Disconnected
        except (wire.Disconnected, TimeoutError) as error:
            child.stop()
            raise DiptychError(
                f"a decoder child did not start (exit status {process.returncode})"
            ) from error
        ours.settimeout(self._seconds)
        return child
