"""Data set → ``InstanceHeader``: identifiers, and hashes that say which part of a header differs.

Runs inside a decoder child.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRBigEndian

from .pixels import LOSSY_TRANSFER_SYNTAXES
from .plane import InstanceHeader

_TEXT_LIMIT = 1024
"""Characters kept of any text element: more than any VR of an identifier allows (PS3.5 §6.2)."""

_SWAPPED_BYTES = {"US": 2, "SS": 2, "OW": 2, "AT": 2, "UL": 4, "SL": 4, "FL": 4, "OF": 4, "OL": 4}
_SWAPPED_BYTES |= {"FD": 8, "OD": 8, "SV": 8, "UV": 8, "OV": 8}

_PIXEL_GROUPS = (0x7FE0,)
_ENCODING_GROUPS = (0x0002, 0xFFFC)
"""File meta and trailing padding: not content."""

_ENCODING_TAGS = frozenset(
    int(Tag(keyword))
    for keyword in (
        "SOPInstanceUID",  # the two sides of a collision share it
        "PhotometricInterpretation",  # changed by a lossless JPEG 2000 colour transform
        "PlanarConfiguration",
        "InstanceCreationDate",  # changed by whoever re-encodes
        "InstanceCreationTime",
    )
)

_IDENTITY_TAGS = frozenset(
    int(Tag(keyword))
    for keyword in (
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "SynchronizationFrameOfReferenceUID",
        "StudyID",
        "AccessionNumber",
        "StudyDate",
        "SeriesDate",
        "AcquisitionDate",
        "ContentDate",
        "AcquisitionDateTime",
        "StudyTime",
        "SeriesTime",
        "InstitutionName",
        "InstitutionAddress",
        "InstitutionalDepartmentName",
        "StationName",
        "DeviceSerialNumber",
        "ReferringPhysicianName",
        "PerformingPhysicianName",
        "NameOfPhysiciansReadingStudy",
        "PhysiciansOfRecord",
        "OperatorsName",
        "RequestingPhysician",
        "IssuerOfPatientID",
        "RequestAttributesSequence",
        "ReferencedStudySequence",
        "ReferencedImageSequence",
        "SourceImageSequence",
    )
)
"""What de-identification changes first (PS3.15 Table E.1-1), beside the whole of group 0010."""


def instance_header(dataset: Dataset, transfer_syntax: str) -> InstanceHeader:
    """Read the header; must come before anything else touches ``dataset`` (raw bytes are hashed).

    Texts that cannot be decoded become ""; nothing here raises for a bad value.
    """
    swap = transfer_syntax == str(ExplicitVRBigEndian)
    identity, private, rest = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for tag in sorted(dataset.keys(), key=int):
        number = int(tag)
        group = number >> 16
        if group in _PIXEL_GROUPS or group in _ENCODING_GROUPS or not number & 0xFFFF:
            continue
        if number in _ENCODING_TAGS:
            continue
        if tag.is_private:
            part = private
        elif group == 0x0010 or number in _IDENTITY_TAGS:
            part = identity
        else:
            part = rest
        _hash_element(part, dataset, tag, swap)

    def text(keyword: str) -> str:
        return text_of(dataset, keyword)

    return InstanceHeader(
        SOPInstanceUID=text("SOPInstanceUID"),
        SOPClassUID=text("SOPClassUID"),
        StudyInstanceUID=text("StudyInstanceUID"),
        SeriesInstanceUID=text("SeriesInstanceUID"),
        Modality=text("Modality").upper(),
        BodyPartExamined=text("BodyPartExamined"),
        PatientID=text("PatientID"),
        PatientBirthDate=text("PatientBirthDate"),
        FrameOfReferenceUID=text("FrameOfReferenceUID"),
        AcquisitionDate=text("AcquisitionDate"),
        AcquisitionTime=text("AcquisitionTime"),
        transfer_syntax=transfer_syntax,
        lossy=transfer_syntax in LOSSY_TRANSFER_SYNTAXES
        or text("LossyImageCompression").startswith("01"),
        identity_hash=identity.digest(),
        private_hash=private.digest(),
        rest_hash=rest.digest(),
    )


def value_of(dataset: Dataset, keyword: str) -> Any:
    """The element's value, or None when it is missing or its bytes cannot be understood."""
    try:
        # Most of what is asked for is not there, and pydicom finds that out by an exception.
        return dataset.get(keyword) if tag_for_keyword(keyword) in dataset.keys() else None  # noqa: SIM118
    except (MemoryError, RecursionError):
        raise
    except Exception:
        # A bad value representation or charset in one element must not cost the image.
        return None


def text_of(dataset: Dataset, keyword: str) -> str:
    """The element as one line of text, bounded, without control characters; "" when missing."""
    value = value_of(dataset, keyword)
    if value is None:
        return ""
    try:
        text = str(value)[:_TEXT_LIMIT]
    except Exception:
        return ""
    printable = text if text.isprintable() else "".join(c for c in text if c.isprintable())
    return printable.strip()


def _hash_element(part: Any, dataset: Dataset, tag: BaseTag, swap: bool) -> None:
    try:
        element = dataset.get_item(tag)
    except (MemoryError, RecursionError):
        raise
    except Exception:
        part.update(b"%08x unreadable" % int(tag))
        return
    vr = getattr(element, "VR", None)
    if isinstance(element, RawDataElement):
        vr = _vr(tag, vr)
        if vr != "SQ":
            part.update(b"%08x" % int(tag))
            value = bytes(element.value or b"")
            width = _SWAPPED_BYTES.get(vr)
            if width is None:
                value = value.rstrip(b" \0")
            elif swap and len(value) % width == 0:
                value = np.frombuffer(value, np.uint8).reshape(-1, width)[:, ::-1].tobytes()
            part.update(len(value).to_bytes(8, "little") + value)
            return
    part.update(b"%08x" % int(tag))
    try:
        value_ = dataset[tag].value
    except (MemoryError, RecursionError):
        raise
    except Exception:
        part.update(b"unreadable")
        return
    if not isinstance(value_, Sequence):
        part.update(str(value_).encode("utf-8", "replace"))
        return
    for item in value_:
        part.update(b"item")
        for inner in sorted(item.keys()):
            if inner.element:
                _hash_element(part, item, inner, swap)


def _vr(tag: BaseTag, vr: str | None) -> str:
    if vr not in (None, "UN"):
        return str(vr)
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"
