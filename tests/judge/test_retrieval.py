"""Count aggregation for retrieval, on numbers that can be counted by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from diptych.judge.count import count
from diptych.judge.retrieval import (
    SIGMA,
    Sampling,
    Similar,
    gaussian,
    parse,
    ranking,
    sampled,
)

INF = math.inf


def ranked(distances: list[list[float]], weights: list[float] | None = None, top: int = 10):
    return ranking(np.array(distances), np.array(weights or [1.0] * len(distances)), top)


@pytest.mark.parametrize(
    ("text", "sampling"),
    [
        ("all", Sampling("all")),
        ("every:3", Sampling("every", 3)),
        ("sample:20", Sampling("sample", 20)),
    ],
)
def test_a_sampling_is_read_and_printed_alike(text: str, sampling: Sampling) -> None:
    assert parse(text) == sampling
    assert str(sampling) == text


@pytest.mark.parametrize(
    "text",
    ["", "ALL", "all:2", "every", "every:", "every:0", "every:-1", "sample:x", "sample:٣", "5"],
)
def test_what_is_no_sampling_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"all, every:N|at least 1"):
        parse(text)


@pytest.mark.parametrize(
    ("n", "text", "positions"),
    [
        (4, "all", [0, 1, 2, 3]),
        (7, "every:3", [0, 3, 6]),
        (2, "every:3", [0]),
        (10, "sample:5", [1, 3, 5, 7, 9]),
        (9, "sample:3", [1, 4, 7]),
        (7, "sample:2", [1, 5]),
        (1, "sample:5", [0]),
        (5, "sample:5", [0, 1, 2, 3, 4]),
        (4, "sample:5", [0, 1, 2, 3]),
        (100, "sample:1", [50]),
    ],
)
def test_slices_are_sampled_evenly(n: int, text: str, positions: list[int]) -> None:
    assert sampled(n, parse(text)).tolist() == positions


def test_a_sample_has_as_many_distinct_slices_as_asked_for_or_all_there_are() -> None:
    for n in range(1, 60):
        for k in (1, 5, 10, 20):
            positions = sampled(n, Sampling("sample", k)).tolist()
            assert len(set(positions)) == min(n, k)
            assert 0 <= min(positions) <= max(positions) < n
            gaps = {b - a for a, b in itertools.pairwise(positions)}
            assert not gaps or max(gaps) - min(gaps) <= 1


def test_gaussian_weights_are_highest_in_the_middle_and_equal_on_both_sides() -> None:
    for n in (1, 2, 7, 40):
        weights = gaussian(n)
        assert weights.shape == (n,)
        assert np.allclose(weights, weights[::-1])
        assert (np.diff(weights[: (n + 1) // 2]) > 0).all()
    assert gaussian(1).tolist() == [1.0]
    assert gaussian(9)[4] == 1.0
    # Two slices off the middle of nine: exp(-2² / 2(9/4)²).
    assert gaussian(9)[6] == pytest.approx(math.exp(-4 / (2 * (SIGMA * 9) ** 2)))
    assert gaussian(1000)[0] == pytest.approx(math.exp(-2), rel=0.01)


@pytest.mark.parametrize("call", [lambda: sampled(0, Sampling("all")), lambda: gaussian(0)])
def test_a_volume_without_slices_is_refused(call) -> None:
    with pytest.raises(ValueError, match="without slices"):
        call()


def test_each_slice_votes_for_its_nearest_case() -> None:
    found = ranked([[0.3, 0.1, 0.9], [0.2, 0.1, 0.9], [0.1, 0.4, 0.9]])
    assert found == [
        Similar(place=1, hits=2, share=pytest.approx(2 / 3), nearest=0.1, round=1),
        Similar(place=0, hits=1, share=pytest.approx(1 / 3), nearest=0.1, round=1),
        Similar(place=2, hits=3, share=1.0, nearest=0.9, round=2),
    ]


def test_without_weights_the_share_is_the_papers_c_1() -> None:
    distances = np.random.default_rng(0).random((30, 4))
    first = ranking(distances, np.ones(30), 1)[0]
    assert first.share == pytest.approx(count(distances.argmin(axis=1).tolist()).c1)


def test_weights_decide_where_hits_do_not() -> None:
    near, far = 0.1, 0.5
    distances = [[near, far], [far, near], [far, near]]
    assert [each.place for each in ranked(distances)] == [1, 0]
    first, second = ranked(distances, [5.0, 1.0, 1.0])
    assert (first.place, first.hits, first.share) == (0, 1, pytest.approx(5 / 7))
    assert (second.place, second.hits, second.share) == (1, 2, pytest.approx(2 / 7))


def test_the_earliest_case_wins_every_tie() -> None:
    assert [each.place for each in ranked([[0.2, 0.2, 0.2]])] == [0, 1, 2]
    assert [each.place for each in ranked([[0.5, 0.1], [0.1, 0.5]])] == [0, 1]
    # Shares that are equal on paper and summed in another order.
    weights = [0.1, 0.2, 0.3, 0.3, 0.2, 0.1]
    halves = [[0.9, 0.1]] * 3 + [[0.1, 0.9]] * 3
    assert [each.place for each in ranked(halves, weights)] == [0, 1]


def test_later_rounds_ask_again_without_the_cases_ranked_so_far() -> None:
    copy_and_strangers = [[0.0, 0.5, 0.6, 0.7], [0.0, 0.6, 0.5, 0.7]]
    found = ranked(copy_and_strangers)
    assert [(each.place, each.round, each.share) for each in found] == [
        (0, 1, 1.0),
        (1, 2, 0.5),
        (2, 2, 0.5),
        (3, 3, 1.0),
    ]
    assert ranked(copy_and_strangers, top=2) == found[:2]


def test_a_case_without_any_slice_is_never_ranked() -> None:
    assert [each.place for each in ranked([[INF, 0.3], [INF, 0.2]])] == [1]
    assert ranked([[INF, INF]]) == []
    assert ranking(np.zeros((3, 0)), np.ones(3), 5) == []


def test_a_slice_without_a_neighbour_counts_in_the_share() -> None:
    (only,) = ranked([[0.1], [INF]])
    assert (only.hits, only.share) == (1, 0.5)


@pytest.mark.parametrize(
    ("distances", "weights", "top", "said"),
    [
        (np.zeros(3), np.ones(3), 1, "do not fit"),
        (np.zeros((3, 2)), np.ones(2), 1, "do not fit"),
        (np.zeros((1, 2)), np.ones(1), 0, "at least 1"),
        (np.zeros((1, 2)), np.zeros(1), 1, "positive"),
        (np.zeros((1, 2)), np.array([np.nan]), 1, "positive"),
    ],
)
def test_impossible_questions_are_refused(distances, weights, top, said) -> None:
    with pytest.raises(ValueError, match=said):
        ranking(distances, weights, top)
