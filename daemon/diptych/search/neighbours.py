"""Nearest vectors of others: a series is never a match of itself.

USearch has no filter, so k is widened until every query has a hit that is not excluded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diptych.search.index import MISSING, Hits, Keys, VectorIndex, Vectors

FIRST_K = 8
"""Neighbours asked for at first. A first revision excludes nothing, so this nearly always does."""

WIDENING = 4
"""k grows by this factor for the queries left without a hit: late revisions of a long series need
four rounds at most (8, 32, 128, 512), and a round costs about as much as its k."""


def nearest(
    index: VectorIndex,
    queries: Vectors,
    excluded: Callable[[Keys], NDArray[np.bool_]],
    k: int = FIRST_K,
) -> Hits:
    """The nearest vectors of each of (q, d) queries that are not excluded: up to k, at least one.

    excluded: maps (m,) keys to (m,) bool, True where *every* case that holds the vector is ruled
    out (a revision or stack of the same series). It is never asked about :data:`MISSING`.

    The only cap is the index itself: a query is given up, its row all :data:`MISSING`, when k has
    reached ``len(index)``, that is, when everything in reach is excluded. Only the queries still
    without a hit are searched again.
    """
    keys = np.full((len(queries), k), MISSING, dtype=np.uint64)
    distances = np.full((len(queries), k), np.inf, dtype=np.float32)
    waiting = np.arange(len(queries))
    wide = k
    while len(waiting):
        hits = index.search(queries[waiting], wide)
        _fill(keys, distances, waiting, hits, _foreign(hits.keys, excluded))
        waiting = waiting[keys[waiting, 0] == MISSING]
        if wide >= len(index):
            break
        wide = min(wide * WIDENING, len(index))
    return Hits(keys, distances, index.name)


def _foreign(keys: Keys, excluded: Callable[[Keys], NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """(q, k) bool: a real hit that is not excluded. One question, however many queries."""
    distinct, where = np.unique(keys, return_inverse=True)
    good: NDArray[np.bool_] = distinct != MISSING
    good[good] = ~np.asarray(excluded(distinct[good]), dtype=bool)
    foreign: NDArray[np.bool_] = good[where].reshape(keys.shape)
    return foreign


def _fill(
    keys: Keys,
    distances: NDArray[np.float32],
    rows: NDArray[np.intp],
    hits: Hits,
    foreign: NDArray[np.bool_],
) -> None:
    """Write the first foreign hits of each query into its row, nearest first."""
    width = keys.shape[1]
    for row, found_keys, found_distances, good in zip(
        rows, hits.keys, hits.distances, foreign, strict=True
    ):
        kept = np.flatnonzero(good)[:width]
        keys[row, : len(kept)] = found_keys[kept]
        distances[row, : len(kept)] = found_distances[kept]
