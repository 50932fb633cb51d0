"""A volume written as a DICOM series, the way a scanner would send it.

CT Image and MR Image Storage (PS3.3 A.3, A.4), Explicit VR Little Endian, one frame an instance,
with the attributes their modules require. Nothing in it is a patient's.
"""

from __future__ import annotations

import uuid
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
)
from pydicom.valuerep import DSfloat

from diptych.demo.phantoms import Modality, Phantom

CT_INTERCEPT = -1024
"""Stored value 0 is -1024 HU, as most scanners have it: 12 unsigned bits reach 3071 HU."""

ORTHOGONAL = 1e-3
"""Rows and columns must be at right angles within this cosine (float32 affines reach 1e-7)."""

PRIVATE_CREATOR = "DIPTYCH DEMO"
"""Owner of the private block (0029,10xx) that every instance carries: de-identification must drop
it."""


def phantom_series(phantom: Phantom, seed: int = 0) -> list[Dataset]:
    """The phantom as a series; another seed gives other UIDs, another patient, other dates."""
    series = write_series(phantom.pixels, phantom.affine, phantom.modality, phantom.name, seed)
    for instance in series:
        instance.BodyPartExamined = phantom.body_part
    return series


def write_series(
    pixels: NDArray[np.int16],
    affine: NDArray[np.float64],
    modality: Modality,
    name: str,
    seed: int = 0,
) -> list[Dataset]:
    """One Dataset per slice, with file meta, in the array's slice order. Deterministic.

    pixels: int16 (slice, row, column); for CT Hounsfield units in [-1024, 3071].
    affine: 4×4, (slice, row, column, 1) → LPS mm. name: becomes the patient's and series' name.

    ValueError: wrong shape or dtype, CT values out of range, rows not at right angles to columns.
    """
    if pixels.ndim != 3 or pixels.dtype != np.int16:
        raise ValueError(f"pixels must be int16 (slice, row, column), not {pixels.dtype}")
    stored, bits, signed = _stored(pixels, modality)
    common = _common(affine, modality, name, seed)
    common.BitsAllocated, common.BitsStored, common.HighBit = 16, bits, bits - 1
    common.PixelRepresentation = int(signed)
    common.Rows, common.Columns = pixels.shape[1:]

    series = []
    for number, plane in enumerate(stored):
        instance = Dataset()
        instance.update(common)
        instance.SOPInstanceUID = uid("instance", name, seed, number)
        instance.InstanceNumber = number + 1
        position = affine[:3, 0] * number + affine[:3, 3]
        instance.ImagePositionPatient = _decimals(position)
        normal = np.cross(affine[:3, 2], affine[:3, 1])
        instance.SliceLocation = _decimals([float(position @ normal / np.linalg.norm(normal))])[0]
        instance.PixelData = plane.tobytes()
        instance["PixelData"].VR = "OW"
        instance.file_meta = _meta(instance)
        series.append(instance)
    return series


def uid(*parts: object) -> UID:
    """A UUID-derived UID (PS3.5 B.2) that depends on the parts alone."""
    text = "\x1f".join(map(str, ("diptych demo", *parts)))
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}")


def _stored(
    pixels: NDArray[np.int16], modality: Modality
) -> tuple[NDArray[np.uint16] | NDArray[np.int16], int, bool]:
    """(stored values little endian, BitsStored, signed)."""
    if modality == "CT":
        shifted = pixels.astype(np.int32) - CT_INTERCEPT
        if shifted.min() < 0 or shifted.max() > 4095:
            raise ValueError(
                f"CT values must be in [-1024, 3071], not {pixels.min()}…{pixels.max()}"
            )
        return shifted.astype("<u2"), 12, False
    if pixels.min() < 0:
        return pixels.astype("<i2"), 16, True
    return pixels.astype("<u2"), 16, False


def _common(affine: NDArray[np.float64], modality: Modality, name: str, seed: int) -> Dataset:
    """What all instances of the series share."""
    across, down = (affine[:3, axis] / np.linalg.norm(affine[:3, axis]) for axis in (2, 1))
    if abs(across @ down) > ORTHOGONAL:
        raise ValueError(f"rows and columns are not at right angles: cosine {across @ down}")
    down = down - (across @ down) * across
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    luck = np.random.default_rng([seed, *name.encode()])
    day = date(2019, 1, 1) + timedelta(days=int(luck.integers(0, 2000)))
    time = f"{luck.integers(7, 19):02}{luck.integers(0, 60):02}{luck.integers(0, 60):02}"

    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day.strftime("%Y%m%d")
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = time
    ds.AccessionNumber = f"A{luck.integers(10**6, 10**7)}"
    ds.Modality = modality
    ds.Manufacturer = "Diptych"
    ds.InstitutionName = "Diptych Demo Hospital"
    ds.ReferringPhysicianName = "Nobody^Refers"
    ds.StudyDescription = f"Demo {modality}"
    ds.SeriesDescription = name
    ds.ManufacturerModelName = "Generator"
    ds.DeviceSerialNumber = "1"
    ds.SoftwareVersions = "1"
    ds.PatientName = f"Phantom^{name}^{seed}"
    ds.PatientID = f"DEMO-{luck.integers(10**6, 10**7)}"
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "O"
    ds.StudyInstanceUID = uid("study", name, seed)
    ds.SeriesInstanceUID = uid("series", name, seed)
    ds.FrameOfReferenceUID = uid("frame of reference", name, seed)
    ds.PositionReferenceIndicator = ""
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "1", 1, 1
    ds.PatientPosition = "HFS"
    ds.ImageOrientationPatient = _decimals([*across, *down])
    ds.PixelSpacing = _decimals(spacing[1:])
    ds.SliceThickness = _decimals([spacing[0]])[0]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    if modality == "CT":
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.KVP = "120"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(CT_INTERCEPT), "1", "HU"
    else:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "GR", "SP", ""
        ds.MRAcquisitionType = "2D"
        ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = "500", "10", "1"
    block = ds.private_block(0x0029, PRIVATE_CREATOR, create=True)
    block.add_new(0x01, "LO", f"{name} for nobody")
    return ds


def _meta(instance: Dataset) -> FileMetaDataset:
    """File meta information (PS3.10, 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = instance.SOPClassUID
    meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid("implementation")
    return meta


def _decimals(values: NDArray[np.float64] | list[float]) -> list[DSfloat]:
    """Decimal strings of at most 16 characters (PS3.5 6.2, DS)."""
    return [DSfloat(float(value) + 0.0, auto_format=True) for value in values]
