"""Paper mode: who is nearest, with and without the true case, in every index."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from diptych.evaluate import paper
from diptych.evaluate.baseline import Thumbnail
from diptych.evaluate.paper import INDEXES, Database, IndexName
from support import missing

Vectors = NDArray[np.float32]


def unit(rows: NDArray[np.floating]) -> Vectors:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def cases(count: int, slices: int = 12, dimension: int = 32, seed: int = 0) -> list[Vectors]:
    """Cases of neighbouring slices around a centre of their own."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        walk = random.normal(size=dimension) + 0.1 * random.normal(size=(slices, dimension)).cumsum(
            axis=0
        )
        made.append(unit(walk))
    return made


@pytest.fixture(params=INDEXES)
def index(request: pytest.FixtureRequest) -> IndexName:
    if request.param == "lsh" and not paper.have_faiss():
        missing("faiss-cpu")
    return request.param  # type: ignore[no-any-return]


def database(index: IndexName, held: list[Vectors]) -> Database:
    made = Database(held[0].shape[1], (index,))
    for vectors in held:
        made.add(vectors)
    return made


def test_a_duplicate_hits_its_own_case_with_every_slice(index: IndexName) -> None:
    held = cases(9)
    made = database(index, held)
    assert len(made) == 9
    for number, vectors in enumerate(held):
        assert made.ask(index, vectors) == ((number, 12),)


def test_without_its_own_case_a_query_has_no_hit_there_and_all_slices_hit_others(
    index: IndexName,
) -> None:
    held = cases(9, slices=40)  # more slices than are asked for at first
    made = database(index, held)
    for number, vectors in enumerate(held):
        ranked = dict(made.ask(index, vectors, without=number))
        assert number not in ranked
        assert sum(ranked.values()) == 40


def test_removing_a_case_is_as_if_it_had_never_been_added() -> None:
    held = cases(7, slices=30)
    everything = database("exact", held)
    query = unit(held[3] + 0.01)
    fewer = database("exact", held[:3] + held[4:])
    renamed = {number: number + (number >= 3) for number in range(6)}
    expected = tuple((renamed[case], hits) for case, hits in fewer.ask("exact", query))
    assert everything.ask("exact", query, without=3) == expected


def test_hnsw_agrees_with_the_exact_scan() -> None:
    held = cases(20, slices=30, seed=3)
    both = Database(32, ("hnsw", "exact"))
    for vectors in held:
        both.add(vectors)
    random = np.random.default_rng(1)
    for number in range(5):
        query = unit(held[number] + 0.2 * random.normal(size=held[number].shape))
        assert both.ask("hnsw", query) == both.ask("exact", query)
        assert both.ask("hnsw", query, number) == both.ask("exact", query, number)


def test_identical_slices_are_one_node_and_vote_for_the_earliest_case(index: IndexName) -> None:
    held = cases(3)
    blank = np.tile(unit(np.ones(32)), (5, 1))
    with_blank = [np.concatenate([vectors, blank]) for vectors in held]
    made = database(index, with_blank)
    assert made.ask(index, blank) == ((0, 5),)
    assert made.ask(index, blank, without=0) == ((1, 5),)
    assert made.ask(index, blank, without=1) == ((0, 5),)


def test_forty_per_cent_of_blank_slices_do_not_break_the_graph() -> None:
    held = cases(30, slices=30, seed=5)
    blank = np.tile(unit(np.ones(32)), (20, 1))
    made = database("hnsw", [np.concatenate([blank, vectors]) for vectors in held])
    for number, vectors in enumerate(held):
        assert made.ask("hnsw", vectors) == ((number, 30),)


def test_ties_go_to_the_earlier_case() -> None:
    first, second = cases(2, slices=4)
    made = database("exact", [first, second])
    assert made.ask("exact", np.concatenate([second[:2], first[:2]])) == ((0, 2), (1, 2))


def test_at_most_ten_cases_are_kept_most_hits_first() -> None:
    held = cases(14, slices=14, seed=2)
    made = database("exact", held)
    query = np.concatenate([vectors[: 14 - number] for number, vectors in enumerate(held)])
    assert made.ask("exact", query) == tuple((number, 14 - number) for number in range(10))


def test_a_database_of_one_case_without_it_has_no_candidate(index: IndexName) -> None:
    (held,) = cases(1)
    assert database(index, [held]).ask(index, held, without=0) == ()


def test_a_thumbnail_is_a_unit_vector_blind_to_brightness_and_contrast() -> None:
    random = np.random.default_rng(0)
    slices = random.random((3, 16, 16)).astype(np.float32)
    thumbnail = Thumbnail()
    vectors = thumbnail.embed(slices)
    assert vectors.shape == (3, thumbnail.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(thumbnail.embed(slices * 0.5 + 0.2), vectors, atol=1e-5)


def test_blank_thumbnails_are_equal_and_far_from_all_others() -> None:
    thumbnail = Thumbnail()
    blank = thumbnail.embed(np.stack([np.zeros((16, 16)), np.ones((16, 16))]).astype(np.float32))
    np.testing.assert_array_equal(blank[0], blank[1])
    other = thumbnail.embed(np.random.default_rng(0).random((1, 16, 16)).astype(np.float32))
    assert np.linalg.norm(blank[0] - other[0]) == pytest.approx(np.sqrt(2), abs=1e-3)


def test_a_thumbnail_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="16, 16"):
        Thumbnail().embed(np.zeros((1, 112, 112), np.float32))
