"""Small bodies as NIfTI, NRRD and DICOM files, for the tests of the protocol."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

from dicom_factory import dicom_slice, save_series


def body(seed: int, shape: tuple[int, int, int] = (12, 40, 36)) -> NDArray[np.int16]:
    """Smooth random structures that differ from seed to seed; int16 (slice, row, column)."""
    random = np.random.default_rng(seed)
    coarse = ndimage.gaussian_filter(random.normal(size=shape), (1.5, 3, 3))
    return np.asarray(1000 * coarse / coarse.std(), np.int16)


def save_nifti(
    path: Path, array: NDArray[np.generic], affine: NDArray[np.float64] | None = None
) -> Path:
    """``array`` is (slice, row, column); the file's axes are (i, j, k) = (column, row, slice).

    Without an affine, LPS axes: columns go to the left, rows to the back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), lps), path)
    return path


def save_itk(path: Path, array: NDArray[np.generic]) -> Path:
    """NRRD or MetaImage, as the name says; ``array`` is (slice, row, column)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    return path


def save_dicom(folder: Path, array: NDArray[np.int16], uid: str) -> list[Path]:
    """One axial series."""
    slices = [
        dicom_slice(plane, number, SeriesInstanceUID=uid, StudyInstanceUID=f"{uid}.9")
        for number, plane in enumerate(array, 1)
    ]
    return save_series(folder, slices)


def folder_of_bodies(folder: Path, count: int, first: int = 0) -> Path:
    """``count`` NIfTI cases directly in ``folder``."""
    for number in range(first, first + count):
        save_nifti(folder / f"case_{number:02}.nii.gz", body(number))
    return folder
