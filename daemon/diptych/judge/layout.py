"""The coarse layout of a case: where it is bright and where it is dark, in 512 numbers.

The second source of candidates. Noise, blur and JPEG destroy the detail that an embedding of slices
looks at; what is left is this, and a plain nearest neighbour finds it. A shift or a rotation
destroys the layout, and not the embedding: the two fail on different things.

Block means of the verification proxy on a grid of :data:`GRID` cells that spans it, without their
mean, of unit length. The proxy is oriented, so that neither the order of the slices nor the plane
they were cut in matters, and the grid is relative, so that no length need be known. An inverted
image has the negative layout.

An archive keeps them :func:`smoothed`, and is asked with a layout as it is. A copy that was blurred
by a fifth of its size has then still the nearest one (27 of 30, and 9 if the archive's are sharp),
and so has one that drowns in noise, which smoothing the query as well would lose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diptych.judge.proxy import Proxy, spread

GRID = (8, 8, 8)
"""Cells along (S, P, L)."""
DIMENSION = GRID[0] * GRID[1] * GRID[2]
VERSION = 1
SMOOTH_CELLS = 1.2
"""Gaussian; measured on the calibration cases among 20,000 warped copies of training cases."""
FLAT = 1e-5
"""Of the largest value: a layout of no more than that is rounding."""

Layout = NDArray[np.float32]
"""(512,), unit length."""


def layout(proxy: Proxy) -> Layout | None:
    """None where all cells are the same: it says nothing."""
    means, share = spread(proxy.values, proxy.valid, GRID)
    known = share > 0
    if not known.any():
        return None
    # what is not known is neither bright nor dark
    cells = np.where(known, means - means[known].mean(), 0).ravel()
    length = float(np.linalg.norm(cells))
    if not length > FLAT * float(np.abs(proxy.values).max(initial=0.0)):
        return None
    return np.asarray(cells / length, np.float32)


def smoothed(vector: Layout) -> Layout:
    """As it is kept to be found: blurred, of unit length again, rounded to f16."""
    blurred = ndimage.gaussian_filter(vector.reshape(GRID), SMOOTH_CELLS, mode="nearest").ravel()
    blurred -= blurred.mean()
    length = max(float(np.linalg.norm(blurred)), 1e-12)
    return np.asarray(blurred / length, np.float16).astype(np.float32)
