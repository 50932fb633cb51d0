"""What running the paper's protocol yields, one value per query: the input of every table.

Truong et al. 2023, section III-A: the transforms and their strengths, in the paper's order.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Transform:
    """One query set: what was done to its volumes, and how strongly.

    name: duplicate, crop, rotation, translation, blur, jpeg or noise. strength: None for a
    duplicate; crop and translation: a fraction of the original size; rotation: degrees in plane;
    blur: sigma in voxels; jpeg: quality in percent (a *lower* one is stronger); noise: standard
    deviation on the volume scaled to [0, 1].
    """

    name: str
    strength: float | None


DUPLICATE = Transform("duplicate", None)

TRANSFORMS: tuple[Transform, ...] = (
    DUPLICATE,
    *(
        Transform(name, strength)
        for name, strengths in (
            ("crop", (0.05, 0.10, 0.15, 0.20)),
            ("rotation", (5.0, 10.0, 15.0, 20.0)),
            ("translation", (0.05, 0.10, 0.15, 0.20)),
            ("blur", (1.0, 2.0, 4.0, 8.0)),
            ("jpeg", (100.0, 75.0, 50.0, 25.0)),
            ("noise", (0.1, 0.2, 0.4, 0.8)),
        )
        for strength in strengths
    ),
)
"""All 25 query sets: the duplicates, then each transform from its weakest strength on."""

SEVEN: tuple[Transform, ...] = (DUPLICATE, *TRANSFORMS[1::4])
"""The sets of Algorithm 1 and Table V: the duplicates and the six lowest strengths."""


@dataclass(frozen=True)
class Answer:
    """One query looked up once, in paper mode: all slices, an index of its own, no mask.

    case: the query's case, a path relative to FOLDER. side: "copy" (of set B: its case is in the
    database) or "stranger" (of set C). index: "hnsw", "exact" or "lsh". removed: the true case
    was taken out of the candidates (copies only). n: slices of the query, equation (1)'s n, at
    least 1. ranked: up to ten (database case, hits), most hits first, ties in database order.
    known: database cases known to be natural duplicates of the query (``--known-pairs``).
    """

    case: str
    side: str
    transform: Transform
    index: str
    removed: bool
    n: int
    ranked: tuple[tuple[str, int], ...]
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProductAnswer:
    """The daemon's own ladder on the same query.

    relation: exact, near-duplicate, partial, related, unique or not-screenable. matched: the
    case it points at. seconds: from the volume to the verdict.
    """

    case: str
    side: str
    transform: Transform
    relation: str
    matched: str | None
    seconds: float
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mistake:
    """What the complete ladder said wrongly of one query.

    matched: the case it points at, None: none. against: the case it is held against, the matched or
    the true one. margin: how far the two are above what is demanded (:func:`ablation.margin`).
    tried: the ladder itself aligned them.
    """

    case: str
    side: str
    transform: Transform
    relation: str
    matched: str | None
    against: str
    margin: float
    tried: bool


@dataclass(frozen=True)
class Protocol:
    """What was run: it stands on top of every table and in the JSON.

    threshold_from: "calibration: NAME" or "same data". slices: of all cases. unreadable: the
    path and the reason of every input that became no case. known_pairs: pairs of
    ``--known-pairs`` that are among the cases.
    """

    cases: int
    database: int
    nonduplicates: int
    model: str
    index: str
    threshold_from: str
    slices: int
    unreadable: tuple[tuple[str, str], ...] = ()
    known_pairs: int = 0
