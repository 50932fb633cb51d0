"""Each rung of the verdict ladder, and what a small archive must not do."""

from __future__ import annotations

import math

import pytest

from diptych.errors import Reason
from diptych.judge.check import Check, Impossible, Interval
from diptych.judge.ladder import (
    ALIGNED,
    NOT_TRIED,
    REFUTED,
    Flag,
    LayoutHit,
    Relation,
    SliceHit,
    Verified,
    confirms,
    gather,
    judge,
    refused,
    to_verify,
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
    assert verdict.verification == NOT_TRIED
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


def check(case=4, correlation=0.99, ours=(1, 20, 20), theirs=(1, 20, 20), **known):
    known = {"overlap": (0.9, 0.9), "spacing_mm": 2.0, "error": 0.07, **known}
    return Check(
        case,
        correlation=correlation,
        ours=Interval(*ours, 0.0, 60.0),
        theirs=Interval(*theirs, 0.0, 60.0),
        **known,
    )


def verdict(*checks, slices=None, policy=POLICY, **known):
    slices = hits((4, NEAR, 10)) if slices is None else slices
    return judge(gather(slices, policy, checks=checks, **known), policy)


def test_an_aligned_candidate_is_a_near_duplicate_however_far_its_slices_are():
    found = verdict(check(rotation_degrees=5.0), slices=hits((4, FAR, 3), (9, FAR, 7)))
    assert (found.relation, found.matched_case) == (Relation.NEAR_DUPLICATE, 4)
    assert found.verification == ALIGNED
    assert found.check == check(rotation_degrees=5.0)
    assert "turned 5.0°" in found.reason


def test_the_best_of_several_confirmed_candidates_is_named_and_of_equals_the_earliest():
    assert verdict(check(4, 0.95), check(9, 0.98)).matched_case == 9
    assert verdict(check(9, 0.98), check(4, 0.98)).matched_case == 4


def test_slices_that_agree_on_a_refuted_case_are_related_and_no_more():
    found = verdict(check(correlation=0.8))
    assert (found.relation, found.matched_case) == (Relation.RELATED, 4)
    assert found.verification == REFUTED
    assert "0.800" in found.reason


def test_a_refuted_candidate_without_near_slices_is_unique_and_the_verdict_says_it_was_tried():
    found = verdict(check(correlation=0.8), slices=hits((4, FAR, 10)))
    assert (found.relation, found.matched_case) == (Relation.UNIQUE, None)
    assert found.verification == REFUTED


def test_part_of_either_side_is_partial():
    assert verdict(check(ours=(1, 15, 20))).relation is Relation.PARTIAL
    assert verdict(check(theirs=(3, 17, 20))).relation is Relation.PARTIAL
    assert verdict(check(ours=(1, 16, 20), theirs=(5, 20, 20))).relation is Relation.NEAR_DUPLICATE
    every_second = check(ours=(1, 10, 10), theirs=(1, 20, 20))
    assert every_second.shared == (1.0, 0.5)
    assert verdict(every_second).relation is Relation.PARTIAL


def test_inside_one_study_an_aligned_candidate_is_related():
    found = verdict(check(), same_study=[4])
    assert (found.relation, found.verification) == (Relation.RELATED, ALIGNED)
    assert "same study" in found.reason


def test_what_cannot_be_aligned_is_judged_by_its_slices_and_says_so():
    found = verdict(Check(4, Impossible.NO_PROXY))
    assert found.relation is Relation.NEAR_DUPLICATE
    assert (found.verification.verified, found.verification.reason) == (
        Verified.IMPOSSIBLE,
        "no-proxy",
    )


def test_blur_asks_for_more_and_little_overlap_is_no_evidence():
    policy = Policy(
        "p", 1, 0.3,
        min_correlation=0.9, min_correlation_blurred=0.96, min_correlation_noisy=0.8,
    )  # fmt: skip
    assert confirms(check(correlation=0.91), policy)
    assert not confirms(check(correlation=0.91, blur_mm=8.0), policy)  # four voxels: 0.93
    assert not confirms(check(correlation=0.95, blur_mm=-100.0), policy)
    assert confirms(check(correlation=0.96, blur_mm=100.0), policy)
    assert not confirms(check(overlap=(0.1, 0.14)), policy)
    assert not confirms(check(correlation=1.0, error=0.11), policy)
    assert confirms(check(overlap=(0.1, 0.9)), policy)
    assert confirms(check(correlation=0.86, noise=0.25), policy)  # half of the way to noisy: 0.85
    assert not confirms(check(correlation=0.84, noise=0.25), policy)
    assert not confirms(check(correlation=0.79, noise=1.0), policy)


def test_candidates_with_near_slices_are_aligned_first_and_only_so_many():
    slices = hits((1, FAR, 9), (2, NEAR, 2), (3, NEAR, 3), (4, FAR, 5), (5, FAR, 5))
    assert to_verify(gather(slices, POLICY), POLICY) == [[3], [2], [1], [4]]
    few = Policy("p", 1, 0.3, most_verified=0)
    assert to_verify(gather(slices, few), few) == []
    assert to_verify(gather(slices, POLICY, digest_match=1), POLICY) == []


def test_the_nearest_layout_is_a_candidate_and_the_first_unless_many_slices_are_near():
    layouts = [LayoutHit(7, 0.2), LayoutHit(3, 0.3), LayoutHit(8, 1.01)]
    near = gather(hits((3, NEAR, 3), (2, FAR, 5)), POLICY, layouts=layouts)
    assert to_verify(near, POLICY) == [[3], [7], [2]]
    damaged = gather(hits((3, NEAR, 1), (2, FAR, 5)), POLICY, layouts=layouts)
    assert to_verify(damaged, POLICY) == [[7], [3], [2]]
    alone = gather(hits((None, math.inf, 2)), POLICY, layouts=layouts)
    assert to_verify(alone, POLICY) == [[7]]
    far = gather(hits((2, FAR, 5)), POLICY, layouts=[LayoutHit(8, 1.01)])
    assert to_verify(far, POLICY) == [[2]], "8 is beyond max_layout"


def test_copies_of_a_case_are_hits_of_that_case_and_it_is_aligned_first():
    slices = hits((5, NEAR, 1), (6, NEAR, 3), (9, NEAR, 2))
    groups = {5: 1, 6: 1, 40: 2}
    found = gather(slices, POLICY, layouts=[LayoutHit(5, 0.1)], groups=groups)
    assert [(c.case, c.hits, c.within) for c in found.candidates] == [(1, 4, 4), (9, 2, 2)]
    assert found.groups == {5: 1, 6: 1}, "what is no evidence here is not kept"
    assert to_verify(found, POLICY) == [[1, 6], [9]]


def test_a_copy_of_a_case_that_is_refuted_may_be_confirmed_itself():
    found = gather(
        hits((5, NEAR, 3)), POLICY, groups={5: 1},
        checks=[check(1, correlation=0.5), check(5, correlation=0.99)],
    )  # fmt: skip
    assert judge(found, POLICY).matched_case == 5


def test_a_layout_alone_can_lead_to_the_copy():
    found = gather(
        hits((None, math.inf, 3)), POLICY, layouts=[LayoutHit(7, 0.2)],
        checks=[check(7, correlation=0.99)],
    )  # fmt: skip
    verdict = judge(found, POLICY)
    assert (verdict.relation, verdict.matched_case) == (Relation.NEAR_DUPLICATE, 7)


def test_verification_is_never_silent():
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
        '{"d_max":0.3,"max_error":0.105,"max_layout":1.0,"min_correlation":0.95,"min_correlation_blurred":0.97,'
        '"min_correlation_noisy":0.92,"min_coverage":0.5,'
        '"min_overlap":0.15,"min_related":0.25,"most_verified":4,"name":"paper",'
        '"threshold":0.7711,"version":1,"whole":0.8}'
    )
    assert POLICY.sha256() != Policy(name="paper", version=2, d_max=0.3).sha256()
    for wrong in ({"d_max": 0.0}, {"d_max": float("nan")}, {"threshold": 1.0}, {"version": 0},
                  {"min_related": 0.6}, {"min_coverage": 1.1}, {"name": ""}, {"whole": 0.0},
                  {"min_correlation": 0.98}, {"min_correlation_blurred": 0.99},
                  {"min_overlap": 0.0}, {"most_verified": -1}, {"max_error": 0.0},
                  {"max_layout": -0.1},
                  {"min_correlation_noisy": 0.96}):  # fmt: skip
        with pytest.raises(ValueError):
            Policy(**{"name": "paper", "version": 1, "d_max": 0.3, **wrong})
