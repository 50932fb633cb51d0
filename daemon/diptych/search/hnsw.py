"""The approximate index: USearch's HNSW graph, with its hazards kept in here.

Four of them are answered in this file (each has a test): the dtype's default depends on the CPU;
saving beside adding writes a corrupt file without a word; a duplicate key raises; loading brings
its own search effort along.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

# With usearch 2.26.6 loaded, importing onnxruntime 1.31.1 kills the process: it must come first.
if "usearch" not in sys.modules:
    with contextlib.suppress(ImportError):
        import onnxruntime  # noqa: F401
from usearch.index import BatchMatches, Index, Matches, MetricKind, ScalarKind

from diptych.search.index import (
    MISSING,
    Hits,
    How,
    Keys,
    Vectors,
    as_keys,
    as_stored,
    new_rows,
    ordered,
)

WORKER_THREADS = max(1, (os.cpu_count() or 1) - 1)
"""Threads of one batch. One core stays free for receiving."""


@dataclass(frozen=True)
class Parameters:
    """The graph's shape, chosen by measured recall in *arrival order* (series after series).

    That order is the hard one: a new slice's nearest vectors are its own neighbours, so links stay
    inside the series unless connectivity and effort are high. ``scripts/bench_index`` measures it.
    """

    connectivity: int = 32
    """Links per node (M)."""
    expansion_add: int = 256
    """Candidates looked at when adding (efConstruction)."""
    expansion_search: int = 256
    """Candidates looked at when searching (ef); may change without a rebuild."""


@dataclass(frozen=True)
class Saved:
    """What one saved file holds, read under the same lock as the file was written."""

    count: int
    tombstones: int
    newest_key: int
    """The highest key ever added (0: none). Keys are handed out in order by SQL, so it is the
    watermark: vectors with higher keys are the ones to replay."""


class HnswIndex:
    """A :class:`~diptych.search.index.VectorIndex` over one USearch graph.

    The metric is the squared Euclidean distance, not cosine: at f16 a cosine loses a self-match in
    rounding (1 - q·v is not 0), a sum of squared differences is exactly 0. The root is taken here.

    One lock covers add, remove, search and save: USearch serialises adding against searching
    anyway, and ``Index.save`` beside ``add`` writes a file that loads and lies.
    """

    name: How = "hnsw"

    def __init__(
        self,
        dimension: int,
        parameters: Parameters | None = None,
        *,
        threads: int = WORKER_THREADS,
    ) -> None:
        if dimension < 1:
            raise ValueError(f"dimension must be at least 1, not {dimension}")
        self.dimension = dimension
        self.parameters = parameters or Parameters()
        self._threads = threads
        self._newest_key = 0
        self._lock = threading.RLock()
        self._graph = Index(
            ndim=dimension,
            metric=MetricKind.L2sq,
            dtype=ScalarKind.F16,  # stated: the library's default depends on the CPU
            **asdict(self.parameters),
        )

    def __len__(self) -> int:
        return len(self._graph)

    def __contains__(self, key: int) -> bool:
        with self._lock:
            return bool(self._graph.contains(key))

    @property
    def tombstones(self) -> int:
        """Removed vectors whose memory is still held; a rebuild gives it back.

        Later vectors take over their slots one by one, so the number can fall.
        """
        with self._lock:
            return int(self._graph.stats.nodes) - len(self._graph)

    @property
    def newest_key(self) -> int:
        """The highest key ever added; 0 when there was none."""
        return self._newest_key

    def keys(self) -> Keys:
        with self._lock:
            if not len(self._graph):
                return np.zeros(0, dtype=np.uint64)
            return np.sort(np.asarray(self._graph.keys[:], dtype=np.uint64))

    def vectors(self, keys: Keys) -> Vectors:
        with self._lock:
            rows = self._graph.get(np.ascontiguousarray(keys, dtype=np.uint64))
        for key, row in zip(keys, rows, strict=True):
            if row is None:
                raise KeyError(f"vector {key} is not in the index")
        if not rows:
            return np.zeros((0, self.dimension), dtype=np.float32)
        return np.stack(rows).reshape(len(rows), self.dimension).astype(np.float32)

    def add(self, keys: Keys, vectors: Vectors) -> int:
        checked, stored = as_keys(keys), as_stored(vectors, self.dimension)
        with self._lock:
            present = (
                np.asarray(self._graph.contains(checked), dtype=bool)
                if len(checked)
                else np.zeros(0, dtype=bool)
            )
            fresh = new_rows(checked, stored, present, self)
            if len(fresh):
                self._graph.add(checked[fresh], stored[fresh], threads=self._threads)
                self._newest_key = max(self._newest_key, int(checked[fresh].max()))
        return len(fresh)

    def remove(self, keys: Keys) -> int:
        checked = as_keys(keys)
        with self._lock:
            if not len(checked):
                return 0
            here = checked[np.asarray(self._graph.contains(checked), dtype=bool)]
            if len(here):
                self._graph.remove(here)
            return len(here)

    def search(self, queries: Vectors, k: int) -> Hits:
        return self._search(queries, k, exact=False)

    def scan(self, queries: Vectors, k: int) -> Hits:
        """As :meth:`search`, but comparing every stored vector: the oracle of a large archive."""
        return self._search(queries, k, exact=True)

    def save(self, path: Path) -> Saved:
        """Write the graph to path, not durably: :mod:`~diptych.search.snapshot` does that."""
        with self._lock:
            self._graph.save(path)
            return Saved(len(self._graph), self.tombstones, self._newest_key)

    @classmethod
    def load(
        cls,
        path: Path,
        dimension: int,
        parameters: Parameters,
        newest_key: int,
        *,
        threads: int = WORKER_THREADS,
    ) -> HnswIndex:
        """Read what :meth:`save` wrote. The caller has verified the file's checksum before.

        ValueError: the file holds another dimension, dtype, metric or connectivity.
        RuntimeError: USearch cannot read it.
        """
        index = cls(dimension, parameters, threads=threads)
        graph = index._graph
        graph.load(path)
        found = (graph.ndim, graph.dtype, graph.metric_kind, graph.connectivity)
        owed = (dimension, ScalarKind.F16, MetricKind.L2sq, parameters.connectivity)
        if found != owed:
            raise ValueError(f"the graph has {found}, expected {owed}")
        graph.expansion_add = parameters.expansion_add  # a load may bring its own
        graph.expansion_search = parameters.expansion_search
        index._newest_key = newest_key
        return index

    def _search(self, queries: Vectors, k: int, *, exact: bool) -> Hits:
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        stored = as_stored(queries, self.dimension)
        how: How = "exact" if exact else "hnsw"
        with self._lock:
            reach = min(k, len(self._graph))
            if not len(stored) or not reach:
                nothing = np.zeros((len(stored), 0))
                return ordered(nothing.astype(np.uint64), nothing.astype(np.float32), k, how)
            found = self._graph.search(stored, reach, threads=self._threads, exact=exact)
        return ordered(*_unpack(found, reach), k, how)


def _unpack(
    found: Matches | BatchMatches, reach: int
) -> tuple[Keys, np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    """(q, reach) keys and Euclidean distances; unused positions hold zeros in USearch, pads here.

    One query returns ``Matches`` (1-D, cut to its count), several ``BatchMatches`` (2-D + counts).
    """
    if isinstance(found, Matches):
        keys = np.full((1, reach), MISSING, dtype=np.uint64)
        squared = np.full((1, reach), np.inf, dtype=np.float32)
        keys[0, : len(found.keys)] = found.keys
        squared[0, : len(found.keys)] = found.distances
    else:
        unused = np.arange(reach) >= np.asarray(found.counts)[:, None]
        keys = np.where(unused, MISSING, found.keys).astype(np.uint64)
        squared = np.where(unused, np.inf, found.distances).astype(np.float32)
    return keys, np.sqrt(np.maximum(squared, 0.0)).astype(np.float32)
