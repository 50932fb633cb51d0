"""What a delivery is and how long it will take: counts from the catalogue, time from a sample.

The rate is measured here and now: a few series are laid down, read and decoded as they will be
again, in one process. The interval is a bootstrap over these series: it knows of their differences,
not of a disk that is slower later.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.volume.decoders import DecoderPool
from diptych.volume.plane import Instance

from .catalogue import Catalogue
from .limits import Refused
from .materialise import materialise

SAMPLE_SERIES = 12
SAMPLE_SECONDS = 20.0
"""No further series is begun after this."""

_SAMPLE_BYTES = 2 * 2**30
"""A series above it is not chosen for the sample."""

_DRAWS = 1000
_FEWEST = 5
"""Below so many timed series an interval says nothing."""


@dataclass(frozen=True)
class Timing:
    """One series of the sample. kind: as in ``Rate.of``. seconds: wall clock, one process."""

    kind: str
    planes: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Rate:
    """Seconds of header and decode for a whole delivery in one process; low, high: 90 % of the
    bootstrap, None when too few series were timed. failed: sampled series that cannot be read."""

    timings: tuple[Timing, ...]
    failed: int
    seconds: float | None
    low: float | None
    high: float | None
    uncovered: int
    """Planes of a kind that no timed series has: counted at the rate of the others."""


def estimate(catalogue: Catalogue, tell: Callable[[int], None] = lambda _: None) -> Rate:
    """Time a sample of the catalogue's series; ``tell`` hears how many are done."""
    chosen = _sample(catalogue.db)
    timings: list[Timing] = []
    failed = 0
    begun = time.monotonic()
    with DecoderPool(children=1) as decoders:
        if chosen:
            # The child's start is no part of the rate.
            list(decoders.decode([Path(os.devnull)]))
            begun = time.monotonic()
        for number, kind, planes, size in chosen:
            if time.monotonic() - begun > SAMPLE_SECONDS:
                break
            start = time.perf_counter()
            try:
                with materialise(catalogue.db, number, catalogue.scratch) as paths:
                    outcomes = list(map(type, decoders.decode(paths)))
            except (Refused, OSError):
                outcomes = []
            if Instance not in outcomes:
                failed += 1
                continue
            timings.append(Timing(kind, planes, size, time.perf_counter() - start))
            tell(len(timings))
    return _rate(catalogue.db, timings, failed)


def _sample(db: sqlite3.Connection) -> list[tuple[int, str, int, int]]:
    """(series, kind, planes, bytes): in turns of each kind, the kinds with most bytes first."""
    draw = random.Random(1)  # noqa: S311 - the same sample of the same delivery
    kept: dict[str, list[tuple[int, str, int, int]]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    weight: dict[str, int] = defaultdict(int)
    for number, kind, planes, size in db.execute(f"SELECT id, {_KIND}, planes, bytes FROM series"):  # noqa: S608
        if size > _SAMPLE_BYTES:
            continue
        weight[kind] += size
        seen[kind] += 1
        # Reservoir sampling: every series has the same chance, however many there are.
        if len(kept[kind]) < SAMPLE_SERIES:
            kept[kind].append((number, kind, planes, size))
        elif (place := draw.randrange(seen[kind])) < SAMPLE_SERIES:
            kept[kind][place] = (number, kind, planes, size)
    chosen: list[tuple[int, str, int, int]] = []
    order = sorted(kept, key=lambda kind: (-weight[kind], kind))
    for kind in order:
        draw.shuffle(kept[kind])
    while len(chosen) < SAMPLE_SERIES and any(kept.values()):
        chosen += [kept[kind].pop() for kind in order if kept[kind]]
    return chosen[:SAMPLE_SERIES]


_KIND = "kind || CASE WHEN transfer_syntax = '' THEN '' ELSE ' ' || transfer_syntax END"


def _rate(db: sqlite3.Connection, timings: list[Timing], failed: int) -> Rate:
    planes = dict(db.execute(f"SELECT {_KIND}, sum(planes) FROM series GROUP BY 1"))  # noqa: S608
    timed = {timing.kind for timing in timings}
    uncovered = sum(count for kind, count in planes.items() if kind not in timed)
    if not timings:
        return Rate((), failed, None, None, None, uncovered)
    seconds = _total(planes, timings)
    low = high = None
    if len(timings) >= _FEWEST:
        draw = np.random.default_rng(1)
        rows = draw.integers(0, len(timings), (_DRAWS, len(timings)))
        totals = [_total(planes, [timings[i] for i in row]) for row in rows]
        low, high = (float(np.quantile(totals, q)) for q in (0.05, 0.95))
    return Rate(tuple(timings), failed, seconds, low, high, uncovered)


def _total(planes: dict[str, int], timings: list[Timing]) -> float:
    """Seconds per plane of each kind (of all kinds where none was timed) × its planes."""
    spent: dict[str, float] = defaultdict(float)
    done: dict[str, int] = defaultdict(int)
    for timing in timings:
        spent[timing.kind] += timing.seconds
        done[timing.kind] += timing.planes
    usual = sum(spent.values()) / max(1, sum(done.values()))
    return sum(
        count * (spent[kind] / done[kind] if done.get(kind) else usual)
        for kind, count in planes.items()
    )


def document(catalogue: Catalogue, rate: Rate, processes: int) -> dict[str, Any]:
    """The JSON: a contract. Times in seconds, sizes in bytes."""
    db = catalogue.db
    files, size = _one(db, "SELECT count(*), coalesce(sum(size), 0) FROM file")
    series, planes = _one(db, "SELECT count(*), coalesce(sum(planes), 0) FROM series")
    (studies,) = _one(db, "SELECT count(DISTINCT study) FROM series WHERE study != ''")
    (largest,) = _one(db, "SELECT coalesce(max(bytes), 0) FROM series WHERE packed > 0")
    outcomes = [
        {"status": status, "reason": reason, "count": count, "bytes": total}
        for status, reason, count, total in db.execute(
            "SELECT status, reason, count(*), coalesce(sum(size), 0) FROM outcome "
            "GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2"
        )
    ]
    kinds = [
        {"kind": kind, "series": count, "files": entries, "slices": slices, "bytes": total}
        for kind, count, entries, slices, total in db.execute(
            f"SELECT {_KIND}, count(*), sum(files), sum(planes), sum(bytes) FROM series "  # noqa: S608
            "GROUP BY 1 ORDER BY 5 DESC, 1"
        )
    ]
    return {
        "files": files,
        "entries": _one(db, "SELECT count(*) FROM outcome")[0],
        "bytes": size,
        "studies": studies,
        "series": series,
        "slices": planes,
        "kinds": kinds,
        "outcomes": outcomes,
        "named_but_absent": [
            {"named_by": by, "reason": reason, "count": count}
            for by, reason, count in db.execute(
                "SELECT named_by, reason, count(*) FROM absent GROUP BY 1, 2 UNION ALL "
                "SELECT whole, role, count(*) FROM lacking JOIN entry USING (file, at) "
                "GROUP BY 1, 2 ORDER BY 1, 2"
            )
        ],
        "decode": {
            "seconds": _shared(rate.seconds, processes),
            "low": _shared(rate.low, processes),
            "high": _shared(rate.high, processes),
            "processes": processes,
            "sampled_series": len(rate.timings),
            "sampled_slices": sum(timing.planes for timing in rate.timings),
            "sample_seconds": round(sum(timing.seconds for timing in rate.timings), 2),
            "sample_failed": rate.failed,
            "slices_of_unsampled_kinds": rate.uncovered,
        },
        "disk": {
            "catalogue": catalogue.path.stat().st_size,
            "scratch": largest * processes,
        },
    }


def _one(db: sqlite3.Connection, query: str) -> Any:
    return db.execute(query).fetchone()


def _shared(seconds: float | None, processes: int) -> float | None:
    return None if seconds is None else round(seconds / processes, 3)
