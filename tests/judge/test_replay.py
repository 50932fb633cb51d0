"""Evidence → JSON → evidence: judged again it is what it was, bit for bit."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.judge import ladder
from diptych.judge.check import Band, Check, Impossible, Interval
from diptych.judge.ladder import (
    Evidence,
    Flag,
    LayoutHit,
    Relation,
    SliceHit,
    gather,
    judge,
)
from diptych.judge.policy import Policy
from diptych.judge.replay import UnreadableEvidence, rebuilt, written

D_MAX = 0.399

# Few cases, so that they share hits; distances around d_max, where a digit decides.
cases = st.integers(1, 5)
distances = st.one_of(
    st.floats(0, 2),
    st.floats(0, 2, width=32),
    st.sampled_from([D_MAX, math.nextafter(D_MAX, 2), float(np.float32(D_MAX)), 0.0]),
)
hits = st.one_of(
    st.builds(SliceHit, case=cases, distance=distances),
    st.just(SliceHit(None, math.inf)),
)
policies = st.builds(
    Policy,
    name=st.just("any"),
    version=st.just(1),
    d_max=st.one_of(st.just(D_MAX), st.floats(0.01, 2)),
    threshold=st.floats(0, 0.99),
    min_coverage=st.floats(0.5, 1),
    min_related=st.floats(0.01, 0.5),
)

share = st.floats(0, 1)
intervals = st.builds(
    Interval, first=st.integers(1, 9), last=st.integers(1, 9), of=st.integers(1, 9),
    from_mm=st.floats(0, 9), to_mm=st.floats(0, 9),
)  # fmt: skip
checks = st.one_of(
    st.builds(Check, case=cases, impossible=st.sampled_from(list(Impossible))),
    st.builds(
        Check, case=cases, correlation=share, error=share, rotation_degrees=st.floats(-30, 30),
        shift_mm=st.tuples(*[st.floats(-99, 99)] * 3), blur_mm=st.floats(-9, 9), noise=share,
        inverted=st.booleans(), overlap=st.tuples(share, share), ours=intervals, theirs=intervals,
        spacing_mm=st.sampled_from([1.0, 4.0]),
        bands=st.lists(st.builds(Band, r=share, ours=share, theirs=share, n=st.integers(0, 9)),
                       max_size=4).map(tuple),
    ),
)  # fmt: skip


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    return gather(
        draw(st.lists(hits, max_size=12)),
        draw(policies),
        layouts=draw(st.lists(st.builds(LayoutHit, case=cases, distance=distances), max_size=3)),
        groups=draw(st.dictionaries(cases, cases, max_size=3)),
        digest_match=draw(st.one_of(st.none(), cases)),
        same_study=draw(st.sets(cases)),
        flags=draw(st.sets(st.sampled_from(list(Flag)))),
        checks=draw(st.lists(checks, max_size=3)),
    )


def through_json(evidence: Evidence, policy: Policy) -> dict[str, Any]:
    said = json.loads(json.dumps(written(evidence, judge(evidence, policy)), allow_nan=False))
    assert isinstance(said, dict)
    return said


@settings(max_examples=300)
@given(evidences(), policies, policies)
def test_it_is_judged_as_before_under_any_policy(
    evidence: Evidence, first: Policy, second: Policy
) -> None:
    said = through_json(evidence, first)
    for policy in (first, second):
        counted = gather(
            evidence.slices,
            policy,
            layouts=evidence.layouts,
            groups=evidence.groups,
            digest_match=evidence.digest_match,
            same_study=evidence.same_study,
            flags=evidence.flags,
            checks=evidence.checks,
        )
        again = rebuilt(said, policy)
        assert again == counted
        assert judge(again, policy) == judge(counted, policy)


def test_every_field_of_the_evidence_survives() -> None:
    """A new field of the evidence must be written down too: here it is missed."""
    policy = Policy("any", 1, D_MAX)
    full = gather(
        [SliceHit(3, 0.1), SliceHit(4, 0.5), SliceHit(None, math.inf)],
        policy,
        layouts=[LayoutHit(7, 0.25)],
        groups={4: 3},
        digest_match=3,
        same_study=[4],
        flags=[Flag.COLLISION],
        checks=[
            Check(3, Impossible.NO_PROXY),
            Check(
                4,
                None,
                0.9,
                0.1,
                5.0,
                (1.0, 2.0, 3.0),
                4.0,
                0.1,
                True,
                (0.5, 0.6),
                Interval(1, 9, 10, 0.0, 27.0),
                Interval(2, 10, 11, 3.0, 30.0),
                2.0,
                (Band(0.9, 0.1, 0.2, 999),),
            ),
        ],
    )
    empty = gather([], policy)
    for field in fields(Evidence):
        assert getattr(full, field.name) != getattr(empty, field.name), field.name
    assert rebuilt(through_json(full, policy), policy) == full


FIRST = {
    "cases": [4, 4, 4, 9],
    "digest_match": None,
    "distances": [0.1, 0.25, 0.300001, None],
    "same_study": [],
    "verified": "no",
    "verified_reason": "no-candidate",
}
"""As the first version wrote it."""


def test_rows_of_the_first_version_are_read() -> None:
    policy = Policy("any", 1, 0.35)
    judgement = judge(rebuilt(FIRST, policy), policy)
    assert (judgement.relation, judgement.matched_case) == (Relation.NEAR_DUPLICATE, 4)
    assert judgement.verification == ladder.NOT_TRIED
    strict = Policy("any", 2, 0.3)
    assert judge(rebuilt(FIRST, strict), strict).relation is Relation.NEAR_DUPLICATE
    stricter = Policy("any", 3, 0.2)
    assert judge(rebuilt(FIRST, stricter), stricter).relation is Relation.RELATED


def test_a_version_to_come_is_refused_by_its_name() -> None:
    with pytest.raises(UnreadableEvidence, match="evidence of version 4: this Diptych reads 1 to"):
        rebuilt({**FIRST, "version": 4}, Policy("any", 1, 0.3))


def test_rows_of_the_second_version_have_no_layouts_and_noise_of_another_meaning() -> None:
    policy = Policy("any", 1, 0.3)
    check = Check(4, None, 0.9, 0.1, noise=0.2, spacing_mm=1.0, overlap=(1.0, 1.0))
    full = gather([SliceHit(4, 0.1)], policy, checks=[check])
    said = through_json(full, policy) | {"version": 2}
    del said["layouts"], said["groups"]
    again = rebuilt(said, policy)
    assert (again.layouts, again.groups, again.checks[0].noise) == ((), {}, 0.0)


@pytest.mark.parametrize("checks", [None, [{"case": 4}], [{"case": 4, "impossible": "tired"}]])
def test_damaged_checks_are_refused_in_words(checks: object) -> None:
    said = {**FIRST, "version": 2, "flags": [], "checks": checks}
    with pytest.raises(UnreadableEvidence, match="evidence of version 2 is damaged"):
        rebuilt(said, Policy("any", 1, 0.3))


@pytest.mark.parametrize(
    "change",
    [{"cases": [4]}, {"distances": None}, {"distances": ["near"] * 4}, {"same_study": 3}],
)
def test_damaged_evidence_is_refused_in_words(change: dict[str, Any]) -> None:
    with pytest.raises(UnreadableEvidence, match="evidence of version 1 is damaged"):
        rebuilt({**FIRST, **change}, Policy("any", 1, 0.3))
