"""The paper's protocol on this data: all that its tables, figures and JSON say, computed once.

Truong et al. 2023, sections III-B and IV: a count score against a threshold, in two stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.evaluate.answers import SEVEN, TRANSFORMS, Transform
from diptych.evaluate.scores import (
    TOP_K,
    Calibration,
    K,
    Lookups,
    NaturalDuplicate,
    Scores,
    calibrate,
    hits_by_case,
)
from diptych.evaluate.statistics import (
    UNKNOWN,
    Estimate,
    Stages,
    auc,
    mean_over_sets,
    mean_specificity_stage2,
    rate,
    roc,
    t_roc,
)


@dataclass(frozen=True)
class PaperSet:
    """One query set in one index.

    By k: its AUC, and its counts at its own t_ROC. at_t_opt: its counts at the shared threshold
    (k = 3, the headline's index only). None where there is nothing to count.
    """

    transform: Transform
    auc: Mapping[int, Estimate]
    at_t_roc: Mapping[int, Stages | None]
    at_t_opt: Stages | None


@dataclass(frozen=True)
class PaperResults:
    """sets: all 25 for each index that was run; headline: those of ``index`` (empty sets when
    nothing was looked up), which all the numbers after it are about, with k = 3.

    threshold: the shared one (None where it could not be fitted); calibration: how it was fitted,
    if it was fitted here. The two mean sensitivities and the two specificities are over the seven
    sets at the threshold; mean_stage2_all_24 is the stage-2 sensitivity over the 24 transforms,
    each at its own t_ROC, and mean_stage2_all_24_t_opt at the threshold. transformed and removed:
    for each of the 25, the share of transformed strangers, and of copies whose true case was
    removed, that does not surpass the threshold; then their means (of 24, and of 25).
    natural: the known natural duplicates taken out of the negatives.
    """

    index: str | None
    threshold: float | None
    calibration: Calibration | None
    sets: Mapping[str, tuple[PaperSet, ...]]
    headline: tuple[PaperSet, ...]
    mean_sensitivity_stage1: Estimate
    mean_sensitivity_stage2: Estimate
    specificity_stage1: Estimate
    specificity_stage2: Estimate
    mean_stage2_all_24: Estimate
    mean_stage2_all_24_t_opt: Estimate
    transformed: tuple[Estimate, ...]
    removed: tuple[Estimate, ...]
    specificity_transformed: Estimate
    specificity_removed: Estimate
    natural: tuple[NaturalDuplicate, ...]


Thresholds = Mapping[Transform, float]


def paper_results(lookups: Lookups, threshold: float | None) -> PaperResults:
    """All of it; with threshold None it is fitted on the same data (Algorithm 1)."""
    calibration = calibrate(lookups) if threshold is None else None
    t = calibration.fit.t_opt if calibration else threshold
    at_t_opt: Thresholds = {} if t is None else dict.fromkeys(TRANSFORMS, t)
    sets = {
        index: tuple(_paper_set(lookups, transform, index, t) for transform in TRANSFORMS)
        for index in (lookups.index, *lookups.indexes)
    }
    headline = sets[lookups.index]
    at_t_roc: Thresholds = {
        one.transform: stages.threshold for one in headline if (stages := one.at_t_roc[K])
    }
    strangers = lookups.strangers()
    of_strangers = {transform: lookups.strangers(transform) for transform in TRANSFORMS}
    of_removed = {transform: lookups.removed(transform) for transform in TRANSFORMS}
    return PaperResults(
        index=lookups.index,
        threshold=t,
        calibration=calibration,
        sets={index: sets[index] for index in lookups.indexes},
        headline=headline,
        mean_sensitivity_stage1=_mean_sensitivity(lookups, SEVEN, at_t_opt, stage=1),
        mean_sensitivity_stage2=_mean_sensitivity(lookups, SEVEN, at_t_opt, stage=2),
        specificity_stage1=_quiet(strangers, t),
        specificity_stage2=_mean_specificity_stage2(lookups, strangers, t),
        mean_stage2_all_24=_mean_sensitivity(lookups, TRANSFORMS[1:], at_t_roc, stage=2),
        mean_stage2_all_24_t_opt=_mean_sensitivity(lookups, TRANSFORMS[1:], at_t_opt, stage=2),
        transformed=tuple(_quiet(of_strangers[transform], t) for transform in TRANSFORMS),
        removed=tuple(_quiet(of_removed[transform], t) for transform in TRANSFORMS),
        specificity_transformed=_mean_quiet([of_strangers[tr] for tr in TRANSFORMS[1:]], t),
        specificity_removed=_mean_quiet(list(of_removed.values()), t),
        natural=lookups.natural,
    )


def _paper_set(
    lookups: Lookups, transform: Transform, index: str | None, t: float | None
) -> PaperSet:
    copies, strangers = lookups.copies(transform, index), lookups.strangers(index=index)
    at_t_roc: dict[int, Stages | None] = dict.fromkeys(TOP_K)
    if copies.cases and strangers.cases:
        for k in TOP_K:
            own = t_roc(roc(copies.c[k], strangers.c[k]))
            at_t_roc[k] = _stages(copies, strangers, k, own)
    return PaperSet(
        transform,
        {k: auc(copies.c[k], strangers.c[k]) for k in TOP_K},
        at_t_roc,
        _stages(copies, strangers, K, t) if t is not None and index == lookups.index else None,
    )


def _stages(copies: Scores, strangers: Scores, k: int, t: float) -> Stages:
    positive = copies.c[k] > t
    return Stages(
        threshold=t,
        copies=len(copies.cases),
        positives=int(positive.sum()),
        wrong=int((positive & ~copies.right).sum()),
        strangers=len(strangers.cases),
        alarms=int((strangers.c[k] > t).sum()),
    )


def _mean_sensitivity(
    lookups: Lookups, transforms: Sequence[Transform], thresholds: Thresholds, *, stage: int
) -> Estimate:
    """Over the sets that have copies and a threshold."""
    asked = [(lookups.copies(tr), thresholds[tr]) for tr in transforms if tr in thresholds]
    positive = [scores.c[K] > t for scores, t in asked]
    if stage == 2:
        positive = [up & scores.right for up, (scores, _) in zip(positive, asked, strict=True)]
    return _mean([scores for scores, _ in asked], positive)


def _mean_specificity_stage2(lookups: Lookups, strangers: Scores, t: float | None) -> Estimate:
    if t is None:
        return UNKNOWN
    seven = [lookups.copies(transform) for transform in SEVEN]
    wrong = hits_by_case(seven, [(scores.c[K] > t) & ~scores.right for scores in seven])
    return mean_specificity_stage2((strangers.c[K] > t).astype(np.float64), wrong)


def _quiet(scores: Scores, t: float | None) -> Estimate:
    return UNKNOWN if t is None else rate(int((scores.c[K] <= t).sum()), len(scores.cases))


def _mean_quiet(sets: Sequence[Scores], t: float | None) -> Estimate:
    return UNKNOWN if t is None else _mean(sets, [scores.c[K] <= t for scores in sets])


def _mean(sets: Sequence[Scores], hits: Sequence[npt.NDArray[np.bool_]]) -> Estimate:
    return mean_over_sets(hits_by_case(sets, hits))
