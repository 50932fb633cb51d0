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
        self._first: dict[bytes, int] = {}
        self._equal: dict[int, list[int]] = {}

    def __len__(self) -> int:
        """Keys, not vectors."""
        return len(self._first) + sum(len(keys) - 1 for keys in self._equal.values())

    def add(self, keys: Sequence[int], vectors: NDArray[np.float32]) -> None:
        """keys (m,), vectors (m, d), unit length and rounded to f16. A key is added once."""
        new = []
        for row, key in enumerate(keys):
            first = self._first.setdefault(vectors[row].astype("<f2").tobytes(), key)
            if first == key:
                new.append(row)
            else:
                self._equal.setdefault(first, [first]).append(key)
        self._index.add(np.array(keys, np.uint64)[new], vectors[new])

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

        def excluded(keys: Keys) -> NDArray[np.bool_]:
            asked = [key for key in keys.tolist() if key not in cases]
            known = owners([each for key in asked for each in self._equal.get(key, [key])])
            for key in asked:
                equal = self._equal.get(key, [key])
                cases[key] = sorted({known[each] for each in equal if each in known})
            return np.array([not cases[key] for key in keys.tolist()], np.bool_)

        hits = nearest(self._index, np.stack([vector, -vector]), excluded, K)
        found: dict[int, float] = {}
        flat = zip(hits.distances.ravel().tolist(), hits.keys.ravel().tolist(), strict=True)
        for distance, key in sorted(flat):
            if key != MISSING:
                found.setdefault(cases[key][0], distance)
        return found
