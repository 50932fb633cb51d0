"""The paper's equations (1) and (2), to the letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.judge.count import c, count, histogram, ranked


def test_equation_1_counts_the_slices_nearest_to_each_case():
    assert histogram([7, 3, 7, 7, 9]) == {7: 3, 3: 1, 9: 1}


def test_equation_2_sums_the_k_largest_over_n():
    h = {1: 5, 2: 3, 3: 1, 4: 1}
    assert c(h, 1, 10) == 0.5
    assert c(h, 2, 10) == 0.8
    assert c(h, 3, 10) == 0.9
    assert c(h, 4, 10) == 1.0


def test_with_fewer_cases_than_k_what_exists_is_summed():
    assert c({1: 4, 2: 6}, 3, 10) == 1.0
    assert c({}, 3, 10) == 0.0


def test_of_equal_cases_the_earliest_wins():
    assert ranked({9: 2, 4: 2, 7: 3}) == [(7, 3), (4, 2), (9, 2)]
    assert list(count([9, 4, 4, 9]).h) == [4, 9]


def test_slices_without_a_neighbour_count_in_n_only():
    counts = count([5, None, 5, None])
    assert (counts.n, counts.h, counts.c1, counts.c3) == (4, {5: 2}, 0.5, 0.5)


def test_a_volume_without_slices_has_no_score():
    with pytest.raises(ValueError, match="at least one slice"):
        count([])
    with pytest.raises(ValueError, match="at least one slice"):
        c({}, 1, 0)


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="k must be at least 1"):
        c({1: 1}, 0, 1)
    with pytest.raises(ValueError, match="3 hits from 2 slices"):
        c({1: 3}, 1, 2)


def test_four_identical_copies_split_the_hits_below_the_threshold():
    counts = count([1, 2, 3, 4] * 10)  # DESIGN: why groups will be counted, not cases
    assert counts.c3 == 0.75 < 0.7711


@given(st.lists(st.one_of(st.none(), st.integers(0, 8)), min_size=1, max_size=60))
def test_counts_stay_in_order_and_between_zero_and_one(nearest_case):
    counts = count(nearest_case)
    assert 0.0 <= counts.c1 <= counts.c3 <= 1.0
    assert sum(counts.h.values()) == sum(case is not None for case in nearest_case)
    assert counts.n == len(nearest_case)
    if counts.h:
        top = next(iter(counts.h))
        assert all((hits, -case) <= (counts.h[top], -top) for case, hits in counts.h.items())
