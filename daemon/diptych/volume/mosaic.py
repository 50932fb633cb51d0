"""Siemens mosaics: one 2D image that holds the slices of a volume as tiles.

The tile count comes from the CSA header or (0019,100A); when de-identification removed both, from
AcquisitionMatrix and the empty tiles at the end, and then the geometry is only inferred.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from .functional import finite, numbers, private
from .header import value_of
from .plane import Array, Cosines, Vector

_MOST_TILES = 1024
"""A mosaic of 32 × 32 slices; scanners stop at about 200."""


@dataclass(frozen=True)
class Mosaic:
    """``count`` tiles in a square of ``side`` × ``side``; ``normal`` points from tile 1 to 2."""

    count: int
    side: int
    normal: Vector | None

    def tiles(self, stored: Array) -> list[Array]:
        """Cut the stored image (rows, columns) into its slices, row by row."""
        rows, columns = stored.shape[0] // self.side, stored.shape[1] // self.side
        return [
            np.ascontiguousarray(stored[r * rows : (r + 1) * rows, c * columns : (c + 1) * columns])
            for r, c in (divmod(number, self.side) for number in range(self.count))
        ]

    def position(
        self,
        number: int,
        image: tuple[int, int],
        corner: Vector,
        cosines: Cosines,
        spacing: tuple[float, float],
        step: float,
    ) -> Vector | None:
        """Centre of the first voxel of tile ``number`` (0-based), LPS mm; None without a normal.

        ``image`` is (rows, columns) of the mosaic. The written position places the whole mosaic
        around the slice's centre, so half of the difference in size is added back.
        """
        if self.normal is None:
            return None
        row, column = np.array(cosines[:3]), np.array(cosines[3:])
        missing = np.array(image) * (1 - 1 / self.side) / 2
        first = corner + column * spacing[0] * missing[0] + row * spacing[1] * missing[1]
        x, y, z = first + np.array(self.normal) * step * number
        return float(x), float(y), float(z)


def mosaic_of(dataset: Dataset, image_type: tuple[str, ...], stored: Array) -> Mosaic | None:
    """The tiling of this instance, or None when it is not a mosaic."""
    if "MOSAIC" not in image_type or stored.ndim != 2:
        return None
    csa = _csa(dataset)
    count, normal = _scalar(csa, "NumberOfImagesInMosaic"), _vector(csa, "SliceNormalVector")
    if not count:
        count = finite(private(dataset, 0x0019, 0x100A))
    if not count:
        return _by_matrix(dataset, stored)
    side = math.ceil(math.sqrt(count))
    if not 1 < count <= _MOST_TILES or stored.shape[0] % side or stored.shape[1] % side:
        return None
    return Mosaic(int(count), side, normal or _cross(dataset))


def _by_matrix(dataset: Dataset, stored: Array) -> Mosaic | None:
    matrix = numbers(value_of(dataset, "AcquisitionMatrix"), 4)
    sizes = sorted({int(size) for size in matrix or () if size > 0}, reverse=True)
    for size in sizes:
        side = max(stored.shape) // size
        if side > 1 and stored.shape[0] % side == 0 and stored.shape[1] % side == 0:
            full = Mosaic(side * side, side, None)
            used = [i for i, tile in enumerate(full.tiles(stored)) if tile.any()]
            return Mosaic(used[-1] + 1, side, None) if used and used[-1] else None
    return None


def _csa(dataset: Dataset) -> Any:
    from nibabel.nicom import csareader  # heavy: only mosaics pay for it

    try:
        return csareader.get_csa_header(dataset, "image")
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return None


def _scalar(csa: Any, name: str) -> float | None:
    items = ((csa or {}).get("tags", {}).get(name) or {}).get("items") or [None]
    return finite(items[0])


def _vector(csa: Any, name: str) -> Vector | None:
    values = numbers(((csa or {}).get("tags", {}).get(name) or {}).get("items") or None, 3)
    return None if values is None else (values[0], values[1], values[2])


def _cross(dataset: Dataset) -> Vector | None:
    cosines = numbers(value_of(dataset, "ImageOrientationPatient"), 6)
    if cosines is None:
        return None
    x, y, z = np.cross(cosines[:3], cosines[3:])
    return float(x), float(y), float(z)
