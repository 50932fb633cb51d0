"""Paper mode: every slice in an index of its own, and the count of equation (1) per query.

Truong et al. 2023, section II. No mask, no distance cut-off. Each query is embedded once and
looked up in every index, and, when its case is in the database, once more without that case.

Bit-identical vectors (blank slices) share one node that all their cases hold: identical nodes would
break the HNSW graph. A nearest node votes for the earliest of its cases that is a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diptych.judge.count import histogram, ranked
from diptych.search.exact import ExactIndex
from diptych.search.hnsw import HnswIndex
from diptych.search.index import MISSING, as_stored

IndexName = Literal["hnsw", "exact", "lsh"]
INDEXES: tuple[IndexName, ...] = ("hnsw", "exact", "lsh")

Vectors = NDArray[np.float32]
Nodes = NDArray[np.int64]
"""(q, k) node numbers, nearest first, -1 where nothing more was found."""

FIRST_K = 8
WIDENING = 4
"""As in ``search.neighbours``: k grows for the queries left without a candidate."""

LSH_BITS_PER_DIMENSION = 4
"""The paper names no number of bits; this many random projections keep neighbours apart."""

RANKED = 10
"""Cases kept of each answer: c(1) and c(3) need three."""


class Database:
    """The slices of set A in every index asked for; "lsh" only where :func:`have_faiss`.

    Cases are numbered as they are added, from 0.
    """

    def __init__(self, dimension: int, indexes: Sequence[IndexName]) -> None:
        self._dimension = dimension
        self._indexes = {name: _make(name, dimension) for name in indexes}
        self._node: dict[bytes, int] = {}
        self._holders: list[list[int]] = []
        self._held: list[list[int]] = []
        self._first: Nodes = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Cases."""
        return len(self._held)

    def add(self, vectors: Vectors) -> None:
        """The next case's slices, float32 (n, d), unit vectors."""
        case = len(self)
        stored = as_stored(vectors, self._dimension)
        new, held = [], set()
        for row, vector in enumerate(stored):
            node = self._node.setdefault(vector.tobytes(), len(self._holders))
            if node == len(self._holders):
                self._holders.append([])
                new.append(row)
            if node not in held:
                held.add(node)
                self._holders[node].append(case)
        keys = np.arange(len(self._holders) - len(new), len(self._holders))
        for index in self._indexes.values():
            index.add(keys, stored[new])
        self._held.append(sorted(held))
        self._first = np.concatenate([self._first, np.full(len(new), case, np.int64)])

    def ask(
        self, index: IndexName, vectors: Vectors, without: int | None = None
    ) -> tuple[tuple[int, int], ...]:
        """Equation (1) for one query: (case, hits) of the best cases, ties to the earlier one.

        vectors: float32 (n, d), every slice of the query. without: a case that is no candidate.
        """
        voter = self._first
        if without is not None:
            voter = voter.copy()
            for node in self._held[without]:
                others = [case for case in self._holders[node] if case != without]
                voter[node] = others[0] if others else -1
        searched = self._indexes[index]
        cases = _nearest(searched.search, len(self._holders), vectors, voter)
        hits = histogram([case for case in cases.tolist() if case >= 0])
        return tuple(ranked(hits)[:RANKED])


def have_faiss() -> bool:
    """Whether the optional LSH can be had."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True


def _nearest(
    search: Callable[[Vectors, int], Nodes], total: int, vectors: Vectors, voter: Nodes
) -> Nodes:
    """(q,) the case that each query's nearest candidate votes for; -1 when there is none.

    voter: (total,) the case of each node, -1: no candidate.
    """
    cases = np.full(len(vectors), -1, np.int64)
    waiting, k = np.arange(len(vectors)), FIRST_K
    while len(waiting) and total:
        nodes = search(vectors[waiting], min(k, total))
        votes = np.where(nodes >= 0, voter[nodes], -1)
        first = (votes >= 0).argmax(axis=1)
        cases[waiting] = votes[np.arange(len(waiting)), first]
        waiting = waiting[cases[waiting] < 0]
        if k >= total:
            break
        k *= WIDENING
    return cases


class _Searched:
    """HNSW with the daemon's parameters, or the exact scan: the search room's, by node number."""

    def __init__(self, index: HnswIndex | ExactIndex) -> None:
        self._index = index

    def add(self, keys: NDArray[np.int64], vectors: Vectors) -> None:
        self._index.add(keys.astype(np.uint64), vectors)

    def search(self, vectors: Vectors, k: int) -> Nodes:
        keys = self._index.search(vectors, k).keys
        nodes: Nodes = np.where(keys == MISSING, 0, keys).astype(np.int64) - (keys == MISSING)
        return nodes


class _Lsh:
    """FAISS's LSH, as the paper used it: signs of random projections, Hamming distance."""

    def __init__(self, dimension: int) -> None:
        import faiss

        # As for the others; and its threads spin while they wait, on cores that embed.
        faiss.omp_set_num_threads(1)
        self._index = faiss.IndexLSH(dimension, LSH_BITS_PER_DIMENSION * dimension)

    def add(self, keys: NDArray[np.int64], vectors: Vectors) -> None:
        self._index.add(vectors)

    def search(self, vectors: Vectors, k: int) -> Nodes:
        distances, nodes = self._index.search(vectors, k)
        # Hamming distances tie often, and FAISS does not say in which order.
        order = np.lexsort((nodes, distances), axis=1)
        found: Nodes = np.take_along_axis(nodes, order, axis=1).astype(np.int64)
        return found


def _make(name: IndexName, dimension: int) -> _Searched | _Lsh:
    if name == "lsh":
        return _Lsh(dimension)
    # One thread: with more the graph would differ from run to run, and from a resumed one.
    return _Searched(HnswIndex(dimension, threads=1) if name == "hnsw" else ExactIndex(dimension))
