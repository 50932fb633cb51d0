"""NIfTI, NRRD and MetaImage files → one ``Instance``, so that they go the way of DICOM.

Slices are the planes along the third array axis. Of a 4D file all volumes are digested, one after
the other, and the first one is kept. Runs inside a decoder child.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from diptych.errors import NotScreenable, Reason

from .digest import plane_digest
from .formats import ArrayFormat
from .limits import Limits
from .plane import Array, Cosines, Instance, InstanceHeader, Plane, Vector
from .splitting import POSITION_TOLERANCE_MM
from .value import SINGULAR

Affine = npt.NDArray[np.float64]

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From the axes of NIfTI to those of DICOM."""


@dataclass(frozen=True, eq=False)
class ArrayFile:
    """What its header says, checked; nothing large is read yet.

    shape: (i, j, k) = (columns, rows, slices). affine: (i, j, k, 1) → LPS mm, maybe unusable.
    read: opens the file and yields ``volumes`` arrays of stored values, (slice, row, column).
    """

    shape: tuple[int, int, int]
    volumes: int
    affine: Affine
    read: Callable[[], AbstractContextManager[Iterator[Array]]]
    slope: float = 1.0
    intercept: float = 0.0
    modality: str = ""


def open_array(path: Path, form: ArrayFormat, limits: Limits) -> ArrayFile:
    """Read the header. Raises NotScreenable, and whatever the libraries raise for bad bytes."""
    # SimpleITK and nibabel are large: a daemon, which receives neither, never loads them.
    if form == "nifti":
        from .nifti import open_nifti

        return open_nifti(path, limits)
    from .itk import open_itk

    return open_itk(path, form, limits)


def decode_array(path: Path, file: ArrayFile, header: InstanceHeader, pixels: bool) -> Instance:
    """All of its planes in file order. Raises as ``open_array`` does."""
    geometry = _geometry(file)
    planes: list[Plane] = []
    with file.read() as volumes:
        for number, volume in enumerate(volumes):
            kind = digestible(volume)
            for index in range(len(volume)):
                plane = np.ascontiguousarray(volume[index], kind)
                # The plan chooses the first complete volume: of the others only digests are asked.
                kept = pixels and number == 0
                planes.append(_plane(plane, number, index, file, geometry, kept))
    return Instance(str(path), header, tuple(planes), geometry.notes)


def check_shape(shape: tuple[int, ...], volumes: int, limits: Limits) -> tuple[int, int, int]:
    """(i, j, k) of an array that becomes planes, refused before anything large is read."""
    words = " × ".join(map(str, shape[:8]))
    if len(shape) < 3 or min(shape) < 1 or shape[2] == 1:
        raise NotScreenable(Reason.UNSUPPORTED_PIXEL_FORMAT, f"array of {words}: not 3-D")
    if max(shape[:2]) > limits.max_side:
        raise NotScreenable(Reason.TOO_LARGE, f"array of {words}: > {limits.max_side}")
    samples = math.prod(shape[:3])
    if samples > limits.max_samples:
        raise NotScreenable(
            Reason.TOO_LARGE, f"{words} samples a volume, limit {limits.max_samples}"
        )
    if shape[2] * volumes > limits.max_planes or samples * volumes > limits.max_digested:
        raise NotScreenable(
            Reason.TOO_LARGE,
            f"{volumes} volumes of {words}: > {limits.max_planes} planes "
            f"or {limits.max_digested} samples",
        )
    return shape[0], shape[1], shape[2]


@dataclass(frozen=True)
class _Geometry:
    """PS3.3 §C.7.6.2 from an affine; positions: one per slice, or None when it is unusable."""

    orientation: Cosines | None
    spacing: tuple[float, float] | None
    between_mm: float | None
    positions: tuple[Vector, ...] | None
    notes: tuple[str, ...] = ()


def usable(affine: Affine) -> bool:
    """Whether three directions can be told from each other; axis order does not matter."""
    if not np.isfinite(affine).all():
        return False
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    return bool(
        np.isfinite(lengths).all()
        and lengths.min() > 0
        and abs(np.linalg.det(axes / lengths)) >= SINGULAR
    )


def _geometry(file: ArrayFile) -> _Geometry:
    affine = file.affine
    if not usable(affine):
        return _Geometry(None, None, None, None, ("affine cannot be used",))
    along_i, along_j, along_k = affine[:3, 0], affine[:3, 1], affine[:3, 2]
    column_mm, row_mm = (float(np.linalg.norm(axis)) for axis in (along_i, along_j))
    row, column = along_i / column_mm, along_j / row_mm
    normal = np.cross(row, column)
    between = abs(float(normal @ along_k)) / float(np.linalg.norm(normal))
    if between <= 2 * POSITION_TOLERANCE_MM:
        # The plan would take neighbours for one position; metres written as mm look like this too.
        return _Geometry(None, None, None, None, (f"slices {between:.2g} mm apart: affine unused",))
    count = file.shape[2]
    corners = affine[:3, 3] + np.arange(count)[:, None] * along_k
    return _Geometry(
        (*_vector(row), *_vector(column)),
        (row_mm, column_mm),
        between,
        tuple(map(_vector, corners)),
    )


def _vector(values: npt.NDArray[np.float64]) -> Vector:
    x, y, z = (float(value) + 0.0 for value in values)
    return x, y, z


def digestible(volume: Array) -> np.dtype[np.generic]:
    """A native type that has a digest and holds every value of the volume."""
    kind = volume.dtype
    if kind.kind == "f" and kind.itemsize not in (4, 8):
        return np.dtype(np.float64)
    if kind.kind in "iu" and kind.itemsize == 8:
        small = int(volume.min()) >= -(2**31) and int(volume.max()) < 2**31
        return np.dtype(np.int32 if small else np.float64)
    return kind.newbyteorder("=")


def _plane(
    stored: Array, number: int, index: int, file: ArrayFile, geometry: _Geometry, kept: bool
) -> Plane:
    columns, rows, slices = file.shape
    placed = geometry.positions is not None
    return Plane(
        SOPInstanceUID="",
        frame_number=number * slices + index + 1,
        rows=rows,
        columns=columns,
        samples=1,
        photometric="MONOCHROME2",
        bits_stored=8 * stored.dtype.itemsize,
        signed=stored.dtype.kind != "u",
        digest=plane_digest(stored, rows, columns),
        constant=bool(stored.min() == stored.max()),
        stored=stored if kept else None,
        ImagePositionPatient=geometry.positions[index] if geometry.positions else None,
        ImageOrientationPatient=geometry.orientation,
        PixelSpacing=geometry.spacing,
        SpacingBetweenSlices=geometry.between_mm,
        # Without a usable affine the file's order of slices is still known, not their distance.
        SliceLocation=None if placed else float(index),
        TemporalPosition=number + 1 if file.volumes > 1 else None,
        RescaleSlope=file.slope,
        RescaleIntercept=file.intercept,
    )
