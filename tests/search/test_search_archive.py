"""One archive's index: which implementation answers, and never a match of itself."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.search.archive import SearchIndex
from diptych.search.exact import ExactIndex
from diptych.search.hnsw import HnswIndex
from diptych.search.index import MISSING
from diptych.search.neighbours import nearest

FINGERPRINT = "ab" * 32


def test_a_small_archive_is_scanned_and_a_large_one_asks_the_graph(archive):
    keys, vectors = archive(4)
    index = SearchIndex(64, FINGERPRINT, exact_below=100)
    index.add(keys[:99], vectors[:99])
    assert index.name == index.search(vectors, 1).how == "exact"
    index.add(keys[99:], vectors[99:])
    assert index.name == index.search(vectors, 1).how == "hnsw"
    assert np.array_equal(index.search(vectors, 1).keys[:, 0], keys)


@pytest.mark.parametrize("mode", ["exact", "hnsw"])
def test_one_implementation_can_be_forced(archive, mode):
    keys, vectors = archive(4)
    index = SearchIndex(64, FINGERPRINT, mode=mode, exact_below=100)
    assert index.search(vectors, 1).how == mode
    index.add(keys, vectors)
    assert index.search(vectors, 1).how == mode
    assert len(index.hnsw) == len(index) == 160


def test_removed_vectors_are_gone_from_both(archive):
    keys, vectors = archive(2)
    index = SearchIndex(64, FINGERPRINT)
    index.add(keys, vectors)
    assert index.remove(keys[:40]) == 40
    assert index.search(vectors[:40], 1).keys.min() > 40
    assert index.hnsw.search(vectors[:40], 1).keys.min() > 40


@pytest.mark.parametrize("mode", ["auto", "hnsw"])
def test_recall_is_one_when_the_graph_is_whole_and_falls_when_it_is_not(archive, mode):
    keys, vectors = archive(20)
    index = SearchIndex(64, FINGERPRINT, mode=mode)
    rng = np.random.default_rng(0)
    assert index.recall_at_1(50, rng) == 1.0  # empty
    index.add(keys, vectors)
    assert index.recall_at_1(200, rng) == 1.0
    assert index.recall_at_1(10_000, rng) == 1.0  # more than there are


def test_recall_sees_vectors_the_graph_cannot_reach(archive):
    keys, vectors = archive(20)
    index = SearchIndex(64, FINGERPRINT, mode="hnsw")
    index.add(keys, vectors)
    honest = index.hnsw.search

    def blind(queries, k):  # a graph that has lost its way to the first half
        hits = honest(queries, k)
        hits.distances[hits.keys <= 400] += 1
        return hits

    index.hnsw.search = blind
    assert 0.3 < index.recall_at_1(400, np.random.default_rng(0)) < 0.7


@pytest.mark.parametrize("kind", [ExactIndex, HnswIndex])
def test_a_series_is_never_a_match_of_itself(archive, kind):
    keys, vectors = archive(6)
    index = kind(64)
    index.add(keys, vectors)
    own = vectors[:40]

    def excluded(found):
        assert MISSING not in found
        return found <= 40

    hits = nearest(index, own, excluded, 2)
    assert hits.keys.shape == (40, 2)
    assert np.all(hits.keys[:, 0] > 40)
    assert np.all(np.isfinite(hits.distances[:, 0]))
    others = ExactIndex(64)
    others.add(keys[40:], vectors[40:])
    assert np.array_equal(hits.keys[:, 0], others.search(own, 1).keys[:, 0])


def test_k_is_widened_only_for_the_queries_that_need_it(archive):
    keys, vectors = archive(6)
    index = ExactIndex(64)
    index.add(keys, vectors)
    asked = []
    honest = index.search

    def counted(queries, k):
        asked.append((len(queries), k))
        return honest(queries, k)

    index.search = counted
    nearest(index, vectors, lambda found: found == 7, 1)
    assert asked == [(240, 1), (1, 4)]


def test_when_everything_is_excluded_the_row_is_missing(archive):
    keys, vectors = archive(3)
    index = HnswIndex(64)
    index.add(keys, vectors)
    hits = nearest(index, vectors[:5], lambda found: np.ones(len(found), dtype=bool))
    assert np.all(hits.keys == MISSING)
    empty = nearest(HnswIndex(64), vectors[:5], lambda found: np.zeros(len(found), dtype=bool))
    assert np.all(empty.keys == MISSING)
    assert np.all(np.isinf(empty.distances))
