"""Inputs → the catalogue, in as many reader processes as there are cores.

Not a process pool: there a crash breaks every pending job. Here a reader that dies costs a second
try of the file it was at; when that kills another one, the file is unreadable.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from diptych.errors import ConfigError
from diptych.processes import OF_THE_GROUP

from .catalogue import Catalogue, Listed
from .entry import Entry, Name, Status, readable_text
from .limits import Limits
from .listing import NO_SPLITS, list_inputs
from .reader import Answer, Task, serve
from .relate import relate

_LISTED_AT_ONCE = 1000
_TASKS_AT_ONCE = 16
_AHEAD = 2
"""Requests a reader holds: one it works on, one so that it never waits for us."""
_WAITING = 1000
_DEATHS = 6
"""Three files that kill may lie side by side; more, and it is not the files."""

_COMMIT_SECONDS = 1.0


@dataclass(frozen=True)
class Progress:
    """Files to read in this run, and of these done."""

    files: int
    done: int


def take_in(
    inputs: list[str],
    out: Path,
    limits: Limits | None = None,
    readers: int | None = None,
    tell: Callable[[Progress], None] = lambda _: None,
    pass_over: Sequence[Path] = (),
    splits: Mapping[str, str] = NO_SPLITS,
) -> Catalogue:
    """Bring the catalogue of ``out`` up to date with ``inputs``; the caller closes it.

    ``pass_over``: folders that are ours, too, like ``out``, and no part of any input. splits: as of
    ``list_inputs``.

    Raises UsageError, or ConfigError.
    """
    limits = limits or Limits()
    listing = list_inputs(inputs, (out, *pass_over), splits)
    catalogue = Catalogue(out)
    try:
        catalogue.begin(str(sorted(asdict(limits).items())))
        for some in _batches(listing, _LISTED_AT_ONCE):
            catalogue.listed(some)
        files = catalogue.end_of_listing()
        if files:
            wanted = readers or os.cpu_count() or 1
            with _Crew(catalogue, limits, min(wanted, files)) as crew:
                crew.read_all(lambda done: tell(Progress(files, done)))
        relate(catalogue.db)
        catalogue.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        catalogue.close()
        raise ConfigError(f"{catalogue.path}: {error}") from error
    except BaseException:
        catalogue.close()
        raise
    return catalogue


def _batches(listing: Iterator[Listed], size: int) -> Iterator[list[Listed]]:
    while some := list(islice(listing, size)):
        yield some


@dataclass
class _Reader:
    process: BaseProcess
    connection: Connection
    work: deque[list[Task]] = field(default_factory=deque)


class _Crew:
    """The readers; a context manager that ends them."""

    def __init__(self, catalogue: Catalogue, limits: Limits, count: int) -> None:
        self._catalogue, self._limits = catalogue, limits
        self._context = multiprocessing.get_context("spawn")
        self._readers: list[_Reader] = []
        self._count = count
        self._suspects: deque[Task] = deque()
        self._accused: set[int] = set()

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._readers:
            reader.process.kill()
            reader.process.join()
            reader.connection.close()

    def read_all(self, tell: Callable[[int], None]) -> None:
        """All files that wait, in the order of their ids; commits about once a second."""
        tasks = self._tasks()
        done, committed, dead_in_a_row = 0, time.monotonic(), 0
        more = True
        while True:
            more = self._hand_out(tasks) if more or self._suspects else False
            busy = [reader for reader in self._readers if reader.work]
            if not busy:
                break
            for ready in wait([reader.connection for reader in busy], _COMMIT_SECONDS):
                reader = next(each for each in busy if each.connection is ready)
                try:
                    answer: Answer = reader.connection.recv()
                except (EOFError, OSError):
                    dead_in_a_row += 1
                    if dead_in_a_row > 2 * self._count + _DEATHS:
                        raise ConfigError("the reader processes die; is memory short?") from None
                    done += self._buried(reader)
                    continue
                dead_in_a_row = 0
                done += self._noted(reader, answer)
            if time.monotonic() - committed > _COMMIT_SECONDS:
                self._catalogue.commit()
                committed = time.monotonic()
                tell(done)
        self._catalogue.commit()
        tell(done)

    def _tasks(self) -> Iterator[list[Task]]:
        last = 0
        while some := self._catalogue.waiting(last, _WAITING):
            last = some[-1][0]
            for start in range(0, len(some), _TASKS_AT_ONCE):
                yield some[start : start + _TASKS_AT_ONCE]

    def _hand_out(self, tasks: Iterator[list[Task]]) -> bool:
        """False when nothing is left to hand out."""
        while True:
            if len(self._readers) < self._count:
                self._readers.append(self._start())
            reader = min(self._readers, key=lambda each: len(each.work))
            if len(reader.work) >= _AHEAD:
                return True
            some = [self._suspects.popleft()] if self._suspects else next(tasks, None)
            if some is None:
                return False
            reader.work.append(list(some))
            try:
                reader.connection.send(some)
            except OSError:
                return True  # it is gone, which read_all finds out

    def _noted(self, reader: _Reader, answer: Answer) -> int:
        number, rows, last = answer
        self._catalogue.add(number, rows, last)
        if not last:
            return 0
        reader.work[0].pop(0)
        if not reader.work[0]:
            reader.work.popleft()
        return 1

    def _buried(self, reader: _Reader) -> int:
        """Its file is tried once more, alone; what it had not begun, as if nothing had been."""
        reader.process.kill()
        reader.process.join()
        reader.connection.close()
        self._readers.remove(reader)
        left = [task for some in reader.work for task in some]
        given_up = 0
        guilty = left[0]
        self._catalogue.again(guilty[0])
        if guilty[0] in self._accused:
            entry = Entry("", readable_text(guilty[1]), guilty[2])
            entry.becomes(Status.UNREADABLE, "reader-crashed", f"status {reader.process.exitcode}")
            rows: list[Entry | Name] = [entry]
            self._catalogue.add(guilty[0], rows, last=True)
            left, given_up = left[1:], 1
        self._accused.add(guilty[0])
        self._suspects.extend(left)
        return given_up

    def _start(self) -> _Reader:
        ours, theirs = self._context.Pipe()
        arguments = (os.getpid(), theirs, self._limits, self._catalogue.scratch)
        process = self._context.Process(target=serve, args=arguments)
        # It must not hear Ctrl-C before it has said that it leaves that to us.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_GROUP)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return _Reader(process, ours)
