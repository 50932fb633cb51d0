"""What Diptych owes itself as a vector index, and the distance every implementation agrees on.

**The distance.** Vectors are unit-norm and kept as IEEE half precision (f16), so every
implementation, and every query, is first rounded to f16 by :func:`as_stored`. The distance is the
Euclidean distance (paper, section II: "minimal Euclidean distance") between the *rounded* vectors,
summed as squared *differences* in float32. It is never computed as ``2 - 2 q·v``: that cancels (and
rounding has moved the norms), so a vector would lie some 1e-2 away from itself instead of at 0.
HNSW and exact scan therefore agree to :data:`DISTANCE_TOLERANCE`, and a self-match is 0.0 in both.

Precondition of every index: bit-identical vectors are added once. The caller keeps the list of
slices that share a node in SQL: identical nodes become a sink that breaks an HNSW graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
"""(m,) vector keys: SQL identities, 64 bits, never reused."""

Vectors = NDArray[np.float32]
"""(m, d) unit vectors."""

How = Literal["exact", "hnsw"]

MISSING: np.uint64 = np.uint64(2**64 - 1)
"""Pads :class:`Hits` where fewer than k vectors were found; its distance is +inf.
SQL keys are signed 64-bit integers, so it can never be a real key."""

DISTANCE_TOLERANCE = 1e-5
"""Two implementations may differ by this much (float32 summed in another order, square root taken);
measured: 1.2e-7 in 256 dimensions. Distances of unit vectors lie in [0, 2]."""

NORM_TOLERANCE = 5e-3
"""A vector counts as unit-norm within this. f16 rounding moves the norm by at most 5e-4; a vector
further off was not normalised, and its distances would mean something else."""


@dataclass(frozen=True)
class Hits:
    """The k nearest vectors of each query, nearest first; equal distances in order of key.

    keys: (q, k) uint64, padded with :data:`MISSING`.
    distances: (q, k) float32, Euclidean, padded with +inf.
    how: which implementation answered; the audit row says it.
    """

    keys: Keys
    distances: NDArray[np.float32]
    how: How


class VectorIndex(Protocol):
    """What an implementation owes. Every method may be called from any thread."""

    @property
    def name(self) -> How: ...

    @property
    def dimension(self) -> int: ...

    def __len__(self) -> int:
        """Vectors that can be found (removed ones are not counted)."""
        ...

    def __contains__(self, key: int) -> bool: ...

    def keys(self) -> Keys:
        """(n,) the keys that can be found, ascending."""
        ...

    def vectors(self, keys: Keys) -> Vectors:
        """(m, d) the vectors as stored (rounded to f16). KeyError names a key that is not there."""
        ...

    def add(self, keys: Keys, vectors: Vectors) -> int:
        """Add what is not there yet; return how many were added.

        A key that is there with the same vector is left alone, so that replaying a log is
        harmless. ValueError: a key is there with another vector (keys are never reused), a key is
        :data:`MISSING`, a shape is wrong, a vector is not finite or not unit-norm. Nothing is
        added then.
        """
        ...

    def remove(self, keys: Keys) -> int:
        """Remove what is there; return how many were. Unknown keys are left alone."""
        ...

    def search(self, queries: Vectors, k: int) -> Hits:
        """The k nearest of each of (q, d) unit queries. ValueError as for :meth:`add`, or k < 1."""
        ...


def as_stored(vectors: Vectors, dimension: int) -> Vectors:
    """(m, d) checked and rounded to f16, the form in which every index compares vectors.

    ValueError: not (m, dimension), not finite, or not unit-norm.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise ValueError(f"vectors must be (m, {dimension}), not {vectors.shape}")
    norms = np.linalg.norm(vectors, axis=1)
    if not bool(np.all(np.abs(norms - 1.0) <= NORM_TOLERANCE)):  # also refuses NaN
        worst = norms[int(np.argmax(np.nan_to_num(np.abs(norms - 1.0), nan=np.inf)))]
        raise ValueError(f"vectors must have norm 1 ± {NORM_TOLERANCE}, found {worst}")
    return vectors.astype(np.float16).astype(np.float32)


def as_keys(keys: Keys) -> Keys:
    """(m,) uint64, refused with ValueError when a key repeats or is :data:`MISSING`."""
    checked = np.ascontiguousarray(keys, dtype=np.uint64)
    if checked.ndim != 1:
        raise ValueError(f"keys must be (m,), not {checked.shape}")
    if bool(np.any(checked == MISSING)):
        raise ValueError(f"key {MISSING} is reserved for 'nothing found'")
    if len(np.unique(checked)) != len(checked):
        raise ValueError("a key occurs twice in one call")
    return checked


def new_rows(keys: Keys, stored: Vectors, present: NDArray[np.bool_], index: VectorIndex) -> Keys:
    """Positions (into keys) of the vectors to add; ValueError when a known key changed its vector.

    present: (m,) bool, the keys the index holds already. stored: (m, d), rounded.
    """
    if len(keys) != len(stored):
        raise ValueError(f"{len(keys)} keys for {len(stored)} vectors")
    if bool(present.any()):
        changed = np.any(index.vectors(keys[present]) != stored[present], axis=1)
        if bool(changed.any()):
            raise ValueError(f"key {keys[present][changed][0]} is already used by another vector")
    return np.flatnonzero(~present).astype(np.uint64)


def ordered(keys: Keys, distances: NDArray[np.float32], k: int, how: How) -> Hits:
    """Hits from unsorted (q, m) candidates: nearest first, ties by key, cut or padded to k."""
    order = np.lexsort((keys, distances), axis=1)[:, :k]
    out_keys = np.full((len(keys), k), MISSING, dtype=np.uint64)
    out_distances = np.full((len(keys), k), np.inf, dtype=np.float32)
    out_keys[:, : order.shape[1]] = np.take_along_axis(keys, order, axis=1)
    out_distances[:, : order.shape[1]] = np.take_along_axis(distances, order, axis=1)
    return Hits(out_keys, out_distances, how)
