"""Answers put into query sets: a score per query and k, as arrays. Streaming, a few bytes a query.

Three kinds of query: *copies* (set B) whose true case is in the database, the same copies with
their true case *removed*, and *strangers* (set C). The paper's negatives are the untransformed
strangers, for every query set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from diptych.evaluate.answers import DUPLICATE, SEVEN, Answer, Transform
from diptych.evaluate.statistics import Fit, Floats, algorithm_1
from diptych.judge.count import c

TOP_K = (1, 3)
"""The k of c(k) that the paper compares; thresholds are not shared between them."""
K = 3
"""The k of Algorithm 1, Table V and every headline."""
INDEXES = ("lsh", "hnsw", "exact")
"""In the order of the paper's columns; exact is ours."""


class Kind(StrEnum):
    COPY = "copy"
    REMOVED = "removed"
    STRANGER = "stranger"


@dataclass(frozen=True)
class Scores:
    """One query set. c: for each k the scores of its queries; right: the top case is the true one
    (or a known natural duplicate of it). All in the order of cases."""

    cases: tuple[str, ...]
    c: Mapping[int, Floats]
    right: npt.NDArray[np.bool_]


NONE = Scores((), {k: np.empty(0) for k in TOP_K}, np.empty(0, bool))


@dataclass(frozen=True)
class NaturalDuplicate:
    """An untransformed stranger known to be in the database under another name, looked up.

    score: c(3). top: the case with the most hits, None where nothing was found.
    """

    case: str
    known: tuple[str, ...]
    score: float
    top: str | None


@dataclass(frozen=True)
class Lookups:
    """All answers, by index, kind and transform.

    index: the one that the headlines are about: HNSW as in the paper, else the first one there is
    (None without any answer). natural: what was taken out of the negatives, in that index.
    """

    index: str | None
    indexes: tuple[str, ...]
    sets: Mapping[tuple[str, Kind, Transform], Scores]
    natural: tuple[NaturalDuplicate, ...]

    def copies(self, transform: Transform, index: str | None = None) -> Scores:
        return self._set(Kind.COPY, transform, index)

    def removed(self, transform: Transform) -> Scores:
        return self._set(Kind.REMOVED, transform)

    def strangers(self, transform: Transform = DUPLICATE, index: str | None = None) -> Scores:
        return self._set(Kind.STRANGER, transform, index)

    def _set(self, kind: Kind, transform: Transform, index: str | None = None) -> Scores:
        index = index or self.index
        return self.sets.get((index, kind, transform), NONE) if index else NONE


def collect(answers: Iterable[Answer]) -> Lookups:
    """Read all answers once.

    Queries with known natural duplicates leave the negatives: strangers, and copies whose true
    case was removed. ValueError: an impossible answer, or the same query twice in one index.
    """
    gathered: defaultdict[tuple[str, Kind, Transform], dict[str, tuple[float, float, bool]]]
    gathered = defaultdict(dict)
    natural: defaultdict[str, list[NaturalDuplicate]] = defaultdict(list)
    seen_indexes = set()
    for answer in answers:
        kind = _kind(answer)
        seen_indexes.add(answer.index)
        h = {place: hits for place, (_, hits) in enumerate(answer.ranked)}
        c1, c3 = (c(h, k, answer.n) for k in TOP_K)
        top = answer.ranked[0][0] if answer.ranked else None
        if answer.known and kind is not Kind.COPY:
            if kind is Kind.STRANGER and answer.transform == DUPLICATE:
                found = NaturalDuplicate(answer.case, answer.known, c3, top)
                natural[answer.index].append(found)
            continue
        queries = gathered[answer.index, kind, answer.transform]
        if answer.case in queries:
            raise ValueError(f"{answer.case!r} was answered twice: {kind}, {answer.transform}")
        queries[answer.case] = (c1, c3, top == answer.case or top in answer.known)

    main = next((i for i in ("hnsw", "exact", "lsh") if i in seen_indexes), None)
    return Lookups(
        main,
        tuple(i for i in INDEXES if i in seen_indexes),
        {key: _scores(queries) for key, queries in gathered.items()},
        tuple(natural[main]) if main else (),
    )


@dataclass(frozen=True)
class Calibration:
    """t_opt and the query sets it was fitted on; one threshold of fit per set."""

    fit: Fit
    sets: tuple[Transform, ...]


def calibrate(lookups: Lookups) -> Calibration | None:
    """Algorithm 1 over the seven sets, c(3), in the headline's index.

    None where it cannot be computed: no strangers, or no copies in any of the seven. Of the seven
    those with copies take part.
    """
    strangers = lookups.strangers().c[K]
    sets = tuple(t for t in SEVEN if lookups.copies(t).cases)
    if not (sets and strangers.size):
        return None
    copies = [lookups.copies(t).c[K] for t in sets]
    return Calibration(algorithm_1(copies, strangers), sets)


def hits_by_case(sets: Sequence[Scores], hits: Sequence[npt.NDArray[np.bool_]]) -> Floats:
    """Outcomes of several sets side by side: (cases, sets) of 1, 0, or NaN where there is no query.

    Cases in order of name.
    """
    cases = sorted({case for scores in sets for case in scores.cases})
    row = {case: place for place, case in enumerate(cases)}
    table = np.full((len(cases), len(sets)), np.nan)
    for column, (scores, found) in enumerate(zip(sets, hits, strict=True)):
        table[[row[case] for case in scores.cases], column] = found
    return table


def _kind(answer: Answer) -> Kind:
    if answer.index not in INDEXES:
        raise ValueError(f"index {answer.index!r} is none of {', '.join(INDEXES)}")
    if answer.side == "stranger" and not answer.removed:
        return Kind.STRANGER
    if answer.side == "copy":
        return Kind.REMOVED if answer.removed else Kind.COPY
    raise ValueError(f"no such query: side {answer.side!r}, removed {answer.removed}")


def _scores(queries: Mapping[str, tuple[float, float, bool]]) -> Scores:
    columns = list(zip(*queries.values(), strict=True))
    return Scores(
        tuple(queries),
        {k: np.array(columns[place], np.float64) for place, k in enumerate(TOP_K)},
        np.array(columns[-1], bool),
    )
