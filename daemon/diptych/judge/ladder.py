"""The verdict ladder: from the evidence about one query volume to its relation. Pure, no I/O.

The first rung that applies is the verdict:

===================  ===============================================================================
exact                a case digest agrees (survives new UIDs, de-identification, re-compression)
not-screenable       there is no informative slice
near-duplicate       c(3) > threshold, and at least ``min_coverage`` of the informative slices lie
                     within d_max of the *top* case, and that case is not of the same study
related              the same evidence inside one study; or c(3) > threshold with at least
                     ``min_related`` of the slices within d_max of the top case
unique               none of these
===================  ===============================================================================

c(3) alone never decides: with three cases or fewer it is 1 for every query. Coverage within d_max
is what protects a small archive, and "the top case" is what protects from hits strewn over many.
A wrong "duplicate" is the worst verdict, so each rung asks for all of its evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from diptych.errors import Reason
from diptych.judge.count import CaseId, Counts, count, histogram
from diptych.judge.policy import Policy


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


FEW = 3
"""A verdict from one or two slices rests on one or two nearest neighbours; it says so."""


@dataclass(frozen=True)
class Verification:
    """The outcome of the verify step, with its reason in a word or two."""

    verified: Verified
    reason: str


NOT_YET = Verification(Verified.NO, "not-yet")
"""Alignment in 3D is not built yet: what the verify step answers today."""
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
class Candidate:
    """One case with at least one hit. hits: its h[i]; within: those of them within d_max."""

    case: CaseId
    hits: int
    within: int


@dataclass(frozen=True)
class Evidence:
    """All that a verdict is made of; with the policy it can be replayed. Made by :func:`gather`.

    slices: one hit per informative slice, in the volume's order. counts: None when there is none.
    candidates: most hits first, ties to the earliest case. digest_match: the earliest case with
    the same case digest (never the series itself). same_study: cases of the query's own study.
    flags: what the caller knows (collision, cross_source, within_delivery).
    """

    slices: tuple[SliceHit, ...]
    counts: Counts | None
    candidates: tuple[Candidate, ...]
    digest_match: CaseId | None
    same_study: frozenset[CaseId]
    flags: frozenset[Flag]
    verification: Verification

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
    """One verdict. reason: the numbers behind it, in words, without any identifier."""

    relation: Relation
    matched_case: CaseId | None
    flags: tuple[Flag, ...]
    verification: Verification
    reason: str


def gather(
    slices: Sequence[SliceHit],
    policy: Policy,
    *,
    digest_match: CaseId | None = None,
    same_study: Iterable[CaseId] = (),
    flags: Iterable[Flag] = (),
    verification: Verification = NOT_YET,
) -> Evidence:
    """Count the hits of the informative slices and put everything known beside them."""
    counts = count([hit.case for hit in slices]) if slices else None
    near = histogram([hit.case for hit in slices if hit.distance <= policy.d_max])
    return Evidence(
        slices=tuple(slices),
        counts=counts,
        candidates=tuple(
            Candidate(case, hits, near.get(case, 0))
            for case, hits in (counts.h.items() if counts else ())
        ),
        digest_match=digest_match,
        same_study=frozenset(same_study),
        flags=frozenset(flags),
        verification=verification,
    )


def judge(evidence: Evidence, policy: Policy) -> Judgement:
    """The verdict on a volume: the first rung of the ladder (above) that applies."""
    flags = evidence.flags | ({Flag.FEW_SLICES} if 0 < evidence.n < FEW else frozenset())

    def verdict(
        relation: Relation, case: CaseId | None, verification: Verification, reason: str
    ) -> Judgement:
        return Judgement(relation, case, tuple(sorted(flags)), verification, reason)

    if evidence.digest_match is not None:
        return verdict(
            Relation.EXACT, evidence.digest_match, BY_DIGEST, "all planes have the same pixels"
        )
    counts, top = evidence.counts, evidence.top
    if counts is None:
        return verdict(
            Relation.NOT_SCREENABLE, None, NO_CANDIDATE, Reason.NO_INFORMATIVE_SLICE.value
        )
    if top is None:
        return verdict(Relation.UNIQUE, None, NO_CANDIDATE, "nothing to compare with")

    numbers = (
        f"c(3) = {counts.c3:.4f} (threshold {policy.threshold}), {top.within} of {evidence.n} "
        f"slices within {policy.d_max:.4f} of the top case"
    )
    if counts.c3 > policy.threshold and evidence.coverage >= policy.min_related:
        if evidence.coverage < policy.min_coverage:
            return verdict(Relation.RELATED, top.case, evidence.verification, numbers)
        if top.case in evidence.same_study:
            reason = f"{numbers}, of the same study"
            return verdict(Relation.RELATED, top.case, evidence.verification, reason)
        return verdict(Relation.NEAR_DUPLICATE, top.case, evidence.verification, numbers)
    return verdict(Relation.UNIQUE, None, NO_CANDIDATE, numbers)


def refused(reason: Reason, flags: Iterable[Flag] = ()) -> Judgement:
    """The judgement on what never became a volume: not-an-image, or not-screenable and why."""
    relation = Relation.NOT_AN_IMAGE if reason is Reason.NOT_AN_IMAGE else Relation.NOT_SCREENABLE
    return Judgement(relation, None, tuple(sorted(set(flags))), NO_CANDIDATE, reason.value)
