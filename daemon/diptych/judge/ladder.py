"""The verdict ladder: from the evidence about one query volume to its relation. Pure, no I/O.

The first rung that applies is the verdict:

===================  ===============================================================================
exact                a case digest agrees (survives new UIDs, de-identification, re-compression)
not-screenable       there is no informative slice
near-duplicate       a candidate was aligned in 3D and confirmed
partial              the same, and less than ``whole`` of either side's slices have a counterpart
related              the same inside one study; or refuted, but c(3) > threshold with at least
                     ``min_related`` of the slices within d_max of the top case
unique               none of these
===================  ===============================================================================

Candidates come from two kinds of evidence that fail on different things: the cases of the slices'
nearest neighbours, and the cases of the nearest coarse layouts (:mod:`diptych.judge.layout`). They
are counted by group: the copies of a case are hits of that case, which stands for them, so that a
thousand copies do not split the hits of one; and it is that case that is aligned, not a copy.

Where the top case cannot be aligned (too small, no proxy), the slices alone decide: near-duplicate
when c(3) > threshold and at least ``min_coverage`` of them lie within d_max of it; the verdict then
says ``verified: impossible`` and why.

c(3) alone never decides: with three cases or fewer it is 1 for every query. Coverage within d_max
is what protects a small archive, and "the top case" is what protects from hits strewn over many.
A wrong "duplicate" is the worst verdict, so each rung asks for all of its evidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from diptych.errors import Reason
from diptych.judge.check import Check
from diptych.judge.count import CaseId, Counts, count, histogram
from diptych.judge.policy import BLURRED, NOISY, Policy


class Relation(StrEnum):
    """What a series is to the archive. Stored and exported: a contract."""

    EXACT = "exact"
    NEAR_DUPLICATE = "near-duplicate"
    PARTIAL = "partial"
    RELATED = "related"
    UNIQUE = "unique"
    NOT_SCREENABLE = "not-screenable"
    NOT_AN_IMAGE = "not-an-image"


class Flag(StrEnum):
    """Stated beside a relation, never instead of one. Stored and exported: a contract."""

    COLLISION = "collision"
    CROSS_SOURCE = "cross_source"
    WITHIN_DELIVERY = "within_delivery"
    INCOMPLETE = "incomplete"
    """Some instances of the series could not be read; the rest was judged."""
    GEOMETRY_INFERRED = "geometry_inferred"
    """Slices were ordered without ImagePositionPatient: lower confidence."""
    STACKS_DIFFER = "stacks_differ"
    """The stacks of the series reached different relations; the largest speaks for it."""
    FEW_SLICES = "few_slices"
    """Judged from fewer informative slices than :data:`FEW`: lower confidence."""
    MODALITY_DISAGREES = "modality_disagrees"
    BODY_PART_DISAGREES = "body_part_disagrees"
    """The neighbours agree on another one (:mod:`diptych.judge.labels`): look at it, no more."""


class Verified(StrEnum):
    """Whether a candidate was confirmed beyond its slice hits."""

    YES = "yes"
    NO = "no"
    IMPOSSIBLE = "impossible"


NO_GROUPS: Mapping[CaseId, CaseId] = MappingProxyType({})

FEW = 3
"""A verdict from one or two slices rests on one or two nearest neighbours; it says so."""


@dataclass(frozen=True)
class Verification:
    """The outcome of the verify step, with its reason in a word or two."""

    verified: Verified
    reason: str


ALIGNED = Verification(Verified.YES, "aligned")
"""A candidate was aligned and confirmed."""
REFUTED = Verification(Verified.NO, "refuted")
"""Candidates were aligned, and none is the same scan."""
NOT_TRIED = Verification(Verified.NO, "not-tried")
"""The policy verifies nothing."""
BY_DIGEST = Verification(Verified.YES, "pixel-digest")
"""Identical pixels need no alignment."""
NO_CANDIDATE = Verification(Verified.NO, "no-candidate")
"""Nothing was claimed, so there was nothing to verify."""


@dataclass(frozen=True)
class SliceHit:
    """The nearest neighbour of one informative slice: its case and Euclidean distance in [0, 2].

    case None (distance +inf): the archive held nothing but the series itself.
    """

    case: CaseId | None
    distance: float


@dataclass(frozen=True)
class LayoutHit:
    """A case whose coarse layout is near; Euclidean distance in [0, 2]."""

    case: CaseId
    distance: float


@dataclass(frozen=True)
class Candidate:
    """One group with at least one hit, by the case that stands for it. hits: its h[i]; within:
    those of them within d_max."""

    case: CaseId
    hits: int
    within: int


@dataclass(frozen=True)
class Evidence:
    """All that a verdict is made of; with the policy it can be replayed. Made by :func:`gather`.

    slices: one hit per informative slice, in the volume's order. counts: None when there is none.
    candidates: of the slices, most hits first, ties to the earliest case. layouts: nearest first.
    groups: cases that are copies of another → that one. digest_match: the earliest case with
    the same case digest (never the series itself). same_study: cases of the query's own study.
    flags: what the caller knows (collision, cross_source, within_delivery). checks: what the
    verification of the candidates found, in the order of :func:`to_verify`.
    """

    slices: tuple[SliceHit, ...]
    counts: Counts | None
    candidates: tuple[Candidate, ...]
    layouts: tuple[LayoutHit, ...]
    groups: Mapping[CaseId, CaseId]
    digest_match: CaseId | None
    same_study: frozenset[CaseId]
    flags: frozenset[Flag]
    checks: tuple[Check, ...] = ()

    @property
    def n(self) -> int:
        """Informative slices."""
        return len(self.slices)

    @property
    def top(self) -> Candidate | None:
        """The case with the most hits."""
        return self.candidates[0] if self.candidates else None

    @property
    def coverage(self) -> float:
        """Share of informative slices within d_max of the top case; 0 without one."""
        return self.top.within / self.n if self.top else 0.0


@dataclass(frozen=True)
class Judgement:
    """One verdict. reason: the numbers behind it, in words, without any identifier. check: of the
    matched case, where it was aligned."""

    relation: Relation
    matched_case: CaseId | None
    flags: tuple[Flag, ...]
    verification: Verification
    reason: str
    check: Check | None = None


def gather(
    slices: Sequence[SliceHit],
    policy: Policy,
    *,
    layouts: Iterable[LayoutHit] = (),
    groups: Mapping[CaseId, CaseId] = NO_GROUPS,
    digest_match: CaseId | None = None,
    same_study: Iterable[CaseId] = (),
    flags: Iterable[Flag] = (),
    checks: Iterable[Check] = (),
) -> Evidence:
    """Count the hits of the informative slices and put everything known beside them."""

    def of(case: CaseId | None) -> CaseId | None:
        return None if case is None else groups.get(case, case)

    counts = count([of(hit.case) for hit in slices]) if slices else None
    near = histogram([of(hit.case) for hit in slices if hit.distance <= policy.d_max])
    layouts = tuple(layouts)
    hit = {each.case for each in slices} | {each.case for each in layouts}
    return Evidence(
        slices=tuple(slices),
        counts=counts,
        candidates=tuple(
            Candidate(case, hits, near.get(case, 0))
            for case, hits in (counts.h.items() if counts else ())
        ),
        layouts=layouts,
        groups={case: first for case, first in groups.items() if case in hit},
        digest_match=digest_match,
        same_study=frozenset(same_study),
        flags=frozenset(flags),
        checks=tuple(checks),
    )


def to_verify(evidence: Evidence, policy: Policy) -> list[list[CaseId]]:
    """The groups worth aligning, best first; of each the case that stands for it, then, should that
    one be refuted, the copy of it that was hit.

    The case of the nearest layout, and the best of the slices. The slices begin when a good part of
    them is within d_max of one case; otherwise the image is damaged or new, and its layout says
    more.
    """
    if evidence.digest_match is not None:
        return []
    ranked = sorted(evidence.candidates, key=lambda c: (-c.within, -c.hits, c.case))
    groups = [candidate.case for candidate in ranked]
    near = [hit for hit in evidence.layouts if hit.distance <= policy.max_layout]
    if near:
        sure = bool(ranked) and ranked[0].within >= policy.min_related * evidence.n
        groups.insert(int(sure), evidence.groups.get(near[0].case, near[0].case))
    wanted = list(dict.fromkeys(groups))[: policy.most_verified]
    return [list(dict.fromkeys([case, _hit(case, evidence)])) for case in wanted]


def _hit(group: CaseId, evidence: Evidence) -> CaseId:
    """The case of a group that the evidence points at: of the nearest slices or layout."""
    hit = [*(each.case for each in evidence.slices), *(each.case for each in evidence.layouts)]
    cases = [case for case in hit if case is not None]
    found = Counter(case for case in cases if evidence.groups.get(case, case) == group)
    return min(found, key=lambda case: (-found[case], case))


def confirms(check: Check, policy: Policy) -> bool:
    """Whether an alignment shows the same scan."""
    if check.impossible is not None or max(check.overlap) < policy.min_overlap:
        return False
    if check.error > policy.max_error:
        return False
    return check.correlation >= demanded(check, policy)


def demanded(check: Check, policy: Policy) -> float:
    """The correlation asked for: the more blurred, the more; the noisier, the less."""
    blurred = min(1.0, abs(check.blur_mm) / check.spacing_mm / BLURRED)
    noisy = min(1.0, check.noise / NOISY)
    more = blurred * (policy.min_correlation_blurred - policy.min_correlation)
    less = noisy * (policy.min_correlation - policy.min_correlation_noisy)
    return policy.min_correlation + more - less


def judge(evidence: Evidence, policy: Policy) -> Judgement:
    """The verdict on a volume: the first rung of the ladder (above) that applies."""
    flags = evidence.flags | ({Flag.FEW_SLICES} if 0 < evidence.n < FEW else frozenset())

    def verdict(
        relation: Relation,
        case: CaseId | None,
        verification: Verification,
        reason: str,
        check: Check | None = None,
    ) -> Judgement:
        return Judgement(relation, case, tuple(sorted(flags)), verification, reason, check)

    if evidence.digest_match is not None:
        return verdict(
            Relation.EXACT, evidence.digest_match, BY_DIGEST, "all planes have the same pixels"
        )
    counts, top = evidence.counts, evidence.top
    if counts is None:
        return verdict(
            Relation.NOT_SCREENABLE, None, NO_CANDIDATE, Reason.NO_INFORMATIVE_SLICE.value
        )
    confirmed = [check for check in evidence.checks if confirms(check, policy)]
    if confirmed:
        best = max(confirmed, key=lambda check: (check.correlation, -check.case))
        if best.case in evidence.same_study:
            reason = f"{said(best)}, of the same study"
            return verdict(Relation.RELATED, best.case, ALIGNED, reason, best)
        whole = min(best.shared) >= policy.whole
        relation = Relation.NEAR_DUPLICATE if whole else Relation.PARTIAL
        return verdict(relation, best.case, ALIGNED, said(best), best)

    if top is None:
        return verdict(Relation.UNIQUE, None, _refuted(evidence), "nothing to compare with")
    check = next((each for each in evidence.checks if each.case == top.case), None)
    numbers = (
        f"c(3) = {counts.c3:.4f} (threshold {policy.threshold}), {top.within} of {evidence.n} "
        f"slices within {policy.d_max:.4f} of the top case"
    )
    alike = counts.c3 > policy.threshold and evidence.coverage >= policy.min_related
    if not alike:
        return verdict(Relation.UNIQUE, None, _refuted(evidence), numbers)
    if check is not None and check.impossible is None:
        numbers = f"{numbers}, but {said(check)}"
        return verdict(Relation.RELATED, top.case, REFUTED, numbers, check)
    verification = NOT_TRIED if check is None else _impossible(check)
    if evidence.coverage < policy.min_coverage:
        return verdict(Relation.RELATED, top.case, verification, numbers, check)
    if top.case in evidence.same_study:
        reason = f"{numbers}, of the same study"
        return verdict(Relation.RELATED, top.case, verification, reason, check)
    return verdict(Relation.NEAR_DUPLICATE, top.case, verification, numbers, check)


def said(check: Check) -> str:
    """What an alignment found, in words."""
    parts = [f"correlation {check.correlation:.3f} ± {check.error:.3f} at {check.spacing_mm:g} mm"]
    if abs(check.rotation_degrees) >= 0.5:
        parts.append(f"turned {check.rotation_degrees:.1f}°")
    if max(map(abs, check.shift_mm)) >= check.spacing_mm / 2:
        parts.append("moved {:.0f}, {:.0f}, {:.0f} mm (S, P, L)".format(*check.shift_mm))
    if check.blur_mm:
        whose = "" if check.blur_mm > 0 else "theirs "
        parts.append(f"{whose}blurred {abs(check.blur_mm):.1f} mm")
    if check.inverted:
        parts.append("inverted")
    if check.backwards:
        parts.append("in reverse order")
    if check.ours is not None and check.theirs is not None:
        ours, theirs = check.ours, check.theirs
        parts.append(
            f"slices {ours.first}-{ours.last} of {ours.of} are "
            f"{theirs.first}-{theirs.last} of {theirs.of}"
        )
    return ", ".join(parts)


def _refuted(evidence: Evidence) -> Verification:
    tried = [check for check in evidence.checks if check.impossible is None]
    return REFUTED if tried else NO_CANDIDATE


def _impossible(check: Check) -> Verification:
    return Verification(Verified.IMPOSSIBLE, str(check.impossible))


def refused(reason: Reason, flags: Iterable[Flag] = ()) -> Judgement:
    """The judgement on what never became a volume: not-an-image, or not-screenable and why."""
    relation = Relation.NOT_AN_IMAGE if reason is Reason.NOT_AN_IMAGE else Relation.NOT_SCREENABLE
    return Judgement(relation, None, tuple(sorted(set(flags))), NO_CANDIDATE, reason.value)
