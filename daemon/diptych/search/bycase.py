"""How near each slice of a query comes to each case: an exact scan that is bounded in memory.

An index answers with the nearest vectors; a ranking of *cases* needs the nearest vector of every
case. One pass over the vectors gives it, in q · cases numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from diptych.search.index import Keys, Vectors


def distances_by_case(
    queries: Vectors, nodes: Iterable[tuple[Keys, Vectors]], held: Sequence[Keys]
) -> NDArray[np.float32]:
    """(q, len(held)) Euclidean distances of each query to the nearest vector of each case.

    queries: float32 (q, d), rounded as an index rounds them. nodes: batches of (m,) keys and
    (m, d) vectors; a key comes once. held: the keys that each case holds; several cases may hold
    one. +inf: none of the case's keys came.
    """
    found = np.full((len(queries), len(held)), np.inf, np.float32)
    keys = np.concatenate([np.asarray(each, np.uint64) for each in held] or [_NO_KEYS])
    cases = np.repeat(np.arange(len(held)), [len(each) for each in held])
    order = np.argsort(keys, kind="stable")
    keys, cases = keys[order], cases[order]
    # In float64 |q|² - 2 q·v + |v|² cancels to 1e-8 only: a vector lies at 0 from itself.
    asked = queries.astype(np.float64)
    lengths = np.einsum("qd,qd->q", asked, asked)[:, None]
    for batch, vectors in nodes:
        first = np.searchsorted(keys, batch, "left")
        counts = np.searchsorted(keys, batch, "right") - first
        rows = np.repeat(np.arange(len(batch)), counts)
        if not len(rows):
            continue
        holders = cases[np.repeat(first, counts) + _within(counts)]
        values = vectors.astype(np.float64)
        squares = lengths - 2 * (asked @ values.T) + np.einsum("md,md->m", values, values)
        by_case = np.argsort(holders, kind="stable")
        columns, starts = np.unique(holders[by_case], return_index=True)
        least = np.minimum.reduceat(squares[:, rows[by_case]], starts, axis=1)
        near = np.sqrt(np.maximum(least, 0.0)).astype(np.float32)
        found[:, columns] = np.minimum(found[:, columns], near)
    return found


_NO_KEYS = np.zeros(0, np.uint64)


def _within(counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """0 … count - 1 for each count, one after the other."""
    ends = np.cumsum(counts)
    return np.asarray(np.arange(ends[-1]) - np.repeat(ends - counts, counts), np.intp)
