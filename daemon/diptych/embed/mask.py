"""Which prepared slices say something about the case: the informative-slice mask.

Blank border slices match anything and become a sink of the index's graph; they are neither indexed
nor counted. The mask must be the same for a copy: it looks at a coarse picture of 8 × 8 cells, in
which noise averages out and blur and JPEG change nothing, and compares slices of one volume with
each other, so that the compression of contrast that strong noise brings (min-max sees the noise
peaks) cancels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CELLS = 8
"""Cells per side of the coarse picture: 14 × 14 pixels each at the bundled model's 112."""

REFERENCE_QUANTILE = 0.95
"""The volume's own contrast: a high quantile over its slices, not the maximum, so that one slice
with an artefact does not mask the others, and not the median, since up to nine tenths may be blank.
"""

NEAR_BLANK = 0.3
"""Share of the volume's contrast below which a slice is near-blank. On the training brains air has
0.02 and a slice that holds only the crown of the head 0.15–0.4: contrast falls fastest near 0.3, so
there a copy disagrees least (0 or 1 of 135 slices under noise of 0.2, blur, JPEG 25 or 5°; up to 7
at 0.35–0.45). With noise of 0.2 added to the volume air rises to 0.27 and stays masked."""

FAINT = 0.002
"""Coarse contrast, in units of the volume's range, below which a slice is blank whatever the rest
looks like: half a grey level of an 8-bit picture."""

FINE_CELLS = 28
"""Cells per side of the finer picture noise is told by: 4 × 4 pixels each at 112."""

STRUCTURE = 0.35
"""Least ratio of coarse to finer contrast. It masks slices of nothing but noise, which resemble
each other whatever they come from: white noise averages to 8/28 = 0.29 (0.25–0.35 seen, resampled
from 128–512 pixels), anatomy keeps 0.5–0.95 (all training and calibration cases; with noise of 0.2
at least 0.44). Series whose pixels were replaced by noise exist in public data."""


def informative(prepared: NDArray[np.float32]) -> NDArray[np.bool_]:
    """True for every slice of (n, size, size) that is neither blank nor near-blank.

    The slices are those of one whole volume, as :func:`diptych.embed.prepare.prepare` gives them;
    ``size`` is at least ``FINE_CELLS``. Constant planes are never informative.
    """
    if prepared.ndim != 3 or min(prepared.shape[1:]) < FINE_CELLS:
        raise ValueError(
            f"prepared slices are (n, size, size), size ≥ {FINE_CELLS}, found {prepared.shape}"
        )
    if len(prepared) == 0:
        return np.zeros(0, np.bool_)
    contrast = _contrast(prepared, CELLS)
    finer = _contrast(prepared, FINE_CELLS)
    reference = np.quantile(contrast, REFERENCE_QUANTILE)
    kept: NDArray[np.bool_] = (
        (contrast > FAINT) & (contrast >= NEAR_BLANK * reference) & (contrast >= STRUCTURE * finer)
    )
    return kept


def _contrast(prepared: NDArray[np.float32], cells: int) -> NDArray[np.float64]:
    """Deviation of the means of cells × cells cells; pixels beyond the last one are left out."""
    n, rows, columns = prepared.shape
    high, wide = rows // cells, columns // cells
    tiles = prepared[:, : cells * high, : cells * wide].reshape(n, cells, high, cells, wide)
    means = tiles.mean(axis=(2, 4), dtype=np.float64)
    contrast: NDArray[np.float64] = means.std(axis=(1, 2))
    return contrast
