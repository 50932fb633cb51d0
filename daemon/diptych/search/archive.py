"""One archive's index: exact while it is small, HNSW when it is large, HNSW always built."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal

import numpy as np

from diptych.search import snapshot
from diptych.search.exact import ExactIndex
from diptych.search.hnsw import HnswIndex
from diptych.search.index import DISTANCE_TOLERANCE, Hits, How, Keys, Vectors

Mode = Literal["auto", "exact", "hnsw"]

EXACT_BELOW = 20_000
"""Vectors below which 'auto' scans exactly: some 100–300 cases. A series (100 slices, 256-d) then
costs tens of milliseconds, and its answer has no approximation to explain."""

RECALL_BATCH = 16
"""Queries compared under one hold of the lock: the oracle reads every vector, and judging waits."""


class SearchIndex:
    """A :class:`~diptych.search.index.VectorIndex` over one fingerprint's vectors.

    mode: 'auto' scans exactly below ``exact_below`` vectors and asks HNSW from there on; 'exact'
    and 'hnsw' force one. HNSW is built in every mode, so the snapshot always is the whole index.
    In 'auto' the exact rows are dropped for good when the archive outgrows them (their memory is
    the second copy of every vector); they come back when a smaller archive is opened.

    Hits say in ``how`` which one answered.
    """

    def __init__(
        self,
        dimension: int,
        fingerprint: str,
        *,
        mode: Mode = "auto",
        exact_below: int = EXACT_BELOW,
        hnsw: HnswIndex | None = None,
    ) -> None:
        self.hnsw = hnsw if hnsw is not None else HnswIndex(dimension)
        if self.hnsw.dimension != dimension:
            raise ValueError(f"the index has {self.hnsw.dimension} dimensions, not {dimension}")
        self.dimension = dimension
        self.fingerprint = fingerprint
        self._exact_below = exact_below
        self._mode = mode
        self._lock = threading.RLock()
        self._exact: ExactIndex | None = None
        if mode != "hnsw" and not self._outgrown(len(self.hnsw)):
            self._exact = ExactIndex(dimension)
            keys = self.hnsw.keys()
            self._exact.add(keys, self.hnsw.vectors(keys))

    @property
    def name(self) -> How:
        """Which one answers now."""
        return "hnsw" if self._exact is None else "exact"

    def __len__(self) -> int:
        return len(self.hnsw)

    def __contains__(self, key: int) -> bool:
        return key in self.hnsw

    def keys(self) -> Keys:
        return self.hnsw.keys()

    def vectors(self, keys: Keys) -> Vectors:
        return self.hnsw.vectors(keys)

    def add(self, keys: Keys, vectors: Vectors) -> int:
        with self._lock:
            added = self.hnsw.add(keys, vectors)
            if self._outgrown(len(self.hnsw)):
                self._exact = None
            if self._exact is not None:
                self._exact.add(keys, vectors)
            return added

    def remove(self, keys: Keys) -> int:
        with self._lock:
            if self._exact is not None:
                self._exact.remove(keys)
            return self.hnsw.remove(keys)

    def search(self, queries: Vectors, k: int) -> Hits:
        with self._lock:
            answering = self._exact if self._exact is not None else self.hnsw
            return answering.search(queries, k)

    def save(self, index_folder: Path) -> snapshot.Snapshot:
        """Write the next durable generation (:func:`diptych.search.snapshot.save`)."""
        directory = snapshot.folder(index_folder, self.fingerprint)
        return snapshot.save(self.hnsw, directory, self.fingerprint)

    def recall_at_1(self, sample: int, rng: np.random.Generator) -> float:
        """Share of `sample` stored vectors, asked again, for which HNSW is as near as the scan.

        Compared by distance, so that ties are no misses. Below 1.0 some stored vector cannot be
        reached in the graph: the failure that arrival order and identical vectors cause.
        1.0 for an empty index.
        """
        keys = self.keys()
        if not len(keys):
            return 1.0
        chosen = rng.choice(keys, size=min(sample, len(keys)), replace=False)
        good = 0
        for start in range(0, len(chosen), RECALL_BATCH):
            with self._lock:
                batch = chosen[start : start + RECALL_BATCH]
                batch = batch[[int(key) in self.hnsw for key in batch]]  # forgotten meanwhile
                queries = self.hnsw.vectors(batch)
                found = self.hnsw.search(queries, 1).distances
                oracle = self.hnsw.scan if self._exact is None else self._exact.search
                truth = oracle(queries, 1)
                good += int(np.sum(found <= truth.distances + DISTANCE_TOLERANCE))
                good += min(RECALL_BATCH, len(chosen) - start) - len(batch)
        return good / len(chosen)

    def _outgrown(self, count: int) -> bool:
        return self._mode == "hnsw" or (self._mode == "auto" and count >= self._exact_below)
