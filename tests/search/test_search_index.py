"""Both implementations of VectorIndex owe the same; HNSW is measured against the exact scan."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from diptych.search.exact import ExactIndex
from diptych.search.hnsw import HnswIndex
from diptych.search.index import DISTANCE_TOLERANCE, MISSING, VectorIndex

both = pytest.mark.parametrize("kind", [ExactIndex, HnswIndex])


def noisy(vectors, sigma, seed=1):
    damaged = vectors + np.random.default_rng(seed).normal(size=vectors.shape) * sigma
    return (damaged / np.linalg.norm(damaged, axis=1, keepdims=True)).astype(np.float32)


@both
def test_a_stored_vector_lies_at_exactly_zero_from_itself(kind, archive):
    keys, vectors = archive(10)
    index: VectorIndex = kind(64)
    assert index.add(keys, vectors) == 400
    hits = index.search(vectors, 1)
    assert np.array_equal(hits.keys[:, 0], keys)
    assert np.all(hits.distances == 0.0)
    assert hits.how == index.name


@both
def test_distances_are_euclidean_not_squared(kind):
    index = kind(2)
    index.add(np.array([7], dtype=np.uint64), np.array([[1, 0]], dtype=np.float32))
    hits = index.search(np.array([[0, 1], [-1, 0]], dtype=np.float32), 1)
    assert np.allclose(hits.distances[:, 0], [np.sqrt(2), 2], atol=1e-6)


@both
def test_too_few_vectors_are_padded_with_missing_keys_at_infinity(kind, archive):
    keys, vectors = archive(1, 3)
    index = kind(64)
    empty = index.search(vectors, 2)
    assert np.all(empty.keys == MISSING)
    assert np.all(np.isinf(empty.distances))
    index.add(keys, vectors)
    for queries in (vectors, vectors[:1]):  # USearch answers one query in another type
        hits = index.search(queries, 5)
        assert hits.keys.shape == (len(queries), 5)
        assert np.all(hits.keys[:, 3:] == MISSING)
        assert np.all(np.isinf(hits.distances[:, 3:]))
        assert np.all(hits.keys[:, :3] != MISSING)
    assert index.search(vectors[:0], 2).keys.shape == (0, 2)


@both
def test_equal_distances_come_in_order_of_key(kind):
    index = kind(2)
    vectors = np.array([[0, 1], [0, -1]], dtype=np.float32)
    index.add(np.array([9, 4], dtype=np.uint64), vectors)
    assert index.search(np.array([[1, 0]], dtype=np.float32), 2).keys.tolist() == [[4, 9]]


@both
def test_adding_again_is_harmless_and_a_reused_key_is_refused(kind, archive):
    keys, vectors = archive(2)
    index = kind(64)
    assert index.add(keys[:50], vectors[:50]) == 50
    assert index.add(keys, vectors) == 30
    assert index.add(keys, vectors) == 0
    with pytest.raises(ValueError, match="already used by another vector"):
        index.add(keys[:1], vectors[1:2])
    assert len(index) == 80


@both
def test_removed_vectors_are_not_found_and_the_others_are(kind, archive):
    keys, vectors = archive(10)
    index = kind(64)
    index.add(keys, vectors)
    assert index.remove(keys[:100]) == 100
    assert index.remove(keys[:100]) == 0
    assert len(index) == 300
    assert 1 not in index
    assert 101 in index
    assert np.array_equal(index.keys(), keys[100:])
    hits = index.search(vectors, 3)
    assert hits.keys.min() > 100
    assert np.array_equal(hits.keys[100:, 0], keys[100:])
    with pytest.raises(KeyError, match="vector 5 is not in the index"):
        index.vectors(np.array([5], dtype=np.uint64))
    assert index.add(keys[:100], vectors[:100]) == 100
    assert np.array_equal(index.search(vectors, 1).keys[:, 0], keys)


@both
def test_stored_vectors_come_back_rounded_to_half_precision(kind, archive):
    keys, vectors = archive(2)
    index = kind(64)
    index.add(keys, vectors)
    assert np.array_equal(index.vectors(keys[::-1]), vectors[::-1].astype(np.float16))
    assert index.vectors(keys[:0]).shape == (0, 64)


@both
@pytest.mark.parametrize(
    ("keys", "vectors", "words"),
    [
        ([1], np.eye(1, 3), r"must be \(m, 2\)"),
        ([1], [[1, 1]], "must have norm 1"),
        ([1], [[np.nan, 0]], "must have norm 1"),
        ([1, 1], np.eye(2), "occurs twice"),
        ([2**64 - 1], [[1, 0]], "reserved"),
        ([1], np.eye(2), "1 keys for 2 vectors"),
    ],
)
def test_impossible_input_is_refused_and_nothing_is_added(kind, keys, vectors, words):
    index = kind(2)
    with pytest.raises(ValueError, match=words):
        index.add(np.array(keys, dtype=np.uint64), np.array(vectors, dtype=np.float32))
    assert len(index) == 0
    with pytest.raises(ValueError, match="k must be at least 1"):
        index.search(np.eye(2, dtype=np.float32), 0)


def test_hnsw_and_the_exact_scan_agree_on_every_distance(archive):
    keys, vectors = archive(50)
    exact, hnsw = ExactIndex(64), HnswIndex(64)
    exact.add(keys, vectors)
    hnsw.add(keys, vectors)
    queries = noisy(vectors[::7], 0.02)
    true, scanned, found = exact.search(queries, 4), hnsw.scan(queries, 4), hnsw.search(queries, 4)
    assert np.allclose(true.distances, scanned.distances, atol=DISTANCE_TOLERANCE)
    same = true.keys == found.keys
    assert same.mean() > 0.99
    assert np.allclose(true.distances[same], found.distances[same], atol=DISTANCE_TOLERANCE)
    rounded = queries.astype(np.float16).astype(np.float32)
    by_hand = np.linalg.norm(exact.vectors(true.keys[:, 0]) - rounded, axis=1)
    assert np.allclose(true.distances[:, 0], by_hand, atol=DISTANCE_TOLERANCE)


def test_hnsw_finds_the_nearest_in_arrival_order(archive):
    keys, vectors = archive(400, 40)
    exact, hnsw = ExactIndex(64), HnswIndex(64)
    for start in range(0, len(keys), 40):  # a series at a time, as they arrive
        exact.add(keys[start : start + 40], vectors[start : start + 40])
        hnsw.add(keys[start : start + 40], vectors[start : start + 40])
    queries = noisy(vectors[::17], 0.05)
    true, found = exact.search(queries, 1), hnsw.search(queries, 1)
    recall = np.mean(found.distances <= true.distances + DISTANCE_TOLERANCE)
    assert recall >= 0.99


def test_the_exact_scan_is_right_across_blocks_of_rows(archive):
    keys, vectors = archive(300, 40)  # 12,000 rows: more than one block, and a grown buffer
    exact = ExactIndex(64)
    exact.add(keys, vectors)
    queries = noisy(vectors[::997], 0.1)
    rounded = queries.astype(np.float16).astype(np.float32)
    stored = vectors.astype(np.float16).astype(np.float32)
    by_hand = np.linalg.norm(stored[None] - rounded[:, None], axis=2)
    hits = exact.search(queries, 5)
    assert np.allclose(hits.distances, np.sort(by_hand, axis=1)[:, :5], atol=DISTANCE_TOLERANCE)
    assert np.array_equal(hits.keys[:, 0], keys[np.argmin(by_hand, axis=1)])


def test_tombstones_are_counted(archive):
    keys, vectors = archive(2)
    index = HnswIndex(64)
    index.add(keys, vectors)
    assert (index.tombstones, index.newest_key) == (0, 80)
    index.remove(keys[70:])
    assert (index.tombstones, index.newest_key) == (10, 80)


def test_hnsw_searched_while_added_to_loses_nothing(archive):
    keys, vectors = archive(60)
    index = HnswIndex(64)
    failures: list[Exception] = []

    def ask():
        try:
            for _ in range(30):
                index.search(vectors[:20], 3)
        except Exception as error:
            failures.append(error)

    asking = [threading.Thread(target=ask) for _ in range(3)]
    for thread in asking:
        thread.start()
    for start in range(0, len(keys), 40):
        index.add(keys[start : start + 40], vectors[start : start + 40])
    for thread in asking:
        thread.join()
    assert not failures
    assert np.array_equal(index.search(vectors, 1).keys[:, 0], keys)


def test_the_index_and_the_models_runtime_live_in_one_process_in_either_order_of_use() -> None:
    for first, second in (("search.hnsw", "embed.session"), ("embed.session", "search.hnsw")):
        code = f"import diptych.{first}, diptych.{second}, onnxruntime, usearch.index"
        done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
        assert done.returncode == 0, f"{code}: {done.returncode} {done.stderr.decode()}"
