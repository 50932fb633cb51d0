"""Read just enough of a data set to file it: up to (0020,000E), bounded in bytes and depth.

Nothing here touches pixels; the full header is read by a decoder child, much later.
"""

from __future__ import annotations

import hashlib
import zlib
from io import BytesIO

from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from diptych.audit.receipts import Identity

_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_STUDY, _SERIES = 0x0020000D, 0x0020000E
_KEYWORDS = {
    _SOP_CLASS: "SOPClassUID (0008,0016)",
    _SOP_INSTANCE: "SOPInstanceUID (0008,0018)",
    _STUDY: "StudyInstanceUID (0020,000D)",
    _SERIES: "SeriesInstanceUID (0020,000E)",
}
# What is looked at of nearly every instance; of others all.
_FIRST_BYTES = 1 << 15
# PS3.5 section 9.1.
UID_BYTES = 64


class Unparsable(Exception):
    """The data set cannot be read as DICOM: 0xC000."""


class Mismatch(Exception):
    """A UID is missing, impossible, or not what the command said: 0xA900."""


def identify(
    head: bytes | memoryview,
    limit: int,
    transfer_syntax_uid: str,
    association: str,
    command: tuple[str, str] | None,
) -> Identity:
    """Who the instance says it is, whose data set begins with ``head``.

    ``limit``: bytes looked at; one more in ``head`` says that there are more. ``command``: Affected
    SOP Class and Instance UID of the C-STORE-RQ (PS3.7 section 9.1.1), None when re-registering.
    ``association``: names the synthetic series of a data set without a SeriesInstanceUID. Raises
    Unparsable or Mismatch.
    """
    try:
        first = bytes(head[: min(_FIRST_BYTES, limit)])
        values = _read(first, len(head) == len(first), transfer_syntax_uid, limit)
    except Unparsable:
        if len(head) <= _FIRST_BYTES:
            raise
        values = _read(bytes(head[:limit]), len(head) <= limit, transfer_syntax_uid, limit)
    if _SOP_CLASS not in values and _SOP_INSTANCE not in values:
        raise Unparsable("neither SOPClassUID (0008,0016) nor SOPInstanceUID (0008,0018) found")
    sop_class, sop_instance = _uid(values, _SOP_CLASS), _uid(values, _SOP_INSTANCE)
    for tag, said in zip((_SOP_CLASS, _SOP_INSTANCE), command or (), strict=False):
        found = {_SOP_CLASS: sop_class, _SOP_INSTANCE: sop_instance}[tag]
        if found != said:
            raise Mismatch(f"{_KEYWORDS[tag]} is not the command's")
    if not sop_class or not sop_instance:
        raise Mismatch(f"{_KEYWORDS[_SOP_INSTANCE if sop_class else _SOP_CLASS]} is empty")
    study, series = _uid(values, _STUDY), _uid(values, _SERIES)
    synthetic = not series
    series = series or made_up(f"{association}\n{study}")
    # Without a study: two series must not look as if they shared one.
    return Identity(sop_class, sop_instance, study or made_up(series), series, synthetic)


def made_up(text: str) -> str:
    """A name that is no UID, the same for the same text."""
    return f"synthetic.{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _read(head: bytes, whole: bool, transfer_syntax_uid: str, limit: int) -> dict[int, bytes]:
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        try:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            head = inflater.decompress(head, limit)
            whole = whole and not inflater.unconsumed_tail
        except zlib.error as error:
            raise Unparsable(f"deflated data set: {error}") from error
    reached = False

    def past_series(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        nonlocal reached
        reached = reached or int(tag) > _SERIES  # a BaseTag compares in Python
        return reached

    buffer = BytesIO(head)
    try:
        data_set = read_dataset(
            buffer,
            is_implicit_VR=transfer_syntax_uid == ImplicitVRLittleEndian,
            is_little_endian=transfer_syntax_uid != ExplicitVRBigEndian,
            stop_when=past_series,
            specific_tags=[BaseTag(tag) for tag in _KEYWORDS],
        )
        values = {int(tag): data_set.get_item(tag).value for tag in data_set.keys()}  # noqa: SIM118
    except RecursionError as error:
        raise Unparsable("sequences nested too deeply") from error
    except Exception as error:  # pydicom raises whatever its helpers raise
        raise Unparsable(f"data set: {type(error).__name__}") from error
    if not whole and not reached:
        raise Unparsable(f"(0020,000E) not reached within {limit} bytes")
    return values


def _uid(values: dict[int, bytes], tag: int) -> str:
    raw = values.get(tag) or b""
    if not isinstance(raw, bytes):
        raise Mismatch(f"{_KEYWORDS[tag]} is not text")
    if len(raw) > UID_BYTES:
        raise Mismatch(f"{_KEYWORDS[tag]} is longer than {UID_BYTES} bytes")
    try:
        text = raw.rstrip(b"\0 ").decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise Mismatch(f"{_KEYWORDS[tag]} is not ASCII") from error
    if not text.isprintable():
        raise Mismatch(f"{_KEYWORDS[tag]} holds control characters")
    return text
