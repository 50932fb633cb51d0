"""Each rung of the verdict ladder, and what a small archive must not do."""

from __future__ import annotations

import pytest

from diptych.errors import Reason
from diptych.judge.ladder import (
    NOT_YET,
    Flag,
    Relation,
    SliceHit,
    Verification,
    Verified,
    gather,
    judge,
    refused,
)
from diptych.judge.policy import Policy

POLICY = Policy(name="paper", version=1, d_max=0.3)
NEAR, FAR = 0.1, 0.9


def hits(*groups):
    """(case, distance, how often) → slices."""
    return [SliceHit(case, distance) for case, distance, times in groups for _ in range(times)]


def relation(slices, **known):
    return judge(gather(slices, POLICY, **known), POLICY).relation


def test_agreeing_digests_are_exact_whatever_the_slices_say():
    evidence = gather(hits((2, FAR, 10)), POLICY, digest_match=7)
    verdict = judge(evidence, POLICY)
    assert (verdict.relation, verdict.matched_case) == (Relation.EXACT, 7)
    assert verdict.verification.verified is Verified.YES
    assert evidence.counts.c1 == 1.0  # an exact hit still has its counts


def test_exact_holds_inside_one_study_and_without_informative_slices():
    assert relation(hits((7, 0.0, 5)), digest_match=7, same_study=[7]) is Relation.EXACT
    assert relation([], digest_match=7) is Relation.EXACT


def test_no_informative_slice_is_not_screenable():
    verdict = judge(gather([], POLICY), POLICY)
    assert verdict.relation is Relation.NOT_SCREENABLE
    assert verdict.reason == Reason.NO_INFORMATIVE_SLICE == "no-informative-slice"
    assert verdict.matched_case is None


def test_a_processed_copy_is_a_near_duplicate_of_the_top_case():
    verdict = judge(gather(hits((4, NEAR, 8), (9, FAR, 2)), POLICY), POLICY)
    assert (verdict.relation, verdict.matched_case) == (Relation.NEAR_DUPLICATE, 4)
    assert verdict.verification == NOT_YET
    assert "8 of 10 slices" in verdict.reason


def test_exactly_half_of_the_slices_within_d_max_is_enough():
    assert relation(hits((4, 0.3, 5), (4, 0.30001, 5))) is Relation.NEAR_DUPLICATE
    assert relation(hits((4, 0.3, 4), (4, 0.30001, 6))) is Relation.RELATED


def test_the_score_must_surpass_the_threshold():
    policy = Policy(name="test", version=1, d_max=0.3, threshold=0.75)
    at = gather(hits((1, NEAR, 50), (2, NEAR, 15), (3, NEAR, 10), (4, NEAR, 9), (5, NEAR, 16)),
                policy)  # fmt: skip
    assert at.counts.c3 == 0.81
    on = gather(hits((1, NEAR, 2), (2, NEAR, 1), (3, None or NEAR, 0), (None, 9.0, 1)), policy)
    assert on.counts.c3 == 0.75
    assert judge(on, policy).relation is Relation.UNIQUE
    assert judge(at, policy).relation is Relation.NEAR_DUPLICATE


def test_hits_on_other_cases_do_not_cover_for_the_top_case():
    slices = hits((1, FAR, 5), (2, NEAR, 4), (3, NEAR, 3))
    evidence = gather(slices, POLICY)
    assert evidence.counts.c3 == 1.0
    assert evidence.coverage == 0.0
    assert judge(evidence, POLICY).relation is Relation.UNIQUE


def test_inside_one_study_nothing_without_digest_identity_is_more_than_related():
    verdict = judge(gather(hits((4, NEAR, 10)), POLICY, same_study=[4]), POLICY)
    assert (verdict.relation, verdict.matched_case) == (Relation.RELATED, 4)
    assert "same study" in verdict.reason


def test_a_quarter_of_the_slices_within_d_max_is_related_and_less_is_unique():
    assert relation(hits((4, NEAR, 3), (4, FAR, 9))) is Relation.RELATED
    assert relation(hits((4, NEAR, 2), (4, FAR, 9))) is Relation.UNIQUE


@pytest.mark.parametrize("cases", [0, 1, 2, 3])
def test_a_stranger_in_a_small_archive_is_unique_though_c3_is_one(cases):
    slices = [SliceHit(1 + m % cases if cases else None, FAR) for m in range(12)]
    evidence = gather(slices, POLICY)
    assert evidence.counts.c3 == (1.0 if cases else 0.0)
    verdict = judge(evidence, POLICY)
    assert (verdict.relation, verdict.matched_case) == (Relation.UNIQUE, None)


@pytest.mark.parametrize("cases", [1, 2, 3])
def test_a_copy_in_a_small_archive_is_found(cases):
    slices = [SliceHit(1 if m < 8 else 1 + m % cases, NEAR if m < 8 else FAR) for m in range(12)]
    assert relation(slices) is Relation.NEAR_DUPLICATE


def test_verification_is_carried_and_never_silent():
    confirmed = Verification(Verified.YES, "aligned: 5.0°")
    slices = hits((4, NEAR, 10))
    assert judge(gather(slices, POLICY, verification=confirmed), POLICY).verification == confirmed
    assert judge(gather(hits((4, FAR, 9)), POLICY), POLICY).verification.reason == "no-candidate"


def test_flags_are_passed_on_and_few_slices_are_said():
    flags = [Flag.CROSS_SOURCE, Flag.COLLISION]
    assert judge(gather(hits((4, NEAR, 5)), POLICY, flags=flags), POLICY).flags == (
        Flag.COLLISION,
        Flag.CROSS_SOURCE,
    )
    assert judge(gather(hits((4, NEAR, 1)), POLICY), POLICY).flags == (Flag.FEW_SLICES,)


def test_candidates_are_all_cases_with_a_hit_in_order():
    evidence = gather(hits((9, NEAR, 2), (4, FAR, 2), (7, NEAR, 3)), POLICY)
    assert [(found.case, found.hits, found.within) for found in evidence.candidates] == [
        (7, 3, 3), (4, 2, 0), (9, 2, 2)]  # fmt: skip


def test_what_never_became_a_volume_has_its_own_relation():
    assert refused(Reason.NOT_AN_IMAGE).relation is Relation.NOT_AN_IMAGE
    verdict = refused(Reason.DECODE_FAILED, [Flag.COLLISION])
    assert (verdict.relation, verdict.reason) == (Relation.NOT_SCREENABLE, "decode-failed")
    assert verdict.flags == (Flag.COLLISION,)


def test_the_policy_is_one_text_and_refuses_impossible_numbers():
    assert POLICY.canonical_json() == (
        '{"d_max":0.3,"min_coverage":0.5,"min_related":0.25,"name":"paper","threshold":0.7711,'
        '"version":1}'
    )
    assert POLICY.sha256() != Policy(name="paper", version=2, d_max=0.3).sha256()
    for wrong in ({"d_max": 0.0}, {"d_max": float("nan")}, {"threshold": 1.0}, {"version": 0},
                  {"min_related": 0.6}, {"min_coverage": 1.1}, {"name": ""}):  # fmt: skip
        with pytest.raises(ValueError):
            Policy(**{"name": "paper", "version": 1, "d_max": 0.3, **wrong})
