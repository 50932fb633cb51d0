"""Real images that come with our dependencies: nothing is downloaded.

pydicom ships single CT and MR slices of patients long public; nibabel ships small MR volumes, which
are written as DICOM series here. pydicom's series of 16 × 16 pixels are left out: too small to show
anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from diptych.demo.series import write_series
from diptych.errors import DiptychError

PYDICOM_FILES = {
    "CT_small.dcm": "spine CT, 128 × 128",
    "MR_small.dcm": "knee MR, 64 × 64",
    "examples_overlay.dcm": "abdomen MR, 300 × 484, with an overlay",
    "693_J2KI.dcm": "head CT, 512 × 512, lossy JPEG 2000",
    "J2K_pixelrep_mismatch.dcm": "skull base CT, 512 × 512, tilted, JPEG 2000 whose codestream and "
    "PixelRepresentation disagree",
}
"""Single slices that pydicom's package holds itself."""

NIBABEL_FILES = {
    "example4d.nii.gz": "brain MR, 24 slices of 96 × 128 at 2.2 × 2 × 2 mm, first of two volumes",
    "anatomical.nii": "deep brain MR, 25 slices of 41 × 33 at 2 mm",
}
"""Volumes in nibabel's test data."""


@dataclass(frozen=True)
class Shipped:
    """One real series: its file's name, what it shows, and its instances."""

    name: str
    shows: str
    series: list[Dataset]


def shipped() -> list[Shipped]:
    """All of them, pydicom's first. DiptychError names a file its package no longer ships."""
    slices = [Shipped(name, shows, [_pydicom(name)]) for name, shows in PYDICOM_FILES.items()]
    volumes = [
        Shipped(name, shows, nifti_series(_nibabel(name))) for name, shows in NIBABEL_FILES.items()
    ]
    return slices + volumes


def nifti_series(path: Path, seed: int = 0) -> list[Dataset]:
    """A NIfTI volume of integers as an MR series: the first volume of a 4-D file.

    NIfTI's affine maps (i, j, k) to RAS mm; DICOM wants LPS, so x and y change sign. Slices are the
    third array axis; rows and columns are flipped, as a scanner would have them, to run towards
    posterior and left.

    ValueError: values do not fit int16, or the affine shears a slice.
    """
    image = nibabel.load(path)
    values = np.asanyarray(image.dataobj)
    values = values[..., 0] if values.ndim == 4 else values
    pixels = values.astype(np.int16)
    if not np.array_equal(pixels, values):
        raise ValueError(f"{path.name} holds {values.dtype} values that int16 cannot")
    pixels, affine = _as_scanned(pixels, np.asarray(image.affine, dtype=np.float64))
    return write_series(pixels, affine, "MR", path.name, seed)


def _as_scanned(
    pixels: NDArray[np.int16], ras: NDArray[np.float64]
) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """(i, j, k) with a RAS affine → (slice, row, column) with an LPS affine, rows and columns
    flipped towards +P and +L where that is the closer direction."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ras
    affine[:, :3] = affine[:, [2, 1, 0]]
    pixels = pixels.transpose(2, 1, 0)
    for axis in (1, 2):
        direction = affine[:3, axis]
        if direction[np.argmax(np.abs(direction[:2]))] < 0:
            affine[:3, 3] += direction * (pixels.shape[axis] - 1)
            affine[:3, axis] = -direction
            pixels = np.flip(pixels, axis)
    return np.ascontiguousarray(pixels), affine


def _pydicom(name: str) -> Dataset:
    path = get_testdata_file(name, download=False)
    if not isinstance(path, str):
        raise DiptychError(f"pydicom does not ship {name} any more")
    return dcmread(path)


def _nibabel(name: str) -> Path:
    path = Path(nibabel.__file__).parent / "tests" / "data" / name
    if not path.exists():
        raise DiptychError(f"nibabel does not ship {name} any more")
    return path
