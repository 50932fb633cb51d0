"""Every slice of one scan beside every slice of another, by their embeddings: a copy is a diagonal.

The line is the straight one that most slices' best counterparts lie near (Theil–Sen: the median of
the slopes between all pairs of them), found from the vectors alone, independently of the alignment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diptych.screen.report.slices import png

MOST = 400
"""Slices of either side that are compared; of more, so many evenly spread ones."""
SIDE = 240
"""Pixels of the longer side of the picture, at least."""
NEAR = 1.0
"""Slices beside the line that still count as on it."""
Vectors = NDArray[np.float32]
_LIGHT, _DARK = np.array([250, 249, 245.0]), np.array([22, 44, 84.0])


@dataclass(frozen=True)
class Similarity:
    """A PNG of rows × columns cells, dark where similar: rows our slices, columns theirs, both from
    the first at the top left. line: (column, row) of its two ends, in cells; None: fewer than half
    of the slices lie on one. on_line: of ``rows``."""

    picture: bytes
    rows: int
    columns: int
    line: tuple[float, float, float, float] | None
    on_line: int
    lowest: float
    highest: float


def similarity(ours: Vectors, theirs: Vectors) -> Similarity | None:
    """Cosines of (n, d) and (m, d); None: there is nothing to compare."""
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1] != theirs.shape[1]:
        return None
    if not len(ours) or not len(theirs):
        return None
    cosines: Vectors = _unit(_some(ours)) @ _unit(_some(theirs)).T
    if not np.isfinite(cosines).all():
        return None
    slope, start = _line(cosines.argmax(1))
    place = slope * np.arange(len(cosines), dtype=np.float64) + start
    on_line = int((np.abs(cosines.argmax(1) - place) <= max(NEAR, abs(slope))).sum())
    low, high = float(cosines.min()), float(cosines.max())
    return Similarity(
        _picture(cosines, low, high),
        len(cosines),
        cosines.shape[1],
        _ends(place, cosines.shape[1]) if 2 * on_line > len(cosines) > 1 else None,
        on_line,
        low,
        high,
    )


def _some(vectors: Vectors) -> Vectors:
    if len(vectors) <= MOST:
        return vectors
    some: Vectors = vectors[np.linspace(0, len(vectors) - 1, MOST).round().astype(int)]
    return some


def _unit(vectors: Vectors) -> Vectors:
    length = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
    return unit


def _line(best: NDArray[np.intp]) -> tuple[float, float]:
    """(slope, start) of column over row."""
    rows = np.arange(len(best))
    first, second = np.triu_indices(len(best), 1)
    slope = float(np.median((best[second] - best[first]) / (second - first))) if first.size else 0.0
    return slope, float(np.median(best - slope * rows))


def _ends(place: NDArray[np.float64], columns: int) -> tuple[float, float, float, float] | None:
    inside = np.flatnonzero((place >= -0.5) & (place <= columns - 0.5))
    if inside.size < 2:
        return None
    first, last = int(inside[0]), int(inside[-1])
    return float(place[first]) + 0.5, first + 0.5, float(place[last]) + 0.5, last + 0.5


def _picture(cosines: Vectors, low: float, high: float) -> bytes:
    level = ((cosines - low) / max(high - low, 1e-6)) ** 2  # what is most similar stands out
    colours = _LIGHT + level[..., None] * (_DARK - _LIGHT)
    picture = Image.fromarray(np.rint(colours).astype(np.uint8))
    times = max(1, -(-SIDE // max(cosines.shape)))
    wide = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    return png(wide)
