"""Vectors as an archive receives them: case after case, neighbouring slices close together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

Series = Callable[..., tuple[NDArray[np.uint64], NDArray[np.float32]]]


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def archive() -> Series:
    """(keys from 1, unit vectors): `cases` × `slices`, anatomies shared, in arrival order."""

    def make(
        cases: int, slices: int = 40, dimension: int = 64, seed: int = 0
    ) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        rng = np.random.default_rng(seed)
        position = np.linspace(0, 1, slices)[:, None]
        anatomies = rng.normal(size=(5, 4, dimension))
        rows = []
        for case in range(cases):
            own = rng.normal(size=dimension)
            path = sum(
                np.cos(np.pi * order * position) * anatomies[case % 5, order] for order in range(4)
            )
            rows.append(path + 0.7 * own + 0.35 * rng.normal(size=(slices, dimension)))
        keys = np.arange(1, cases * slices + 1, dtype=np.uint64)
        return keys, unit(np.concatenate(rows))

    return make
