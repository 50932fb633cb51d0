"""A stack → a ``Volume``: stored values become modality values, slice by slice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.errors import NotScreenable, Reason

from .memory import empty
from .plan import DEFAULT_SPACING_MM, Stack
from .plane import LUMINANCE, Array, Plane
from .value import Volume

MAX_VOLUME_BYTES = 2 * 1024 * 1024 * 1024
"""Bytes of the float32 array: 2,000 slices of 512². Twice that is needed for a moment."""

_EXACT = 2**23
"""Sixteen-bit integers plus a whole number up to this are whole numbers that float32 holds."""

_AXIAL = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
"""Columns: LPS direction of slice, row and column index when no orientation is known."""


def assemble(stack: Stack, max_bytes: int = MAX_VOLUME_BYTES) -> Volume:
    """Build the volume of ``stack.slices``; the planes must carry their pixels.

    Per slice: palette → luminance, MONOCHROME1 inverted (PS3.3 §C.7.6.3.1.2), Rescale Slope and
    Intercept of that slice (PS3.3 §C.11.1; PET has one per slice), padding masked. Raises
    ``NotScreenable(TOO_LARGE)`` before allocating more than ``max_bytes``, and ``ValueError`` when
    planes were decoded without pixels.
    """
    slices = stack.slices
    shape = (len(slices), slices[0].rows, slices[0].columns)
    needed = 4 * shape[0] * shape[1] * shape[2]
    if needed > max_bytes:
        raise NotScreenable(
            Reason.TOO_LARGE, f"a volume of {shape} needs {needed} bytes, limit {max_bytes}"
        )
    array = empty(shape, np.float32)
    valid: npt.NDArray[np.bool_] | None = None
    for index, plane in enumerate(slices):
        with np.errstate(over="ignore", invalid="ignore"):
            _fill(array[index], plane)
            good = _valid(plane, array[index])
        if good is not None:
            if valid is None:
                valid = np.ones(shape, np.bool_)
            valid[index] = good
    notes = list(stack.notes)
    if valid is not None:
        if not valid.any():
            notes.append("every pixel is padding")
        array[~valid] = array[valid].min() if valid.any() else 0.0
    affine, spacing = _affine(stack)
    return Volume(
        array=array,
        valid=valid,
        affine=affine,
        geometry=stack.geometry,
        oriented=stack.oriented,
        spacing=spacing,
        positions=stack.positions,
        digests=tuple(plane.digest for plane in slices),
        constant=tuple(plane.constant for plane in slices),
        gaps=stack.gaps,
        tilt_degrees=stack.tilt_degrees,
        completeness=stack.completeness,
        Modality=stack.Modality,
        notes=tuple(notes),
    )


def modality_values(plane: Plane) -> npt.NDArray[np.float64]:
    """One plane (rows, columns) in modality values, padding not yet masked."""
    stored = _pixels(plane)
    if plane.samples > 1:
        return _luminance(stored, plane.photometric)
    if plane.palette is not None:
        first, table = plane.palette
        entries = np.clip(stored.astype(np.int64) - first, 0, len(table) - 1)
        return table[entries].astype(np.float64)
    values = stored.astype(np.float64)
    if plane.photometric == "MONOCHROME1" and stored.dtype.kind != "f":
        # The complement within BitsStored: an inverted copy stored as MONOCHROME2 comes out equal.
        values = (-1.0 if plane.signed else 2.0**plane.bits_stored - 1.0) - values
    elif plane.photometric == "MONOCHROME1":
        values = -values
    values *= plane.RescaleSlope
    values += plane.RescaleIntercept
    return values


def _fill(target: npt.NDArray[np.float32], plane: Plane) -> None:
    """Modality values into ``target`` (rows, columns): the bits of ``modality_values``."""
    stored, intercept = _pixels(plane), plane.RescaleIntercept
    whole = intercept.is_integer() and abs(intercept) <= _EXACT
    small = stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2
    plain = plane.photometric == "MONOCHROME2" and plane.samples == 1 and plane.palette is None
    if plain and small and whole and plane.RescaleSlope == 1.0:
        # Most CT: nothing is rounded in float32 either, and the detour over float64 takes longest.
        np.add(stored, np.float32(intercept), out=target, dtype=np.float32)
    else:
        target[...] = modality_values(plane)


def _pixels(plane: Plane) -> Array:
    if plane.stored is None:
        raise ValueError("the plane was decoded without its pixels")
    return plane.stored


def _luminance(stored: Array, photometric: str) -> npt.NDArray[np.float64]:
    if photometric.startswith(("YBR_FULL", "YBR_PARTIAL")):
        return stored[..., 0].astype(np.float64)
    red, green, blue = LUMINANCE
    return red * stored[..., 0] + green * stored[..., 1] + blue * stored[..., 2]


def _valid(plane: Plane, values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_] | None:
    good: npt.NDArray[np.bool_] | None = None
    if plane.padding is not None and plane.samples == 1:
        low, high = plane.padding
        stored = _pixels(plane)
        good = (stored < low) | (stored > high)
    if not np.isfinite(values.sum()):
        finite = np.isfinite(values)
        good = finite if good is None else good & finite
    return None if good is None or good.all() else good


def _affine(stack: Stack) -> tuple[npt.NDArray[np.float64], tuple[float, float, float]]:
    """The (4, 4) affine and (slice, row, column) spacing in mm."""
    first, last = stack.slices[0], stack.slices[-1]
    row_mm, column_mm = first.PixelSpacing or (DEFAULT_SPACING_MM, DEFAULT_SPACING_MM)
    directions = _AXIAL.copy()
    if stack.oriented:
        cosines = np.array(first.ImageOrientationPatient)
        directions[:, 2] = cosines[:3] / np.linalg.norm(cosines[:3])
        directions[:, 1] = cosines[3:] / np.linalg.norm(cosines[3:])
        normal = np.cross(directions[:, 2], directions[:, 1])
        directions[:, 0] = normal / np.linalg.norm(normal)
    affine = np.eye(4)
    affine[:3, :3] = directions * (stack.spacing_mm, row_mm, column_mm)
    if stack.geometry == "known":
        corner = np.array(first.ImagePositionPatient)
        affine[:3, 3] = corner
        distance = stack.positions[-1] - stack.positions[0]
        if distance > 0 and stack.tilt_degrees:
            # Along the line of corners, which a tilted gantry shears.
            line = np.array(last.ImagePositionPatient) - corner
            affine[:3, 0] = line / distance * stack.spacing_mm
    return affine, (stack.spacing_mm, row_mm, column_mm)
