"""Distances to cases, against the definition."""

from __future__ import annotations

import numpy as np

from diptych.search.bycase import distances_by_case
from diptych.search.exact import ExactIndex
from diptych.search.index import as_stored


def unit(random: np.random.Generator, count: int, dimension: int = 16) -> np.ndarray:
    vectors = random.normal(size=(count, dimension)).astype(np.float32)
    return as_stored(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dimension)


def test_the_distance_to_a_case_is_that_to_its_nearest_vector_whatever_the_batches() -> None:
    random = np.random.default_rng(1)
    vectors, queries = unit(random, 50), unit(random, 7)
    keys = np.sort(random.choice(1000, 50, replace=False)).astype(np.uint64)
    # Cases share vectors; one holds a single vector, one the same one twice.
    rows = [random.choice(50, size, replace=False) for size in (20, 30, 1)] + [np.array([3, 3])]
    held = [keys[each] for each in rows]
    whole = np.linalg.norm(queries[:, None] - vectors[None], axis=2)
    expected = np.stack([whole[:, each].min(axis=1) for each in rows], axis=1)
    for size in (1, 7, 50):
        batches = [(keys[at : at + size], vectors[at : at + size]) for at in range(0, 50, size)]
        np.testing.assert_allclose(distances_by_case(queries, batches, held), expected, atol=1e-6)


def test_it_agrees_with_the_exact_index_and_a_vector_lies_at_0_from_itself() -> None:
    random = np.random.default_rng(2)
    vectors = unit(random, 40, 256)
    keys = np.arange(1, 41, dtype=np.uint64)
    index = ExactIndex(256)
    index.add(keys, vectors)
    single = [keys[row : row + 1] for row in range(40)]
    found = distances_by_case(vectors, [(keys, vectors)], single)
    assert found.diagonal().max() < 1e-6
    hits = index.search(vectors, 40)
    np.testing.assert_allclose(np.sort(found, axis=1), hits.distances, atol=1e-5)


def test_what_no_case_holds_and_cases_without_vectors_change_nothing() -> None:
    random = np.random.default_rng(3)
    vectors, keys = unit(random, 3), np.array([5, 6, 7], np.uint64)
    none = np.zeros(0, np.uint64)
    found = distances_by_case(
        vectors, [(keys, vectors)], [none, keys[1:2], np.array([9], np.uint64)]
    )
    assert np.isinf(found[:, [0, 2]]).all()
    assert np.isfinite(found[:, 1]).all()
    assert distances_by_case(vectors, [(keys, vectors)], []).shape == (3, 0)
    assert distances_by_case(vectors, [], [keys]).shape == (3, 1)
