"""What white noise of the acquired voxels leaves in each band of a comparison.

Averaging onto a grid whose step is no multiple of the voxel's lets neighbouring cells share voxels,
and a slice thicker than the step fills several cells: the noise is then no longer white, and falls
more slowly with the scale. Along each axis the covariance is that of the averaging itself.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np

from diptych.judge.proxy import Proxy, overlaps

BANDS = 4
CELLS = 64
"""Of the axis the shares are taken from: four blocks of the coarsest scale."""

Noise = tuple[float, ...]
"""The power in each of :data:`BANDS` bands, beside the finest."""


def white(proxy: Proxy, step: float) -> Noise:
    """Of a proxy that was averaged to cells of ``step`` mm."""
    axes = [_means(voxel, proxy.spacing_mm, step) for voxel in proxy.voxel_mm]
    means = [math.prod(scales) for scales in zip(*axes, strict=True)]
    powers = [fine - coarse for fine, coarse in itertools.pairwise(means)]
    return tuple(power / powers[0] for power in powers)


@lru_cache(maxsize=256)
def _means(voxel: float, spacing: float, step: float) -> tuple[float, ...]:
    """Variance of the mean of 2ᵇ cells along one axis, for b = 0…BANDS."""
    first = overlaps(math.ceil(CELLS * step / voxel) + 1, voxel, spacing)
    matrix = first if step == spacing else overlaps(first.shape[0], spacing, step) @ first
    rows = matrix.toarray()[:CELLS].astype(np.float64)
    found = []
    for b in range(BANDS + 1):
        blocks = rows.reshape(CELLS // 2**b, 2**b, -1).mean(1)
        found.append(float(np.square(blocks).sum(1).mean()))
    return tuple(found)
