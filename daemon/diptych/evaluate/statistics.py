"""Rates with their bounds, ROC curves, AUC, t_ROC and Algorithm 1. Arrays in, numbers out.

Truong et al. 2023, sections II and III-B. A score is c(k) of :mod:`diptych.judge.count`; a query
is called a duplicate when its score *surpasses* the threshold, that is score > t everywhere here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import binomtest, norm, rankdata

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
REPLICATES = 2000
"""Bootstrap replicates: enough that a 95 % percentile bound moves in the third digit only."""
SEED = 0
"""The same answers give the same bounds."""
_CHUNK = 4_000_000
"""Weights drawn at once (32 MB): the bootstrap stays bounded whatever the number of cases."""


@dataclass(frozen=True)
class Estimate:
    """A number between 0 and 1, its 95 % bound and its counts; None where nothing was counted.

    counts: (hits, of) of a rate, summed over the sets of a mean; (copies, strangers) of an AUC.
    """

    value: float | None
    low: float | None
    high: float | None
    counts: tuple[int, int]


UNKNOWN = Estimate(None, None, None, (0, 0))


def rate(hits: int, of: int) -> Estimate:
    """hits / of with its Clopper-Pearson bound. ValueError when hits is not within 0..of."""
    if not 0 <= hits <= of:
        raise ValueError(f"{hits} of {of} is no rate")
    if of == 0:
        return UNKNOWN
    low, high = _clopper_pearson(hits, of, CONFIDENCE)
    return Estimate(hits / of, low, high, (hits, of))


def at_most(hits: int, of: int) -> float:
    """The exact (Clopper-Pearson) upper bound of a rate, one-sided at 95 %: 0 of 444 is at most
    0.0067. ValueError without a trial."""
    return float(
        binomtest(hits, of, alternative="less").proportion_ci(CONFIDENCE, method="exact").high
    )


@dataclass(frozen=True)
class Stages:
    """The counts of one query set at one threshold, and the two stages' rates (section III-B).

    copies: queries whose case is in the database; positives: those with score > threshold; wrong:
    those of them whose top case is another one. strangers, alarms: the same two for queries whose
    case is not. Stage 2 takes a wrong-case positive from the true positives and *adds* it to the
    false positives and to the negatives: sens2 = (TP - m) / copies, spec2 = TN / (strangers + m).
    The paper does not spell that out; every cell of its Table V follows from it.
    """

    threshold: float
    copies: int
    positives: int
    wrong: int
    strangers: int
    alarms: int

    def __post_init__(self) -> None:
        if not (0 <= self.wrong <= self.positives <= self.copies):
            raise ValueError(f"impossible counts of copies: {self}")
        if not 0 <= self.alarms <= self.strangers:
            raise ValueError(f"impossible counts of strangers: {self}")

    @property
    def sensitivity_stage1(self) -> Estimate:
        return rate(self.positives, self.copies)

    @property
    def sensitivity_stage2(self) -> Estimate:
        return rate(self.positives - self.wrong, self.copies)

    @property
    def specificity_stage1(self) -> Estimate:
        return rate(self.strangers - self.alarms, self.strangers)

    @property
    def specificity_stage2(self) -> Estimate:
        # Without any stranger it would be made of wrong-case copies alone: no specificity.
        of = self.strangers + self.wrong if self.strangers else 0
        return rate(self.strangers - self.alarms, of)


@dataclass(frozen=True)
class Roc:
    """One point per threshold, from (0, 0) to (1, 1).

    thresholds: the scores that occur, descending, then -inf (everything surpasses it). positives
    and alarms: copies and strangers with score > threshold, of copies and strangers.
    """

    thresholds: Floats
    positives: npt.NDArray[np.int64]
    alarms: npt.NDArray[np.int64]
    copies: int
    strangers: int

    @property
    def sensitivity(self) -> Floats:
        return self.positives / self.copies

    @property
    def false_positive_rate(self) -> Floats:
        return self.alarms / self.strangers


def roc(copies: Floats, strangers: Floats) -> Roc:
    """The curve of one query set. ValueError when a side is empty: it has none."""
    if not (copies.size and strangers.size):
        raise ValueError(f"no curve from {copies.size} copies and {strangers.size} strangers")
    thresholds = np.append(np.unique(np.concatenate([copies, strangers]))[::-1], -np.inf)
    return Roc(
        thresholds,
        above(copies, thresholds),
        above(strangers, thresholds),
        copies.size,
        strangers.size,
    )


def above(scores: Floats, thresholds: Floats) -> npt.NDArray[np.int64]:
    """How many scores surpass each threshold. Shape of thresholds."""
    return scores.size - np.searchsorted(np.sort(scores), thresholds, side="right")


def t_roc(curve: Roc) -> float:
    """The threshold of one query set: Algorithm 1, line 5.

    The paper's criterion is Youden's index, argmax(sens + spec), not the distance to (0, 1). Ties
    are unstated: the highest threshold that occurs as a score. It is never -inf, since the
    highest score of all reaches sens + spec = 1 as well.
    """
    # In integers (times copies × strangers), so that equal sums are equal.
    youden = curve.positives * curve.strangers - curve.alarms * curve.copies
    return float(curve.thresholds[np.argmax(youden)])


@dataclass(frozen=True)
class Fit:
    """Algorithm 1's result. thresholds: T, one per set; sensitivity and specificity: the means
    over all sets at each of them. until: the next score above t_opt in any set (None when there
    is none): every threshold of [t_opt, until) gives the same rates."""

    t_opt: float
    until: float | None
    thresholds: tuple[float, ...]
    sensitivity: tuple[float, ...]
    specificity: tuple[float, ...]


def algorithm_1(copies: Sequence[Floats], strangers: Floats) -> Fit:
    """The shared threshold of the query sets ``copies``, all against the same strangers.

    Ties are unstated in the paper: the highest threshold. ValueError without a set, or when a
    side of one is empty.
    """
    if not copies:
        raise ValueError("Algorithm 1 needs at least one query set")
    T = [t_roc(roc(scores, strangers)) for scores in copies]
    SE, SP = [], []
    for t in T:
        at = np.array([t])
        # Exact fractions: sums that are equal on paper must tie here.
        se = [Fraction(int(above(scores, at)[0]), scores.size) for scores in copies]
        SE.append(sum(se, Fraction()) / len(copies))
        SP.append(1 - Fraction(int(above(strangers, at)[0]), strangers.size))
    best = max(range(len(T)), key=lambda u: (SE[u] + SP[u], T[u]))
    pooled = np.concatenate([*copies, strangers])
    higher = pooled[pooled > T[best]]
    return Fit(
        T[best],
        float(higher.min()) if higher.size else None,
        tuple(T),
        tuple(map(float, SE)),
        tuple(map(float, SP)),
    )


def auc(copies: Floats, strangers: Floats) -> Estimate:
    """The area under the curve: P(copy > stranger) + P(equal) / 2, with its 95 % bound.

    The bound is DeLong's (1988, by midranks as Sun and Xu 2014) on the logit scale. Where the data
    show no spread (sides that do not overlap, one case a side), it is the product of two
    Clopper-Pearson bounds instead: AUC >= sens(t) · spec(t) at any t. Counts are (copies,
    strangers); all None when a side is empty.
    """
    m, n = copies.size, strangers.size
    if not (m and n):
        return Estimate(None, None, None, (m, n))
    ranks = rankdata(np.concatenate([copies, strangers]))
    beaten = (ranks[:m] - rankdata(copies)) / n
    beating = 1 - (ranks[m:] - rankdata(strangers)) / m
    area = float(beaten.mean())
    variance = beaten.var(ddof=1) / m + beating.var(ddof=1) / n if min(m, n) > 1 else 0.0
    if variance == 0.0:
        low, high = _least_area(copies, strangers), 1 - _least_area(strangers, copies)
    else:
        half = norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(variance) / (area * (1 - area))
        low, high = expit(logit(area) - half), expit(logit(area) + half)
    return Estimate(area, float(low), float(high), (m, n))


def mean_over_sets(hits: Floats) -> Estimate:
    """The mean over query sets of each set's rate, with a bootstrap bound over *cases*.

    hits: (cases, sets), 1 or 0, NaN where a case has no query in a set. The queries of one case
    are not independent, so whole cases are drawn with replacement; the seed is fixed. Counts are
    summed over the sets. Sets without any query are left out of the mean.
    """
    asked = ~np.isnan(hits)
    found = np.nan_to_num(hits)
    counts = (int(found.sum()), int(asked.sum()))
    if counts[1] == 0:
        return Estimate(None, None, None, counts)
    cases = int(asked.any(axis=1).sum())
    if counts[0] in (0, counts[1]):
        # Every replicate would say the same; a case is then one trial that always ended so.
        low, high = _clopper_pearson(cases if counts[0] else 0, cases, CONFIDENCE)
        return Estimate(counts[0] / counts[1], low, high, counts)
    means = np.concatenate([_mean_rate(w @ found, w @ asked) for w in _draws(len(hits), SEED)])
    value = float(_mean_rate(found.sum(axis=0)[None], asked.sum(axis=0)[None])[0])
    return Estimate(value, *_percentiles(means), counts)


def mean_specificity_stage2(alarms: Floats, wrong: Floats) -> Estimate:
    """The mean over query sets of TN / (strangers + m), with a bootstrap bound over cases.

    alarms: (strangers,), 1 where score > t. wrong: (copies, sets), 1 where a positive points at
    the wrong case, NaN where a case has no query in a set. Copies and strangers are drawn apart.
    """
    asked = ~np.isnan(wrong)
    used = asked.any(axis=0)
    missed = np.nan_to_num(wrong)[:, used]
    n, sets = alarms.size, int(used.sum())
    quiet = n - int(alarms.sum())
    counts = (quiet * sets, n * sets + int(missed.sum()))
    if not (n and sets):
        return UNKNOWN
    value = float(np.mean(quiet / (n + missed.sum(axis=0))))
    if counts[0] in (0, counts[1]):
        return Estimate(value, *_clopper_pearson(quiet, n, CONFIDENCE), counts)
    per_set = (w @ missed for w in _draws(len(missed), SEED))
    per_stranger = (w @ (1 - alarms) for w in _draws(n, SEED + 1))
    m, quiet_drawn = np.concatenate(list(per_set)), np.concatenate(list(per_stranger))
    return Estimate(value, *_percentiles((quiet_drawn[:, None] / (n + m)).mean(axis=1)), counts)


@lru_cache(maxsize=4096)
def _clopper_pearson(hits: int, of: int, confidence: float) -> tuple[float, float]:
    interval = binomtest(hits, of).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def _least_area(copies: Floats, strangers: Floats) -> float:
    """A lower bound of the AUC from one point of the curve, each side at half the doubt."""
    curve = roc(copies, strangers)
    at = int(np.flatnonzero(curve.thresholds == t_roc(curve))[0])
    each = (1 + CONFIDENCE) / 2
    sens = _clopper_pearson(int(curve.positives[at]), curve.copies, each)[0]
    spec = _clopper_pearson(curve.strangers - int(curve.alarms[at]), curve.strangers, each)[0]
    return sens * spec


def _draws(cases: int, seed: int) -> Iterator[Floats]:
    """How often each case is drawn: REPLICATES rows in all, some at a time. Rows × cases."""
    random = np.random.default_rng(seed)
    rows = max(1, _CHUNK // cases)
    for start in range(0, REPLICATES, rows):
        size = min(rows, REPLICATES - start)
        yield random.multinomial(cases, np.full(cases, 1 / cases), size=size).astype(np.float64)


def _mean_rate(hits: Floats, of: Floats) -> Floats:
    """Rows × sets to rows: the mean of the rates of the sets that were drawn at all."""
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(hits / of, axis=1))


def _percentiles(values: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)
