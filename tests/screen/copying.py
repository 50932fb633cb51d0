"""One series → what a vendor may make of it: instances changed, or written in other formats.

Instances are single-frame monochrome, in slice order; they are never changed in place.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    JPEG2000,
    UID,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import DSfloat
from scipy import ndimage

from dicom_factory import dicom_slice, save
from diptych.demo.copies import deidentified, new_uids, rotated_noisy
from diptych.demo.series import uid

Series = list[Dataset]
Plane = NDArray[np.float32]
Change = Callable[[Series, int], Series]


def files_of(series: Series, names: Callable[[int], str] = "{:04d}.dcm".format) -> dict[str, bytes]:
    """Name → Part 10 file, in slice order."""
    files = {}
    for number, instance in enumerate(series, 1):
        target = io.BytesIO()
        instance.save_as(target, enforce_file_format=True)
        files[names(number)] = target.getvalue()
    return files


# the same pixels


def compressed(syntax: UID, **options: float | list[float]) -> Change:
    def change(series: Series, seed: int) -> Series:
        made = new_uids(series, seed)
        for instance in made:
            instance.compress(syntax, generate_instance_uid=False, **options)
        return made

    return change


EXACT: dict[str, Change] = {
    "new UIDs": lambda series, seed: new_uids(series, seed),
    "de-identified": deidentified,
    "JPEG-LS": compressed(JPEGLSLossless),
    "JPEG 2000": compressed(JPEG2000Lossless),
    "RLE": compressed(RLELossless),
}


# other pixels


def _changed(change: Callable[[Plane, np.random.Generator], Plane]) -> Change:
    """Each plane anew, within what BitsStored allows; Rows and Columns follow."""

    def made(series: Series, seed: int) -> Series:
        rng = np.random.default_rng(seed)
        copies = new_uids(series, seed)
        # Instances of one series share elements: Rows of one are the Rows of all.
        planes = [instance.pixel_array.astype(np.float32) for instance in copies]
        for instance, plane in zip(copies, planes, strict=True):
            _store(instance, change(plane, rng))
        return copies

    return made


def _store(instance: Dataset, plane: NDArray[np.floating]) -> None:
    low = -(1 << (instance.BitsStored - 1)) if instance.PixelRepresentation else 0
    high = low + (1 << instance.BitsStored) - 1
    kind = "<i2" if instance.PixelRepresentation else "<u2"
    instance.Rows, instance.Columns = plane.shape
    instance.PixelData = np.clip(np.rint(plane), low, high).astype(kind).tobytes()


def _noisy(plane: Plane, rng: np.random.Generator) -> Plane:
    spread = 0.04 * float(plane.max() - plane.min())
    return plane + spread * rng.standard_normal(plane.shape, dtype=np.float32)


def resampled(series: Series, seed: int, factor: float = 0.8) -> Series:
    made = _changed(lambda plane, _: ndimage.zoom(plane, factor, order=1))(series, seed)
    for instance, source in zip(made, series, strict=True):
        rows, columns = source.Rows / instance.Rows, source.Columns / instance.Columns
        instance.PixelSpacing = _decimals(np.array(source.PixelSpacing, float) * (rows, columns))
    return made


def cropped(series: Series, seed: int, part: float = 0.06) -> Series:
    """So much of each side is cut off; ImagePositionPatient says so."""
    down, right = (round(part * size) for size in (series[0].Rows, series[0].Columns))
    made = _changed(lambda plane, _: plane[down:-down, right:-right])(series, seed)
    for instance in made:
        across, along = np.array(instance.ImageOrientationPatient, float).reshape(2, 3)
        row_mm, column_mm = map(float, instance.PixelSpacing)
        corner = np.array(instance.ImagePositionPatient, float)
        corner += right * column_mm * across + down * row_mm * along
        instance.ImagePositionPatient = _decimals(corner)
    return made


def jpeg(series: Series, seed: int) -> Series:
    """Eight bits of the series' range, baseline, as for a viewer on the web."""
    planes = np.stack([instance.pixel_array for instance in series]).astype(np.float32)
    low, high = np.percentile(planes, (0.5, 99.8))
    grey = np.clip((planes - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    made = new_uids(series, seed)
    for instance, plane in zip(made, grey, strict=True):
        coded = io.BytesIO()
        Image.fromarray(plane).save(coded, "JPEG", quality=85)
        instance.PixelData = encapsulate([coded.getvalue()])
        instance["PixelData"].VR = "OB"
        instance["PixelData"].is_undefined_length = True
        instance.BitsAllocated = instance.BitsStored = 8
        instance.HighBit, instance.PixelRepresentation = 7, 0
        for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
            if keyword in instance:
                del instance[keyword]
        instance.LossyImageCompression = "01"
        instance.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return made


NEAR: dict[str, Change] = {
    "rotated, noise": rotated_noisy,
    "shifted": _changed(
        lambda plane, _: ndimage.shift(plane, (5, -4), order=1, cval=float(plane.min()))
    ),
    "blurred": _changed(lambda plane, _: ndimage.gaussian_filter(plane, 1.0)),
    "noisy": _changed(_noisy),
    "JPEG": jpeg,
    "JPEG 2000, lossy": compressed(JPEG2000, j2k_cr=[12]),
    "resampled": resampled,
    "cropped": cropped,
}
PARTS: dict[str, Change] = {
    "half of the slices": lambda series, seed: new_uids(series[: len(series) // 2], seed),
    "every second slice": lambda series, seed: new_uids(series[::2], seed),
}


# other formats


def enhanced(series: Series, seed: int) -> Dataset:
    """One multi-frame object (PS3.3 §A.38, §A.36): the same stored values."""
    made = new_uids(series, seed)
    whole, frames = made[0], [instance.PixelData for instance in made]
    whole.SOPClassUID = EnhancedCTImageStorage if whole.Modality == "CT" else EnhancedMRImageStorage
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID
    whole.NumberOfFrames, whole.PixelData = len(made), b"".join(frames)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = whole.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, whole.SliceThickness
    shared.PlaneOrientationSequence = Items([orientation])
    shared.PixelMeasuresSequence = Items([measures])
    groups = []
    for number, instance in enumerate(made, 1):
        group, position, content, values = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = instance.ImagePositionPatient
        content.StackID, content.InStackPositionNumber = "1", number
        content.DimensionIndexValues = [1, number]
        values.RescaleSlope = instance.get("RescaleSlope", "1")
        values.RescaleIntercept = instance.get("RescaleIntercept", "0")
        group.PlanePositionSequence = Items([position])
        group.FrameContentSequence = Items([content])
        group.PixelValueTransformationSequence = Items([values])
        groups.append(group)
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
        "SliceLocation", "RescaleSlope", "RescaleIntercept", "RescaleType",
    ):  # fmt: skip
        if keyword in whole:
            del whole[keyword]
    whole.SharedFunctionalGroupsSequence = Items([shared])
    whole.PerFrameFunctionalGroupsSequence = Items(groups)
    return whole


def stored(series: Series) -> NDArray[np.integer]:
    """(slice, row, column), as stored."""
    return np.stack([instance.pixel_array for instance in series])


def lps_affine(series: Series) -> NDArray[np.float64]:
    """(column, row, slice, 1) → LPS mm."""
    first, second = series[0], series[1]
    corner = np.array(first.ImagePositionPatient, float)
    across, along = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    row_mm, column_mm = map(float, first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = across * column_mm, along * row_mm
    affine[:3, 2] = np.array(second.ImagePositionPatient, float) - corner
    affine[:3, 3] = corner
    return affine


def nifti(series: Series, turned: bool, volumes: int = 1) -> bytes:
    """A single file, unpacked, with the series' rescaling. turned: rows from back to front, as
    dcm2niix writes them, so that no plane is the stored one. volumes: 4D, the later ones fading."""
    array, affine = stored(series).transpose(2, 1, 0), lps_affine(series)
    if turned:
        affine[:3, 3] += (array.shape[1] - 1) * affine[:3, 1]
        affine[:3, 1] *= -1
        array = array[:, ::-1]
    if volumes > 1:
        faded = [array.astype(np.int32) * (10 - n) // 10 for n in range(volumes)]
        array = np.stack(faded, -1)
    image = nibabel.Nifti1Image(array.astype(np.int16), np.diag([-1.0, -1, 1, 1]) @ affine)
    first = series[0]
    slope, intercept = first.get("RescaleSlope", 1), first.get("RescaleIntercept", 0)
    image.header.set_slope_inter(float(slope), float(intercept))
    content: bytes = image.to_bytes()
    return content


def packed(content: bytes) -> bytes:
    return gzip.compress(content, 6, mtime=0)


def pair(content: bytes) -> tuple[bytes, bytes]:
    """The .hdr and the .img of a single file."""
    header = bytearray(content[:348] + bytes(4))
    header[344:348] = b"ni1\0"
    header[108:112] = bytes(4)  # vox_offset
    return bytes(header), content[352:]


def itk(series: Series, path: Path) -> Path:
    """NRRD or MetaImage, in modality values as ITK's DICOM reader gives them: of a CT other
    integers than the stored ones, of a series without rescaling the same."""
    first = series[0]
    slope, intercept = first.get("RescaleSlope", 1), first.get("RescaleIntercept", 0)
    values = stored(series).astype(np.float64) * float(slope) + float(intercept)
    image = sitk.GetImageFromArray(values.astype(np.int16))
    affine = lps_affine(series)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetMetaData("0008|0060", str(first.Modality))
    sitk.WriteImage(image, str(path), True)
    return path


# beside the images


def secondary_capture(series: Series, seed: int) -> Dataset:
    """A screenshot in colour: four slices of a study side by side."""
    quarter = [series[len(series) * n // 5].pixel_array.astype(np.float32) for n in (1, 2, 3, 4)]
    sheet = np.block([quarter[:2], quarter[2:]])
    grey = (255 * (sheet - sheet.min()) / np.ptp(sheet)).astype(np.uint8)
    return dicom_slice(
        np.stack([grey, grey, np.minimum(grey, 200)], -1),
        SOPClassUID=SecondaryCaptureImageStorage, SOPInstanceUID=uid("capture", seed),
        StudyInstanceUID=uid("capture study", seed), SeriesInstanceUID=uid("captures", seed),
        Modality="OT", ConversionType="WSD", ImageType=["DERIVED", "SECONDARY"],
        PatientID=f"SC-{seed}", ImagePositionPatient=None, ImageOrientationPatient=None,
        PixelSpacing=None, SliceThickness=None, FrameOfReferenceUID=None,
    )  # fmt: skip


def no_image(sop_class: UID, path: Path, seed: int) -> Path:
    made = dicom_slice(
        SOPClassUID=sop_class, SOPInstanceUID=uid("object", sop_class, seed),
        StudyInstanceUID=uid("object study", seed), SeriesInstanceUID=uid(sop_class, seed),
        Rows=None, Columns=None,
    )  # fmt: skip
    del made.PixelData
    return save(made, path)


def cut_off(series: Series) -> bytes:
    """One instance of which the last part of the pixels is missing."""
    whole = files_of(new_uids(series[:1], 1))["0001.dcm"]
    return whole[: len(whole) * 2 // 3]


def _decimals(values: NDArray[np.float64]) -> list[DSfloat]:
    return [DSfloat(float(value) + 0.0, auto_format=True) for value in values]
