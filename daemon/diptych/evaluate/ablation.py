"""What each piece of the ladder is worth: every query judged once with it, and once without.

    look up, nothing verified → per variant: its evidence → its candidates → align → verdict

A variant decides by itself which candidates it aligns. An alignment of a query with a case is
computed once and kept with its seconds, which every variant that asked for it is charged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from diptych.evaluate.product_results import FOUND
from diptych.judge import ladder
from diptych.judge.check import Check
from diptych.judge.compare import Comparison
from diptych.judge.count import CaseId
from diptych.judge.ladder import Evidence, Judgement, Relation
from diptych.judge.policy import Policy
from diptych.judge.verify import corrected
from diptych.lookup import verified


@dataclass(frozen=True)
class Variant:
    """A ladder without one piece. name: in the CSV; words: in the table.

    policy, evidence, check: what is taken from the policy, from what the look-up found, and from
    each alignment; None takes nothing. judge: from evidence and checks to the verdict.
    """

    name: str
    words: str
    policy: Callable[[Policy], Policy] | None = None
    evidence: Callable[[Evidence], Evidence] | None = None
    check: Callable[[Check], Check] | None = None
    judge: Callable[[Evidence, Policy], Judgement] = ladder.judge


@dataclass(frozen=True)
class Ablated:
    """What one variant says of one query. seconds: of the alignments that it asked for."""

    judgement: Judgement
    checks: tuple[Check, ...]
    seconds: float


class Alignments:
    """Of one query, by case. seconds: what each took."""

    def __init__(self, align: Callable[[CaseId], Check]) -> None:
        self._align = align
        self._found: dict[CaseId, Check] = {}
        self.seconds: dict[CaseId, float] = {}

    def __call__(self, case: CaseId) -> Check:
        if case not in self._found:
            began = time.perf_counter()
            self._found[case] = self._align(case)
            self.seconds[case] = time.perf_counter() - began
        return self._found[case]


def ablated(
    variant: Variant, evidence: Evidence, policy: Policy, alignments: Alignments
) -> Ablated:
    """One variant's verdict. evidence: without checks; policy: of the complete ladder."""
    policy = variant.policy(policy) if variant.policy else policy
    evidence = variant.evidence(evidence) if variant.evidence else evidence

    def check(case: CaseId) -> Check:
        found = alignments(case)
        # Without an alignment there is nothing to take anything from.
        return variant.check(found) if variant.check and found.impossible is None else found

    checks = verified(evidence, policy, check)
    judgement = variant.judge(replace(evidence, checks=checks), policy)
    return Ablated(judgement, checks, sum(alignments.seconds[each.case] for each in checks))


def margin(check: Check, evidence: Evidence, policy: Policy) -> float:
    """How far a pair is above what is demanded of it, or below (negative).

    Of the correlation; where nothing could be aligned, of the share of slices near the top case.
    """
    if check.impossible is not None:
        return evidence.coverage - policy.min_coverage
    return check.correlation - ladder.demanded(check, policy)


def mistaken(judgement: Judgement, true: CaseId | None) -> bool:
    """Whether a copy of ``true`` is lost or called another's, or a stranger (None) called one."""
    called = judgement.relation in FOUND
    return called if true is None else not (called and judgement.matched_case == true)


def _without_correction(check: Check) -> Check:
    """The correlation with nothing taken for noise."""
    signals = tuple((band.ours, band.theirs) for band in check.bands)
    plain = Comparison(check.bands, signals, check.overlap, check.blur_mm / check.spacing_mm)
    correlation, error, noise, _ = corrected(plain)
    return replace(check, correlation=correlation, error=error, noise=noise)


def _by_count(evidence: Evidence, policy: Policy) -> Judgement:
    """The paper's rule on its own: c(3) surpasses the threshold, and the top case is the match."""
    counts, top = evidence.counts, evidence.top
    relation = Relation.UNIQUE
    if counts is None:
        relation = Relation.NOT_SCREENABLE
    elif top is not None and counts.c3 > policy.threshold:
        relation = Relation.NEAR_DUPLICATE
    matched = top.case if top is not None and relation == Relation.NEAR_DUPLICATE else None
    return Judgement(relation, matched, (), ladder.NOT_TRIED, "")


COMPLETE = Variant("complete", "The complete ladder")

VARIANTS = (
    COMPLETE,
    Variant(
        "slices-only",
        "Candidates by slices only, without layouts",
        evidence=lambda found: replace(found, layouts=()),
    ),
    Variant(
        "layouts-only",
        "Candidates by layouts only, without slices",
        evidence=lambda found: replace(found, candidates=()),
    ),
    Variant(
        "one-candidate",
        "One candidate aligned",
        policy=lambda policy: replace(policy, most_verified=1),
    ),
    Variant(
        "no-verification",
        "No candidate aligned: slices within d_max decide",
        policy=lambda policy: replace(policy, most_verified=0),
    ),
    Variant(
        "no-noise-correction",
        "Correlation not corrected for noise",
        check=_without_correction,
    ),
    Variant(
        "one-correlation",
        "One correlation demanded of sharp, blurred and noisy",
        policy=lambda policy: replace(
            policy,
            min_correlation_noisy=policy.min_correlation,
            min_correlation_blurred=policy.min_correlation,
        ),
    ),
    Variant(
        "no-largest-error",
        "Correlation believed whatever its error",
        check=lambda check: replace(check, error=0.0),
    ),
    Variant(
        "count-only",
        "The paper's count alone: c(3) and the top case",
        policy=lambda policy: replace(policy, most_verified=0),
        judge=_by_count,
    ),
)
"""The complete ladder, then it without one of its pieces. The last does not even know digests."""
