"""The answers counted: false alarms with their bounds, and Algorithm 1 on the archive itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.calibration.nulls import Asked, Null
from diptych.evaluate.answers import DUPLICATE, SEVEN, Transform
from diptych.evaluate.statistics import Fit, algorithm_1, at_most

ENOUGH = 20
"""Cases of a modality that get a figure of their own: with none wrong the bound is 14 %."""


@dataclass(frozen=True)
class Rate:
    """False alarms. bound: what the rate is at most, at 95 %; None when nobody was asked."""

    alarms: int
    of: int

    @property
    def bound(self) -> float | None:
        return at_most(self.alarms, self.of) if self.of else None


@dataclass(frozen=True)
class Row:
    """One query set: of everybody, and of each modality with ``ENOUGH`` cases."""

    name: str
    everybody: Rate
    modalities: dict[str, Rate]


@dataclass(frozen=True)
class Threshold:
    """Algorithm 1, and what the policy's own threshold gives on the same scores: the mean over the
    sets of the share of copies above it, and the share of strangers that are not."""

    fit: Fit
    sets: tuple[tuple[Transform, int], ...]
    strangers: int
    policy: float
    sensitivity: float
    specificity: float


@dataclass(frozen=True)
class Figures:
    """alone: cases without any stranger. blank: without an informative slice; neither is counted.
    gone: why cases could not be transformed, and which. found: of the copies, per set."""

    asked: int
    alone: int
    blank: int
    clean: Row
    doubted: Rate
    doubtful: int
    transformed: tuple[Row, ...]
    any_transform: Row | None
    found: tuple[tuple[Transform, int, int], ...]
    gone: dict[str, list[int]]
    alarms: tuple[Null, ...]
    threshold: Threshold | None

    @property
    def pairs(self) -> list[list[Null]]:
        """The alarms between the same two cases, clean ones first."""
        found: dict[frozenset[int | None], list[Null]] = {}
        for null in sorted(self.alarms, key=lambda null: null.transform != DUPLICATE):
            found.setdefault(frozenset((null.case_id, null.alarm)), []).append(null)
        return list(found.values())


def count(answers: Sequence[Asked], transforms: Sequence[Transform], policy: float) -> Figures:
    """Of all answers; policy: its threshold of c(3)."""
    counted = [each for each in answers if each.clean.score is not None]
    modalities = Counter(each.clean.modality or "unknown" for each in counted)
    large = sorted(name for name, cases in modalities.items() if cases >= ENOUGH)
    changed = [null for each in counted for null in each.transformed if null.score is not None]
    doubted = [each.doubted or each.clean for each in counted]
    gone: dict[str, list[int]] = {}
    for each in answers:
        if each.gone is not None:
            gone.setdefault(each.gone, []).append(each.clean.case_id)
    asked_transforms = [t for t in transforms if t != DUPLICATE]
    return Figures(
        asked=len(answers),
        alone=sum(not each.clean.strangers for each in answers),
        blank=sum(each.clean.strangers > 0 and each.clean.score is None for each in answers),
        clean=_row("clean", [[each.clean] for each in counted], large),
        doubted=_rate([[null] for null in doubted]),
        doubtful=sum(each.doubted is not None for each in counted),
        transformed=tuple(
            _row(named(t), [[null] for null in changed if null.transform == t], large)
            for t in asked_transforms
        ),
        any_transform=_row("any of these", [e.transformed for e in counted if e.transformed], large)
        if len(asked_transforms) > 1
        else None,
        found=tuple(
            (t, sum(c.found for c in copies), len(copies))
            for t in SEVEN
            if (copies := [c for e in answers for c in e.copies if c.transform == t])
        ),
        gone=gone,
        alarms=tuple(
            null
            for each in counted
            for null in (each.clean, *each.transformed)
            if null.alarm is not None
        ),
        threshold=_threshold(counted, answers, policy),
    )


def named(transform: Transform) -> str:
    """As ``--transforms`` takes it: name, or name-strength."""
    strength = transform.strength
    return transform.name if strength is None else f"{transform.name}-{strength:g}"


def _row(name: str, groups: Sequence[Sequence[Null]], large: Iterable[str]) -> Row:
    return Row(
        name,
        _rate(groups),
        {
            modality: _rate([g for g in groups if (g[0].modality or "unknown") == modality])
            for modality in large
        },
    )


def _rate(groups: Sequence[Sequence[Null]]) -> Rate:
    """A group, the queries of one case, is one trial."""
    return Rate(sum(any(n.alarm is not None for n in g) for g in groups), len(groups))


def _threshold(
    counted: Sequence[Asked], answers: Sequence[Asked], policy: float
) -> Threshold | None:
    """None without strangers, or without copies."""
    strangers = np.array([each.clean.score for each in counted], np.float64)
    sets = [
        (t, np.array(scores, np.float64))
        for t in SEVEN
        if (scores := [c.score for e in answers for c in e.copies if c.transform == t])
    ]
    if not (sets and strangers.size):
        return None
    return Threshold(
        algorithm_1([scores for _, scores in sets], strangers),
        tuple((t, len(scores)) for t, scores in sets),
        strangers.size,
        policy,
        float(np.mean([(scores > policy).mean() for _, scores in sets])),
        float((strangers <= policy).mean()),
    )
