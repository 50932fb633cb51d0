"""The ``Volume``: what everything after this room works on. An impossible one cannot be made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .plan import Gap, Geometry

SINGULAR = 0.1
"""Volume spanned by the three unit axes: 1 at right angles, 0.7 at 45° of shear; below this
two of them are nearly parallel."""


@dataclass(frozen=True, eq=False)
class Volume:
    """One scalar volume in modality values.

    ``array``       float32, shape (slice, row, column); finite everywhere. PET in its units, CT in
                    HU, MONOCHROME1 inverted, colour as luminance. Where ``valid`` is False it holds
                    the smallest valid value, so that a minimum or a percentile is not disturbed.
    ``valid``       bool of the same shape, False where PixelPaddingValue or its range says "no
                    pixel here" (PS3.3 §C.7.5.1.1.2), or None when all voxels are valid.
    ``affine``      float64 (4, 4): voxel index (slice, row, column, 1) → LPS mm of the voxel centre
                    (PS3.3 §C.7.6.2.1.1, highdicom's convention). With a tilted gantry it is
                    sheared; with gaps it assumes the usual spacing and ``positions`` are exact.
    ``geometry``    "known" when positions came from ImagePositionPatient, else "inferred".
    ``oriented``    whether the directions of the affine came from ImageOrientationPatient.
    ``spacing``     (slice, row, column) in mm.
    ``positions``   mm along the slice normal, one per slice, ascending.
    ``digests``     the plane digest of each slice; ``constant`` whether its stored values are.
    ``completeness``  slices present ÷ slices expected, in (0, 1].

    Raises ``ValueError`` for anything that contradicts this.
    """

    array: npt.NDArray[np.float32]
    valid: npt.NDArray[np.bool_] | None
    affine: npt.NDArray[np.float64]
    geometry: Geometry
    oriented: bool
    spacing: tuple[float, float, float]
    positions: tuple[float, ...]
    digests: tuple[bytes, ...]
    constant: tuple[bool, ...]
    gaps: tuple[Gap, ...] = ()
    tilt_degrees: float = 0.0
    completeness: float = 1.0
    Modality: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.array.ndim != 3 or self.array.dtype != np.float32 or not self.array.size:
            raise ValueError(f"array of {self.array.dtype}, shape {self.array.shape}")
        if not np.isfinite(self.extremes).all():
            raise ValueError("array holds values that are not finite")
        if self.valid is not None and (
            self.valid.shape != self.array.shape or self.valid.dtype != np.bool_
        ):
            raise ValueError(f"mask of {self.valid.dtype}, shape {self.valid.shape}")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise ValueError("affine is not a finite 4 × 4 matrix")
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        if not lengths.all() or abs(np.linalg.det(self.affine[:3, :3] / lengths)) < SINGULAR:
            raise ValueError("affine is singular")
        if any(self.affine[3] != (0, 0, 0, 1)):
            raise ValueError("the last row of the affine is not 0 0 0 1")
        if min(self.spacing) <= 0:
            raise ValueError(f"spacing {self.spacing}")
        if {len(self.positions), len(self.digests), len(self.constant)} != {len(self.array)}:
            raise ValueError(f"{len(self.array)} slices, {len(self.positions)} positions")
        if not 0 < self.completeness <= 1:
            raise ValueError(f"completeness {self.completeness}")

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """Smallest and largest value of ``array``: of its valid voxels, when there are any."""
        # Plane by plane: the second look finds the plane in the cache; fetching it is what costs.
        lows, highs = zip(*((plane.min(), plane.max()) for plane in self.array), strict=True)
        return float(np.min(lows)), float(np.max(highs))
