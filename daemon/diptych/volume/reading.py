"""One file → a pydicom data set and its transfer syntax, without trusting either.

Runs inside a decoder child. Accepts Part 10 files (PS3.10 §7), and files without preamble or meta
information whose first element is plausible.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from diptych.errors import NotScreenable, Reason

from .limits import Limits

_PREAMBLE = 132
_FIRST_GROUPS = (0x0002, 0x0004, 0x0008)
_GROUP_LENGTH_LIMIT = 64 * 1024
"""A headerless file starts with a short element (a group length, a character set, a UID)."""


def looks_like_dicom(head: bytes) -> bool:
    """True when the first 132+ bytes carry ``DICM``, or begin with a plausible data element."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", head[:4])
        if group not in _FIRST_GROUPS or element > 0x0100:
            continue
        if head[4:6].isalpha() and head[4:6].isupper():
            return True
        if struct.unpack(f"{order}I", head[4:8])[0] < _GROUP_LENGTH_LIMIT:
            return True
    return False


def read_dataset_file(path: Path, limits: Limits) -> tuple[Dataset, str]:
    """Read a whole file; returns the data set and its transfer syntax UID ("" when unknowable).

    Raises ``NotScreenable`` with ``UNREADABLE``, ``SPOOL_FILE_LOST`` or ``TOO_LARGE`` (a deflated
    data set that inflates past the limit, PS3.5 §A.5).
    """
    try:
        # From memory: a file object would first allocate whatever length a damaged element claims.
        data = path.read_bytes()
    except OSError as error:
        raise NotScreenable(Reason.SPOOL_FILE_LOST, type(error).__name__) from error
    if not looks_like_dicom(data[:_PREAMBLE]):
        raise NotScreenable(Reason.UNREADABLE, "no DICM prefix and no plausible first element")
    try:
        if data[128:_PREAMBLE] == b"DICM":
            meta = read_file_meta_info(path)
            if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                return _inflate(data, meta, limits), str(DeflatedExplicitVRLittleEndian)
        dataset = dcmread(io.BytesIO(data), force=True)
    except (NotScreenable, MemoryError):
        raise
    except RecursionError as error:
        raise NotScreenable(Reason.UNREADABLE, "sequences nested too deeply") from error
    except Exception as error:
        raise NotScreenable(Reason.UNREADABLE, f"parsing: {type(error).__name__}") from error
    return dataset, _transfer_syntax(dataset)


def _inflate(data: bytes, meta: FileMetaDataset, limits: Limits) -> Dataset:
    # (0002,0000) is 12 bytes long and counts the bytes after it.
    start = _PREAMBLE + 12
    if data[_PREAMBLE : _PREAMBLE + 4] != b"\x02\x00\x00\x00" or len(data) < start:
        raise NotScreenable(Reason.UNREADABLE, "deflated, and (0002,0000) is missing")
    packed = memoryview(data)[start + struct.unpack_from("<I", data, start - 4)[0] :]
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(packed, limits.max_inflated_bytes)
    except zlib.error as error:
        raise NotScreenable(Reason.UNREADABLE, "deflated stream is damaged") from error
    if inflater.unconsumed_tail:
        raise NotScreenable(
            Reason.TOO_LARGE,
            f"{len(packed)} deflated bytes become more than {limits.max_inflated_bytes}",
        )
    if not inflater.eof:
        raise NotScreenable(Reason.TRUNCATED_PIXEL_DATA, "deflated stream ends early")
    dataset = read_dataset(io.BytesIO(plain), is_implicit_VR=False, is_little_endian=True)
    dataset.file_meta = meta
    dataset.set_original_encoding(False, True)
    return dataset


def _transfer_syntax(dataset: Dataset) -> str:
    declared = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", "") or "").strip()
    if declared:
        return declared
    # Without meta information pydicom guessed the encoding from the bytes; pixels stay unguessed.
    implicit, little = dataset.original_encoding
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        return ""
    if implicit:
        return str(ImplicitVRLittleEndian) if little else ""
    return str(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)


def is_known(transfer_syntax: str) -> bool:
    """True for a transfer syntax of PS3.5 Annex A (private and invented ones are not)."""
    uid = UID(transfer_syntax)
    return bool(transfer_syntax) and uid.is_transfer_syntax and not uid.is_private
