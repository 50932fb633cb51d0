"""The beginning of a DICOM file → what it is: bounded in bytes, and never near the pixels."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import IO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_partial, read_sequence_item
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage

from diptych.volume.header import text_of, value_of
from diptych.volume.sopclass import declares_image, not_an_image

from .entry import Entry, Name, Status, readable_text
from .limits import Refused
from .streams import Forward

_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "StudyInstanceUID", "SeriesInstanceUID",
    "NumberOfFrames", "Rows", "Columns",
)  # fmt: skip
# How it was made. Free texts (descriptions, names of protocols) may identify somebody.
_FACTS = (
    "ImageType", "Manufacturer", "ManufacturerModelName", "BodyPartExamined", "SliceThickness",
    "KVP", "SpacingBetweenSlices", "MagneticFieldStrength", "RepetitionTime", "EchoTime",
    "ConvolutionKernel", "PixelSpacing", "BitsStored", "LossyImageCompression",
)  # fmt: skip
_TAGS: list[BaseTag | int] = [Tag(keyword) for keyword in (*_KEYWORDS, *_FACTS)]
_NEEDED = 0x00280011  # Columns
_LAST = 0x00282110  # LossyImageCompression
_DELIMITERS = 0xFFFE0000
_PIXELS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
_AMOUNTS = (1 << 15, 1 << 20, 1 << 24)
"""Bytes looked at, one after the other until (0028,0011) is reached. Real headers need the first;
an icon or private data before it may need the second."""

_FACT = 100
"""Characters of a fact; the standard allows 64 of most."""

_RECORDS = 0x00041220  # DirectoryRecordSequence, PS3.3 section F.3.2.2
MEDIA_DIRECTORY = str(MediaStorageDirectoryStorage)
_DEFLATED = str(DeflatedExplicitVRLittleEndian).encode()


def describe(entry: Entry, stream: Forward) -> None:
    """Fill in ``entry`` from a stream that looks like DICOM; never raises for what it holds."""
    entry.kind = "dicom"
    try:
        dataset, elements = _head(stream)
    except Refused as refused:
        entry.becomes(Status.UNREADABLE, refused.reason, refused.detail)
        return
    meta = getattr(dataset, "file_meta", None) or Dataset()
    entry.transfer_syntax = _text(meta, "TransferSyntaxUID")
    entry.sop_class = _text(dataset, "SOPClassUID") or _text(meta, "MediaStorageSOPClassUID")
    entry.sop_instance = _text(dataset, "SOPInstanceUID")
    entry.study = _text(dataset, "StudyInstanceUID")
    entry.series = _text(dataset, "SeriesInstanceUID")
    entry.modality = _text(dataset, "Modality").upper()
    entry.rows, entry.columns = _count(dataset, "Rows"), _count(dataset, "Columns")
    entry.facts = _facts(dataset, elements)
    if kind := not_an_image(entry.sop_class):
        entry.becomes(Status.NOT_AN_IMAGE, kind)
    elif entry.rows and entry.columns:
        entry.planes = _count(dataset, "NumberOfFrames") or 1
        entry.becomes(Status.READABLE)
    elif declares_image(entry.sop_class):
        entry.becomes(Status.NOT_SCREENABLE, "no-pixel-data", "Rows or Columns are missing")
    elif any(mark in stream.peek(_AMOUNTS[0]) for mark in _PIXELS):
        entry.becomes(Status.NOT_SCREENABLE, "unsupported-pixel-format", "Rows are missing")
    elif not any(keyword in dataset for keyword in _KEYWORDS) and not len(meta):
        entry.becomes(Status.UNREADABLE, "damaged", "no element that is known")
    else:
        entry.becomes(Status.NOT_AN_IMAGE, "no Image Pixel module")


def referenced(file: IO[bytes], at: str) -> Iterator[Name]:
    """The files that a DICOMDIR's records name (0004,1500), in order, record by record.

    Raises whatever pydicom raises for a damaged one.
    """
    directory = read_partial(
        file,  # type: ignore[arg-type]
        stop_when=lambda tag, _vr, _length: tag >= _RECORDS,
        force=True,
    )
    implicit, little = directory.original_encoding
    implicit, order = bool(implicit), "<" if little or little is None else ">"
    header = file.read(8 if implicit else 12)
    if len(header) < 8 or struct.unpack(f"{order}HH", header[:4]) != (0x0004, 0x1220):
        return
    length = struct.unpack(f"{order}I", header[-4:])[0]
    end = None if length == 0xFFFFFFFF else file.tell() + length
    number = 0
    while end is None or file.tell() < end:
        item = read_sequence_item(
            file,  # type: ignore[arg-type]
            implicit,
            order == "<",
            "iso8859",
        )
        if item is None:
            return
        parts = value_of(item, "ReferencedFileID")
        if parts:
            name = "/".join([parts] if isinstance(parts, str) else map(str, parts))
            yield Name(at, number, "dicomdir", readable_text(name))
            number += 1


def _facts(dataset: Dataset, elements: int) -> str:
    said = {keyword: _text(dataset, keyword)[:_FACT] for keyword in _FACTS}
    said["elements"] = str(elements)
    return json.dumps({keyword: text for keyword, text in said.items() if text})


def _head(stream: Forward) -> tuple[Dataset, int]:
    """What was asked for, and how many elements the header has before the pixels."""
    for amount in _AMOUNTS:
        head = stream.peek(amount)
        whole = len(head) < amount
        try:
            dataset, reached, elements = _parse(head)
        except RecursionError as error:
            raise Refused("damaged", "sequences nested too deeply") from error
        except Exception as error:
            # A value cut off by the end of what was looked at may be why.
            if whole or amount == _AMOUNTS[-1]:
                # The message may quote element values, that is patient data.
                raise Refused("damaged", f"header: {type(error).__name__}") from error
            continue
        if reached or whole:
            return dataset, elements
    raise Refused("header-too-long", f"(0028,0011) not reached within {_AMOUNTS[-1]} bytes")


def _parse(head: bytes) -> tuple[Dataset, bool, int]:
    reached, elements = False, 0

    def past_last(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal reached, elements
        elements += 1
        # Delimiters of a damaged sequence are no end.
        reached = reached or _NEEDED < tag < _DELIMITERS
        return reached and int(tag) > _LAST

    if head[128:132] == b"DICM" and _DEFLATED in head[:4096]:
        # pydicom inflates without a limit. (0002,0000) is 12 bytes long and counts what follows.
        if head[132:136] != b"\x02\x00\x00\x00":
            raise ValueError("deflated, and (0002,0000) is missing")
        start = 144 + struct.unpack_from("<I", head, 140)[0]
        meta = read_dataset(BytesIO(head[132:start]), is_implicit_VR=False, is_little_endian=True)
        plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head[start:], _AMOUNTS[-1])
        dataset = read_dataset(BytesIO(plain), False, True, stop_when=past_last)
        dataset.file_meta = FileMetaDataset(meta)
        return dataset, reached, elements
    dataset = read_partial(
        BytesIO(head),
        stop_when=past_last,
        force=True,
        specific_tags=_TAGS,
    )
    return dataset, reached, elements


def _text(dataset: Dataset, keyword: str) -> str:
    return readable_text(text_of(dataset, keyword))


def _count(dataset: Dataset, keyword: str) -> int | None:
    try:
        number = int(value_of(dataset, keyword))
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 < number < 2**31 else None
