"""What happens to a series on its way to a second buyer: the demo's copies.

Each function takes a series (its instances, in order) and gives new instances; the input is never
changed. Equal seeds give equal copies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless
from scipy import ndimage

from diptych.demo.series import uid

Series = list[Dataset]

REMOVED = (
    "AccessionNumber", "AcquisitionDate", "AcquisitionTime", "AdditionalPatientHistory",
    "AdmittingDiagnosesDescription", "ContentDate", "ContentTime", "CurrentPatientLocation",
    "DeviceSerialNumber", "InstitutionAddress", "InstitutionName", "InstitutionalDepartmentName",
    "MedicalAlerts", "NameOfPhysiciansReadingStudy", "OperatorsName", "OtherPatientIDs",
    "OtherPatientIDsSequence", "OtherPatientNames", "PatientAddress", "PatientAge",
    "PatientComments", "PatientSize", "PatientTelephoneNumbers", "PatientWeight",
    "PerformingPhysicianName", "ProtocolName", "RequestAttributesSequence",
    "RequestedProcedureDescription", "SeriesDate", "SeriesDescription", "SeriesTime",
    "SoftwareVersions", "StationName", "StudyDescription",
)  # fmt: skip
"""Attributes of PS3.15 Table E.1-1 that the Basic Profile removes and that images commonly hold."""

EMPTIED = ("PatientBirthDate", "PatientSex", "ReferringPhysicianName", "StudyDate", "StudyID",
           "StudyTime")  # fmt: skip
"""The same, where the attribute must be present (type 2)."""

KEPT_UIDS = ("SOPClassUID", "ReferencedSOPClassUID", "MediaStorageSOPClassUID", "TransferSyntaxUID",
             "ImplementationClassUID", "CodingSchemeUID", "ContextUID", "MappingResourceUID",
             "PrivateInformationCreatorUID")  # fmt: skip
"""UIDs that name a kind of thing, not a thing."""

STUDY_UIDS = ("StudyInstanceUID", "FrameOfReferenceUID")
"""UIDs that a new series of the same study keeps."""


def resend(series: Series) -> Series:
    """The same instances again."""
    return copy.deepcopy(series)


def new_uids(series: Series, seed: int, *, study: bool = True) -> Series:
    """New UIDs throughout, references included, consistently: equal UIDs stay equal.

    study False: a new series within the old study and frame of reference.
    """
    kept = KEPT_UIDS if study else (*KEPT_UIDS, *STUDY_UIDS)

    def replace(_: Dataset, element: DataElement) -> None:
        if element.VR == "UI" and element.keyword not in kept and element.value:
            if isinstance(element.value, str):
                element.value = _replaced(element.value, seed)
            else:
                element.value = [_replaced(value, seed) for value in element.value]

    copies = copy.deepcopy(series)
    for instance in copies:
        instance.walk(replace)
        instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    return copies


def deidentified(series: Series, seed: int) -> Series:
    """As a vendor delivers: new UIDs, identity and private tags gone, sent in shuffled order.

    Follows the Basic Profile of PS3.15 Annex E for the attributes that images commonly hold;
    geometry and pixels are untouched.
    """
    copies = new_uids(series, seed)
    alias = f"ANON-{np.random.default_rng(seed).integers(10**6, 10**7)}"
    for instance in copies:
        instance.remove_private_tags()
        for keyword in REMOVED:
            if keyword in instance:
                del instance[keyword]
        for keyword in EMPTIED:
            if keyword in instance:
                setattr(instance, keyword, "")
        instance.PatientName = instance.PatientID = alias
        instance.PatientIdentityRemoved = "YES"
        instance.DeidentificationMethod = "DICOM PS3.15 Annex E, Basic Profile (demo)"
    order = np.random.default_rng(seed).permutation(len(copies))
    return [copies[position] for position in order]


def lossless_j2k(series: Series, seed: int) -> Series:
    """The same pixels as JPEG 2000 lossless (PS3.5 A.4.4), in a new series of the same study.

    A series that is compressed already must be single-frame monochrome: ValueError.
    """
    copies = new_uids(series, seed, study=False)
    for instance in copies:
        if instance.file_meta.TransferSyntaxUID.is_compressed:
            _store(
                instance, _plane(instance)
            )  # Dataset.decompress fails on a codestream's own sign
        instance.compress(JPEG2000Lossless, generate_instance_uid=False)
    return [_rewritten(instance) for instance in copies]


def rotated_noisy(
    series: Series, seed: int, *, degrees: float = 5.0, noise: float = 0.02
) -> Series:
    """A processed copy: turned in plane, noise added, re-quantised, with new UIDs.

    degrees: counter-clockwise as displayed, about the image centre, bilinear, the size kept
    (``reshape=False``, as in the paper); corners are filled with the series' lowest value.
    noise: standard deviation of white noise as a fraction of the series' range of values.
    Values are rounded and clipped to the range that BitsStored allows. Geometry tags stay as they
    were: the copy does not say what was done to it. Single-frame monochrome only: ValueError.
    """
    copies = new_uids(series, seed)
    planes = [_plane(instance) for instance in copies]
    low = min(int(plane.min()) for plane in planes)
    high = max(int(plane.max()) for plane in planes)
    rng = np.random.default_rng(seed)
    for instance, plane in zip(copies, planes, strict=True):
        turned = ndimage.rotate(
            plane.astype(np.float32), degrees, reshape=False, order=1, cval=float(low)
        )
        turned += noise * (high - low) * rng.standard_normal(turned.shape, dtype=np.float32)
        _store(instance, turned)
    return copies


def _rewritten(instance: Dataset) -> Dataset:
    """Written and read again: a data set remembers the encoding it was once read in."""
    buffer = BytesIO()
    instance.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer)


def _replaced(value: str, seed: int) -> UID:
    return uid("copy", seed, value)


def _plane(instance: Dataset) -> NDArray[np.integer]:
    """The stored values of one image; ValueError when it is not single-frame monochrome."""
    if instance.get("SamplesPerPixel", 1) != 1 or int(instance.get("NumberOfFrames") or 1) != 1:
        raise ValueError("only single-frame monochrome instances can be processed")
    plane: NDArray[np.integer] = instance.pixel_array
    return plane


def _store(instance: Dataset, plane: NDArray[np.floating | np.integer]) -> None:
    """Write a plane as stored values, within what BitsStored and PixelRepresentation allow."""
    bits, signed = instance.BitsStored, instance.PixelRepresentation
    lowest = -(1 << (bits - 1)) if signed else 0
    stored = np.clip(np.rint(plane), lowest, lowest + (1 << bits) - 1)
    kind = f"<{'i' if signed else 'u'}{instance.BitsAllocated // 8}"
    del instance.PixelData  # with its undefined length, if it was encapsulated
    instance.PixelData = stored.astype(kind).tobytes()
    instance["PixelData"].VR = "OW" if instance.BitsAllocated > 8 else "OB"
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue"):
        if keyword in instance:
            del instance[keyword]


COPIES: dict[str, Callable[[Series, int], Series]] = {
    "re-send": lambda series, _: resend(series),
    "de-identified": deidentified,
    "lossless JPEG 2000": lossless_j2k,
    "rotated + noise": rotated_noisy,
}
"""What the demo makes of a series, by the name it prints."""
