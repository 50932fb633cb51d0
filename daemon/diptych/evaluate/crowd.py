"""The crowd: thousands of stand-ins made ready and embedded, as the cases of a database are.

    number → warped source, or generated body → make_ready → embed → one row of crowd.sqlite

Several processes make them, this one writes them down and hands them on in order of their numbers.
The file is a cache: what is in it is not made again, in this run or in another one with the same
sources and model; proxies stay there and are fetched when a candidate is verified.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diptych import processes
from diptych.embed.manifest import ModelEntry
from diptych.embed.session import Embedder
from diptych.errors import DiptychError, UsageError
from diptych.evaluate import standins
from diptych.evaluate.sources import Source, Sources
from diptych.evaluate.store import FORMAT, Embedded, embedded_case, pack, unpack
from diptych.judge import proxy
from diptych.judge.digest import case_digest
from diptych.ready import Ready, Stages, make_ready
from diptych.volume.value import Volume

MAKERS = max(1, min(4, os.cpu_count() or 1))
"""Processes, each with one thread for the model."""
CHUNK = 20
"""Stand-ins made, embedded and written down together."""
AHEAD = 3
"""Chunks per process that may wait to be written down: some 50 MB in all."""

_TABLES = """
CREATE TABLE IF NOT EXISTS identity (content TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS stand_in (
    number INTEGER PRIMARY KEY,
    seconds REAL NOT NULL,
    slices INTEGER NOT NULL,
    content BLOB NOT NULL
);
"""

Row = tuple[int, float, int, bytes]


@dataclass(frozen=True)
class Made:
    """What is on disk of the stand-ins. making_seconds: of processors, together."""

    stand_ins: int
    slices: int
    making_seconds: float
    bytes_on_disk: int


class Crowd:
    """The stand-ins 0 … count - 1 of these sources under one model. A context manager."""

    def __init__(self, path: Path, count: int, sources: Sources, model: ModelEntry) -> None:
        """UsageError: the file cannot be written, or is something else."""
        self._path, self._count, self._sources, self._model = path, count, sources, model
        try:
            self._file = self._open()
        except sqlite3.Error as error:
            raise UsageError(f"{path}: {error}: name another folder with --out") from error

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Embedded]:
        """Every stand-in in order of its number; what is missing is made on the way.

        DiptychError: a process that makes them has died.
        """
        chunks = deque(
            range(start, min(start + CHUNK, self._count)) for start in range(0, self._count, CHUNK)
        )
        if not self._missing(range(self._count)):
            makers = None
        else:
            makers = ProcessPoolExecutor(
                MAKERS,
                multiprocessing.get_context("spawn"),
                _begin,
                (os.getpid(), self._model, self._sources.each),
            )
        try:
            waiting: deque[tuple[range, Future[list[Row]] | None]] = deque()
            while chunks or waiting:
                while chunks and len(waiting) < AHEAD * MAKERS:
                    chunk = chunks.popleft()
                    missing = self._missing(chunk)
                    made = makers.submit(_made, missing) if makers and missing else None
                    waiting.append((chunk, made))
                chunk, made = waiting.popleft()
                if made is not None:
                    self._keep(made.result())
                for number in chunk:
                    yield self[number]
        except BrokenProcessPool as error:
            raise DiptychError(
                "a process that makes stand-ins has died (not enough memory?); "
                "the same command with --resume goes on"
            ) from error
        finally:
            if makers is not None:
                makers.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Embedded:
        """One that was made."""
        query = "SELECT content FROM stand_in WHERE number = ?"
        return unpack(self._file.execute(query, (number,)).fetchone()[0])

    def proxy(self, number: int) -> bytes:
        """Its proxy, for verification."""
        return self[number].proxy

    def made(self) -> Made:
        """What there is of the numbers asked for."""
        query = "SELECT count(*), sum(slices), sum(seconds) FROM stand_in WHERE number < ?"
        count, slices, seconds = self._file.execute(query, (self._count,)).fetchone()
        return Made(count, slices or 0, round(seconds or 0.0, 1), self._path.stat().st_size)

    def _open(self) -> sqlite3.Connection:
        file = sqlite3.connect(self._path, isolation_level=None)
        identity = self._identity()
        try:
            file.executescript(f"PRAGMA synchronous = NORMAL; {_TABLES}")
            if file.execute("SELECT content FROM identity").fetchall() != [(identity,)]:
                file.executescript("DELETE FROM stand_in; DELETE FROM identity; VACUUM")
                file.execute("INSERT INTO identity VALUES (?)", (identity,))
        except BaseException:
            file.close()
            raise
        return file

    def _identity(self) -> str:
        """Of everything that a row follows from, beside its number."""
        parts = (standins.RECIPE, FORMAT, proxy.VERSION, self._model.fingerprint)
        return hashlib.sha256(f"{parts} {self._sources.digest}".encode()).hexdigest()

    def _missing(self, numbers: range) -> list[int]:
        query = "SELECT number FROM stand_in WHERE number BETWEEN ? AND ?"
        there = {n for (n,) in self._file.execute(query, (numbers.start, numbers.stop - 1))}
        return [number for number in numbers if number not in there]

    def _keep(self, rows: Sequence[Row]) -> None:
        self._file.execute("BEGIN")
        self._file.executemany("INSERT OR REPLACE INTO stand_in VALUES (?, ?, ?, ?)", rows)
        self._file.execute("COMMIT")


class _Maker:
    """What a process makes stand-ins with."""

    def __init__(self, model: ModelEntry, sources: Sequence[Source]) -> None:
        self._embedder = Embedder(model, threads=1)
        self._sources = sources
        self._arrays = [np.load(source.array, mmap_mode="r") for source in sources]

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        """The slices of all of them are embedded together: no batch is filled up with nothing."""
        began = time.process_time()
        volumes = [self._volume(number) for number in numbers]
        ready = [
            make_ready(volume, self._embedder.model.input_size, Stages()) for volume in volumes
        ]
        vectors = self._embedder.embed(np.concatenate([each.slices for each in ready]))
        ends = np.cumsum([len(each.slice_digests) for each in ready])
        cases = [
            _case(volume, each, part)
            for volume, each, part in zip(volumes, ready, np.split(vectors, ends[:-1]), strict=True)
        ]
        seconds = (time.process_time() - began) / len(numbers)
        return [
            (number, seconds, len(case.vectors), pack(case))
            for number, case in zip(numbers, cases, strict=True)
        ]

    def _volume(self, number: int) -> Volume:
        place = standins.source_of(number, len(self._sources))
        if place is None:
            return standins.body(number)
        return standins.stand_in(self._arrays[place], self._sources[place].frame, number)


def _case(volume: Volume, ready: Ready, vectors: NDArray[np.float32]) -> Embedded:
    digest = None if all(volume.constant) else case_digest(volume.digests)
    return embedded_case(ready, digest, vectors, np.ones(len(vectors), np.bool_))


_maker: _Maker | None = None


def _begin(parent: int, model: ModelEntry, sources: Sequence[Source]) -> None:
    """A maker's process begins."""
    global _maker
    processes.follow(parent, "diptych-crowd")
    _maker = _Maker(model, sources)


def _made(numbers: Sequence[int]) -> list[Row]:
    assert _maker is not None
    return _maker.rows(numbers)
