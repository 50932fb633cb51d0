"""Files → a ``Volume``, or the reason in words why there is none.

NIfTI by nibabel, NRRD and MetaImage by SimpleITK, DICOM by the daemon's own volume room. Slices
are the planes along the third array axis (DICOM: the acquired planes); nothing is resampled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the name everybody knows it by
from nibabel.arrayproxy import ArrayProxy

from diptych.errors import DiptychError, NotScreenable, Reason
from diptych.judge.digest import case_digest
from diptych.volume.arrays import RAS_TO_LPS, digestible, usable
from diptych.volume.assemble import MAX_VOLUME_BYTES, assemble
from diptych.volume.decoders import DecoderPool
from diptych.volume.digest import plane_digest
from diptych.volume.plan import plan
from diptych.volume.plane import Instance
from diptych.volume.value import Volume

Stored = npt.NDArray[np.generic]
Affine = npt.NDArray[np.float64]

LEAST_SIDE = 16
"""Pixels: below it a plane shows nothing that tells two patients apart."""

LEAST_SLICES = 3
"""A pair of planes is no volume: neither a crop nor a blur along slices means anything."""

_FIRST_SPACE_AXIS = 3  # of (i, j, k, …): what follows is time, direction, echo


class Unreadable(DiptychError):
    """An input that becomes no case. The message is ``reason: detail``; ``image`` is False for
    what was never an image (a report, a presentation state)."""

    def __init__(self, reason: str, detail: str, image: bool = True) -> None:
        super().__init__(f"{reason}: {detail}")
        self.image = image


@dataclass(frozen=True, eq=False)
class Reading:
    """One case. digest: of all its planes; None when they are constant, which is no evidence.
    left_out: (path, reason, whether an image) of files that are no part of it."""

    volume: Volume
    digest: bytes | None
    left_out: tuple[tuple[Path, str, bool], ...] = ()


def read_nifti(path: Path) -> Reading:
    """A NIfTI file; of a 4D one the first volume. Raises Unreadable."""
    try:
        image = nibabel.load(path)
        shape, kind = tuple(image.shape), np.dtype(image.get_data_dtype())
        proxy = image.dataobj
        slope, intercept = float(proxy.slope), float(proxy.inter)
        affine = np.asarray(image.affine, np.float64)
    except Exception as error:
        raise _unreadable(error) from error
    _check_array(shape, kind)
    if len(shape) > 4 and any(n > 1 for n in shape[4:]):
        raise Unreadable("not-scalar", f"a vector at every voxel, array of {_times(shape)}")
    try:
        # Column-major: the first volume of a 4D file is its beginning.
        first = ArrayProxy(
            proxy.file_like, (shape[:3], kind, proxy.offset, slope, intercept), order="F"
        )
        stored = np.asarray(first.get_unscaled())
    except Exception as error:
        raise _unreadable(error) from error
    return _reading(stored.transpose(2, 1, 0), (slope, intercept), RAS_TO_LPS @ affine)


def read_itk(path: Path) -> Reading:
    """A NRRD or MetaImage file; of a 4D one the first volume. Raises Unreadable."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        shape = tuple(int(n) for n in reader.GetSize())
        components = reader.GetNumberOfComponents()
        if components > 1 and not _listed(reader):
            raise Unreadable("colour", f"{components} values at every voxel")
        _check_array(shape, np.dtype(np.float32), components)
        if len(shape) > _FIRST_SPACE_AXIS:
            reader.SetExtractSize([*shape[:3], *(0 for _ in shape[3:])])
        image = reader.Execute()
        stored = sitk.GetArrayFromImage(image)
    except Unreadable:
        raise
    except Exception as error:
        lines = [line for line in str(error).splitlines() if "direction" in line.lower()]
        if lines:
            raise Unreadable("direction-refused", lines[0].strip()[:200]) from error
        raise _unreadable(error) from error
    if stored.dtype.kind == "c":
        raise Unreadable("not-scalar", "complex numbers")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return _reading(stored[..., 0] if stored.ndim == 4 else stored, (1.0, 0.0), affine)


def read_dicom(paths: Sequence[Path], decoders: DecoderPool, protocol: bool = True) -> Reading:
    """One DICOM series, as the daemon reads it; of several stacks the one with the most slices.

    protocol: colour, and what is too small to be transformed, is refused. Raises Unreadable.
    """
    images: list[Instance] = []
    refused: list[tuple[Path, str, bool]] = []
    reasons: Counter[Reason] = Counter()
    for path, outcome in zip(paths, decoders.decode(paths), strict=True):
        if isinstance(outcome, Instance):
            images.append(outcome)
        else:
            reasons[outcome.reason] += not outcome.not_an_image
            words = f"{outcome.reason}: {outcome.detail}"
            refused.append((path, words, not outcome.not_an_image))
    if not images:
        reason, count = reasons.most_common(1)[0] if refused else (Reason.NO_PIXEL_DATA, 0)
        if not count:
            raise Unreadable(Reason.NOT_AN_IMAGE, f"{len(paths)} DICOM objects", image=False)
        raise Unreadable(reason, f"{len(paths)} files")
    stack = max(plan(images).stacks, key=lambda stack: len(stack.slices))
    plane = stack.slices[0]
    if protocol:
        if plane.samples > 1:
            raise Unreadable("colour", f"{plane.samples} values at every pixel")
        _check_array((plane.columns, plane.rows, len(stack.slices)), np.dtype(np.float32))
    try:
        volume = assemble(stack)
    except NotScreenable as error:
        raise Unreadable(error.reason, error.detail) from error
    constant = all(plane.constant for plane in stack.planes)
    return Reading(
        _something(volume), None if constant else case_digest(stack.digests), tuple(refused)
    )


def _reading(stored: Stored, scale: tuple[float, float], affine: Affine) -> Reading:
    """From stored values (slice, row, column) and an (i, j, k) → LPS affine."""
    stored = stored.astype(digestible(stored), copy=False)
    array = np.empty(stored.shape, np.float32)
    slope, intercept = scale
    with np.errstate(over="ignore", invalid="ignore"):
        for index, plane in enumerate(stored):
            array[index] = plane.astype(np.float64) * slope + intercept
    valid = np.isfinite(array)
    if not valid.any():
        raise Unreadable("empty", "no finite value")
    array[~valid] = array[valid].min()
    directions, oriented = _directions(affine)
    digests = tuple(plane_digest(plane, *plane.shape) for plane in stored)
    constant = tuple(bool((plane == plane.flat[0]).all()) for plane in stored)
    spacing = tuple(float(x) for x in np.linalg.norm(directions[:3, :3], axis=0))
    volume = Volume(
        array=array,
        valid=None if valid.all() else valid,
        affine=directions,
        geometry="known" if oriented else "inferred",
        oriented=oriented,
        spacing=(spacing[0], spacing[1], spacing[2]),
        positions=tuple(index * spacing[0] for index in range(len(array))),
        digests=digests,
        constant=constant,
    )
    return Reading(_something(volume), None if all(constant) else case_digest(digests))


def _something(volume: Volume) -> Volume:
    if not volume.array.max() > volume.array.min():
        raise Unreadable("empty", "the same value everywhere")
    return volume


def _directions(affine: Affine) -> tuple[Affine, bool]:
    """Columns to (slice, row, column) order; without a usable affine, 1 mm and no orientation."""
    turned = affine[:, [2, 1, 0, 3]]
    if usable(turned):
        return turned, True
    plain = np.zeros((4, 4))
    plain[[2, 1, 0, 3], [0, 1, 2, 3]] = 1.0
    return plain, False


def _check_array(shape: tuple[int, ...], kind: np.dtype[np.generic], components: int = 1) -> None:
    """Raise Unreadable before anything large is read. ``shape``: (i, j, k, …)."""
    if kind.names is not None:
        raise Unreadable("colour", f"{len(kind.names)} values at every voxel")
    if kind.kind not in "iufb":
        raise Unreadable("not-scalar", f"values of type {kind}")
    if 0 in shape or not shape:
        raise Unreadable("empty", f"array of {_times(shape)}")
    if len(shape) < 3 or shape[2] == 1:
        raise Unreadable("not-3d", f"array of {_times(shape)}")
    if min(shape[:2]) < LEAST_SIDE or shape[2] < LEAST_SLICES:
        raise Unreadable(
            "too-small",
            f"{shape[2]} slices of {shape[1]} × {shape[0]}; at least {LEAST_SLICES} of "
            f"{LEAST_SIDE} × {LEAST_SIDE} are needed",
        )
    needed = 4 * components * shape[0] * shape[1] * shape[2]
    if needed > MAX_VOLUME_BYTES:
        raise Unreadable("too-large", f"{needed} bytes, at most {MAX_VOLUME_BYTES}")


def _listed(reader: sitk.ImageFileReader) -> bool:
    """Whether the values at a voxel are a list of measurements (NRRD kind "list"), not a colour."""
    kinds = [reader.GetMetaData(k) for k in reader.GetMetaDataKeys() if "NRRD_kinds" in k]
    return "list" in kinds


def _unreadable(error: Exception) -> Unreadable:
    if isinstance(error, MemoryError):
        return Unreadable("too-large", "not enough memory")
    return Unreadable("unreadable", f"{type(error).__name__}: {_last_line(error)}")


def _last_line(error: Exception) -> str:
    """Libraries put the cause at the end; bounded, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no reason given"


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
