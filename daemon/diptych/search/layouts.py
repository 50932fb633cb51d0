"""The index of coarse layouts: one vector per case, a second way to find candidates.

Cases of equal layout (the same pixels, mostly) share one vector, for identical ones would break the
graph; all their keys are found with it. It lives in memory and is built from SQL at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diptych.search.archive import Mode, SearchIndex
from diptych.search.index import MISSING, Keys
from diptych.search.neighbours import nearest

Vector = NDArray[np.float32]

K = 8
"""Layouts that a look-up hears of at first."""


class Layouts:
    """Layouts by key. The one thread that judges adds and asks."""

    def __init__(self, dimension: int, *, mode: Mode = "auto") -> None:
        self._index = SearchIndex(dimension, "layouts", mode=mode)
        # Nodes have numbers of their own: SQLite gives the key of a forgotten layout away again.
        self._nodes: dict[bytes, int] = {}
        self._keys: dict[int, list[int]] = {}
        self._node_of: dict[int, int] = {}

    def __len__(self) -> int:
        """Keys, not vectors."""
        return len(self._node_of)

    @property
    def newest(self) -> int:
        """The largest key; 0: none."""
        return max(self._node_of, default=0)

    def add(self, keys: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """keys (m,), vectors (m, d), unit length and rounded to f16. A key that comes again is the
        new layout's from now on."""
        new: dict[int, int] = {}
        for row, key in enumerate(keys):
            if (before := self._node_of.get(key)) is not None:
                self._keys[before].remove(key)
            node = self._nodes.setdefault(vectors[row].astype("<f2").tobytes(), len(self._nodes))
            if node not in self._keys:
                self._keys[node], new[node] = [], row
            self._keys[node].append(key)
            self._node_of[key] = node
        self._index.add(np.array(list(new), np.uint64), vectors[list(new.values())])

    def nearest(
        self, vector: Vector, owners: Callable[[Sequence[int]], Mapping[int, int]]
    ) -> dict[int, float]:
        """The cases of the nearest layouts and their Euclidean distances, the nearest first.

        The negative of a layout is the layout of the inverted image and is looked for as well.
        owners: the cases of keys; those that are no answer are left out.
        """
        if not len(self._index):
            return {}
        cases: dict[int, list[int]] = {}

        def excluded(nodes: Keys) -> NDArray[np.bool_]:
            asked = [node for node in nodes.tolist() if node not in cases]
            known = owners([key for node in asked for key in self._keys[node]])
            for node in asked:
                cases[node] = sorted({known[key] for key in self._keys[node] if key in known})
            return np.array([not cases[node] for node in nodes.tolist()], np.bool_)

        hits = nearest(self._index, np.stack([vector, -vector]), excluded, K)
        found: dict[int, float] = {}
        flat = zip(hits.distances.ravel().tolist(), hits.keys.ravel().tolist(), strict=True)
        for distance, node in sorted(flat):
            if node != MISSING:
                found.setdefault(cases[node][0], distance)
        return found
