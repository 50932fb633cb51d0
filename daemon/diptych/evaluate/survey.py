"""Every input read once: which become cases, in which half, and what the others are.

Only what can be read is halved, so reading comes first; what it found is in the results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.errors import UsageError
from diptych.evaluate.cases import Case, Listing, halves
from diptych.evaluate.progress import Progress
from diptych.evaluate.reading import Unreadable
from diptych.evaluate.store import Record, Results
from diptych.volume.decoders import DecoderPool
from diptych.volume.value import Volume


@dataclass(frozen=True)
class Survey:
    """database, strangers: the halves of what can be read, in path order. slices: of all cases;
    voxels: of each. unreadable, others: (path, reason) of every image that became no case, and of
    everything that is no image. known: cases of the database that are natural duplicates of a
    case. known_pairs: pairs among the cases. planes: which case each plane is of
    (:func:`known_planes`)."""

    database: tuple[Case, ...]
    strangers: tuple[Case, ...]
    slices: int
    voxels: Mapping[str, float]
    unreadable: tuple[tuple[str, str], ...]
    others: tuple[tuple[str, str], ...]
    known: Mapping[str, tuple[str, ...]]
    known_pairs: int
    planes: Mapping[str, str]


def survey(
    folder: Path,
    listing: Listing,
    subjects: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
    results: Results,
    decoders: DecoderPool,
    progress: Progress,
) -> Survey:
    """Read what was not read before. UsageError: fewer than two cases, or an empty first half."""
    found = _read(listing, results, decoders, progress)
    unreadable, others = list(listing.unreadable), list(listing.others)
    for case in listing.cases:
        for where, reason, image in found[case.id]["left_out"]:
            (unreadable if image else others).append((where, reason))
    usable = [case for case in listing.cases if found[case.id]["shape"]]
    if len(usable) < 2:
        instance = f", for instance {': '.join(unreadable[0])}" if unreadable else ""
        raise UsageError(
            f"{folder}: the protocol needs at least two cases; {len(usable)} of "
            f"{len(listing.cases)} images can be read{instance}"
        )
    database, strangers = halves(usable, subjects)
    if not database:
        raise UsageError(f"{folder}: --subjects leaves no case for the database")
    ids = {case.id for case in usable}
    among = {frozenset(pair) for pair in pairs if ids.issuperset(pair)}
    return Survey(
        tuple(database),
        tuple(strangers),
        sum(found[id_]["shape"][0] for id_ in ids),
        {id_: float(np.prod(found[id_]["shape"])) for id_ in ids},
        tuple(sorted(unreadable)),
        tuple(sorted(others)),
        _known(among, database),
        len(among),
        {plane: id_ for id_ in sorted(ids) for plane in found[id_]["planes"]},
    )


def _read(
    listing: Listing, results: Results, decoders: DecoderPool, progress: Progress
) -> dict[str, Record]:
    """The record of each case that may become one, by id."""
    found = {record["case"]: record for record in results.records("case")}
    waiting = [case for case in listing.cases if case.id not in found]
    if waiting:
        with progress.phase("reading", len(waiting), len(waiting)) as phase:
            for case in waiting:
                found[case.id] = _examined(case, decoders)
                results.append(found[case.id])
                phase.finished(1)
    return found


def _examined(case: Case, decoders: DecoderPool) -> Record:
    """shape: of the volume, null where there is none; planes: what it is known by; left_out: files
    that are no part of it."""
    planes: list[str] = []
    try:
        reading = case.read(decoders)
    except Unreadable as error:
        shape, left_out = None, [(case.id, str(error), error.image)]
    else:
        shape = list(reading.volume.array.shape)
        planes = sorted(known_planes(reading.volume))
        left_out = [(case.name_of(path), why, image) for path, why, image in reading.left_out]
    return {
        "kind": "case",
        "case": case.id,
        "shape": shape,
        "planes": planes,
        "left_out": left_out,
    }


def known_planes(volume: Volume) -> set[str]:
    """The beginnings of the digests of its planes that are not constant: no two cases share one."""
    pairs = zip(volume.digests, volume.constant, strict=True)
    return {digest[:8].hex() for digest, constant in pairs if not constant}


def _known(pairs: Iterable[frozenset[str]], database: Sequence[Case]) -> dict[str, tuple[str, ...]]:
    others: dict[str, set[str]] = defaultdict(set)
    for a, b in map(tuple, pairs):
        others[a].add(b)
        others[b].add(a)
    return {
        id_: tuple(case.id for case in database if case.id in known)
        for id_, known in others.items()
    }
