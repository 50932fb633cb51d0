"""The exact scan: right for a small archive, and the oracle of the approximate index."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from diptych.search.index import Hits, How, Keys, Vectors, as_keys, as_stored, new_rows, ordered

FIRST_ROWS = 1024
"""Rows of the first buffer; it doubles when full, so adding stays linear in all."""

BLOCK_ROWS = 8192
"""Vectors compared in one step: (200 queries × 8192) float32 is 6.5 MB, about a core's cache."""

SPARE = 16
"""Candidates kept beyond k when ranking by ``2 - 2 q·v``, whose rounding (1e-6) may swap near ties;
they are measured again as differences before the k nearest are named."""


class ExactIndex:
    """A :class:`~diptych.search.index.VectorIndex` that compares every vector.

    Rows stay in a float32 buffer (values rounded to f16, see :mod:`diptych.search.index`):
    4·d bytes a vector, 1 KB at d = 256. Removing moves the last row into the hole.
    """

    name: How = "exact"

    def __init__(self, dimension: int) -> None:
        if dimension < 1:
            raise ValueError(f"dimension must be at least 1, not {dimension}")
        self.dimension = dimension
        self._lock = threading.RLock()
        self._row: dict[int, int] = {}
        self._keys = np.zeros(FIRST_ROWS, dtype=np.uint64)
        self._vectors = np.zeros((FIRST_ROWS, dimension), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, key: int) -> bool:
        return key in self._row

    def keys(self) -> Keys:
        with self._lock:
            return np.sort(self._keys[: len(self)])

    def vectors(self, keys: Keys) -> Vectors:
        with self._lock:
            try:
                rows = [self._row[int(key)] for key in keys]
            except KeyError as missing:
                raise KeyError(f"vector {missing.args[0]} is not in the index") from None
            return self._vectors[rows].reshape(len(rows), self.dimension)

    def add(self, keys: Keys, vectors: Vectors) -> int:
        checked, stored = as_keys(keys), as_stored(vectors, self.dimension)
        with self._lock:
            present = np.array([int(key) in self._row for key in checked], dtype=bool)
            fresh = new_rows(checked, stored, present, self)
            start, end = len(self), len(self) + len(fresh)
            self._make_room(end)
            self._keys[start:end] = checked[fresh]
            self._vectors[start:end] = stored[fresh]
            self._row.update(zip(checked[fresh].tolist(), range(start, end), strict=True))
        return len(fresh)

    def remove(self, keys: Keys) -> int:
        removed = 0
        with self._lock:
            for key in as_keys(keys).tolist():
                hole = self._row.pop(key, None)
                if hole is None:
                    continue
                removed += 1
                last = len(self)
                if hole != last:
                    self._keys[hole], self._vectors[hole] = self._keys[last], self._vectors[last]
                    self._row[int(self._keys[hole])] = hole
                self._vectors[last] = 0.0  # forgotten means gone, not only out of reach
        return removed

    def search(self, queries: Vectors, k: int) -> Hits:
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        stored = as_stored(queries, self.dimension)
        with self._lock:
            rows = self._nearest_rows(stored, min(k + SPARE, len(self)))
            keys = self._keys[rows]
            distances = np.empty(rows.shape, dtype=np.float32)
            for number, query in enumerate(stored):
                difference = self._vectors[rows[number]] - query
                distances[number] = np.sqrt(np.einsum("md,md->m", difference, difference))
        return ordered(keys, distances, k, self.name)

    def _nearest_rows(self, queries: Vectors, count: int) -> NDArray[np.intp]:
        """(q, count) rows with the smallest |v|² - 2 q·v, in no order."""
        rows = np.zeros((len(queries), 0), dtype=np.intp)
        scores = np.zeros((len(queries), 0), dtype=np.float32)
        for start in range(0, len(self), BLOCK_ROWS):
            block = self._vectors[start : min(start + BLOCK_ROWS, len(self))]
            lengths = np.einsum("md,md->m", block, block)
            scores = np.hstack([scores, lengths - 2.0 * (queries @ block.T)])
            numbers = np.arange(start, start + len(block), dtype=np.intp)
            rows = np.hstack([rows, np.broadcast_to(numbers, (len(queries), len(block)))])
            if scores.shape[1] > count:
                best = np.argpartition(scores, count - 1, axis=1)[:, :count]
                scores = np.take_along_axis(scores, best, axis=1)
                rows = np.take_along_axis(rows, best, axis=1)
        return rows

    def _make_room(self, rows: int) -> None:
        if rows <= len(self._keys):
            return
        size = max(rows, 2 * len(self._keys))
        keys, vectors = self._keys, self._vectors
        self._keys = np.zeros(size, dtype=np.uint64)
        self._vectors = np.zeros((size, self.dimension), dtype=np.float32)
        self._keys[: len(keys)] = keys
        self._vectors[: len(vectors)] = vectors
