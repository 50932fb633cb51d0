"""Synthetic DICOM slices, so that a test about volumes is three lines long."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

AXIAL = (1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
STUDY = "1.2.826.0.1.3680043.8.498.1"


def pixels(seed: int, rows: int = 12, columns: int = 10, dtype: Any = np.int16) -> np.ndarray:
    """Random stored values that differ from seed to seed."""
    values = np.random.default_rng(seed).integers(0, 2000, (rows, columns))
    return values.astype(dtype)


def dicom_slice(stored: np.ndarray | None = None, number: int = 1, **elements: Any) -> Dataset:
    """One classic axial slice at z = 5 mm × ``number``; any keyword overrides or (None) removes."""
    stored = pixels(number) if stored is None else stored
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = STUDY
    ds.SeriesInstanceUID = f"{STUDY}.1"
    ds.FrameOfReferenceUID = f"{STUDY}.2"
    ds.Modality = "CT"
    ds.PatientID, ds.PatientName, ds.PatientBirthDate = "P1", "Doe^Jane", "19700101"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.InstanceNumber = number
    ds.ImagePositionPatient = [-20.0, -30.0, 5.0 * number]
    ds.ImageOrientationPatient = list(AXIAL)
    ds.PixelSpacing = [0.5, 0.75]
    ds.SliceThickness = 5.0
    ds.Rows, ds.Columns = stored.shape[:2] if stored.ndim < 4 else stored.shape[1:3]
    ds.SamplesPerPixel = 3 if stored.shape[-1] == 3 and stored.ndim > 2 else 1
    ds.PhotometricInterpretation = "RGB" if ds.SamplesPerPixel == 3 else "MONOCHROME2"
    if ds.SamplesPerPixel == 3:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8 * stored.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    raw = stored.tobytes()
    ds.PixelData = raw + b"\0" * (len(raw) % 2)
    ds["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def save(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write as Part 10 in a native transfer syntax; big endian pixels are swapped."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian and ds.BitsAllocated == 16:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    ds.file_meta = meta
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True, little_endian=little, implicit_vr=implicit)
    return path


def save_compressed(ds: Dataset, path: Path, syntax: str) -> Path:
    """Compress with pydicom's encoder for ``syntax`` and write."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.set_original_encoding(False, True)
    ds.compress(syntax, generate_instance_uid=False)
    return save_encapsulated(ds, path, syntax)


def save_encapsulated(
    ds: Dataset, path: Path, syntax: str, frames: Sequence[bytes] | None = None
) -> Path:
    """Write ``frames`` (or what is already compressed) under ``syntax``."""
    if frames is not None:
        ds.PixelData = encapsulate(list(frames))
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path, enforce_file_format=True, little_endian=True, implicit_vr=False)
    return path


def save_series(folder: Path, slices: Sequence[Dataset]) -> list[Path]:
    """One file per data set, in the given order."""
    folder.mkdir(parents=True, exist_ok=True)
    return [save(ds, folder / f"{number:04d}.dcm") for number, ds in enumerate(slices)]


def enhanced_mr(frames: np.ndarray, positions: Sequence[float], times: Sequence[int]) -> Dataset:
    """An enhanced multi-frame object; frame i lies at z = positions[i], time point times[i]."""
    ds = dicom_slice(frames[0])
    ds.SOPClassUID, ds.Modality = EnhancedMRImageStorage, "MR"
    ds.NumberOfFrames = len(frames)
    ds.PixelData = np.ascontiguousarray(frames).tobytes()
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(ds, keyword)
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 2.0
    shared.PlaneOrientationSequence = Items([plane])
    shared.PixelMeasuresSequence = Items([measures])
    ds.SharedFunctionalGroupsSequence = Items([shared])
    groups = []
    for index, (z, time) in enumerate(zip(positions, times, strict=True)):
        group, position, content, values = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0.0, 0.0, z]
        content.StackID, content.TemporalPositionIndex = "1", time
        content.DimensionIndexValues = [1, index + 1, time]
        values.RescaleSlope, values.RescaleIntercept = 1.0 + index, 0.0
        group.PlanePositionSequence = Items([position])
        group.FrameContentSequence = Items([content])
        group.PixelValueTransformationSequence = Items([values])
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Items(groups)
    return ds


def deflated(ds: Dataset, path: Path) -> Path:
    """Write as Deflated Explicit VR Little Endian."""
    return save(ds, path, DeflatedExplicitVRLittleEndian)
