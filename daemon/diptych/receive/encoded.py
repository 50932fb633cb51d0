"""What is encoded or decoded anew for every instance though only a UID in it differs.

pydicom and pynetdicom encode and decode each form once; after that its UID and message number are
put in their places. Half of the processor time of an instance went into these.
"""

from __future__ import annotations

import re
import struct
from copy import copy
from functools import lru_cache
from io import BytesIO

from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import create_file_meta, decode, encode

# Forms of one SOP class, transfer syntax and UID length; peers choose only among what we accept.
_FORMS = 4096
# A longer command set is no usual one.
_FORM_BYTES = 512
_NUMBER = 0x5A5A
# (0000,0120) MessageIDBeingRespondedTo, (0000,1000) AffectedSOPInstanceUID: implicit VR little
# endian. (0002,0003) MediaStorageSOPInstanceUID: explicit.
_RESPONDED_TO = struct.pack("<HHI", 0x0000, 0x0120, 2)
_AFFECTED = struct.pack("<HH", 0x0000, 0x1000)
_ELEMENT = struct.Struct("<HHI")
_MESSAGE_ID, _AFFECTED_INSTANCE = 0x0110, 0x1000
_UID = re.compile(rb"([0-9.]{1,64})\0?")
_C_STORE_RQ, _NO_DATA_SET = 0x0001, 0x0101
_MEDIA_STORAGE = struct.pack("<HH2s", 0x0002, 0x0003, b"UI")


def file_meta(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """File Meta Information (PS3.10 section 7.1) without preamble and prefix."""
    before, after = _file_meta(sop_class_uid, transfer_syntax_uid, len(sop_instance_uid))
    return before + sop_instance_uid.encode("ascii", "replace") + after


def success(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """The command set of a C-STORE-RSP (PS3.7 section 9.3.1.2) with status 0x0000."""
    before, between, after = _success(sop_class_uid, len(sop_instance_uid))
    uid = sop_instance_uid.encode("ascii", "replace")
    return before + struct.pack("<H", message_id) + between + uid + after


def store_request(command: bytes) -> C_STORE | None:
    """The primitive of a C-STORE-RQ's command set (PS3.7 section 9.3.1.1) whose data set follows,
    without it. None: this is no such command, or one with anything unusual in it."""
    form, number, uid, at, last = [], None, None, 0, -1
    while at < len(command) <= _FORM_BYTES:
        if at + _ELEMENT.size > len(command):
            return None
        group, element, length = _ELEMENT.unpack_from(command, at)
        begin, at = at, at + _ELEMENT.size + length
        value = command[at - length : at]
        if group or element <= last or at > len(command):
            return None
        last = element
        if element == _MESSAGE_ID and length == 2:
            number = int.from_bytes(value, "little")
            form.append(command[begin : at - 2] + b"\0\0")
        elif element == _AFFECTED_INSTANCE:
            uid = _UID.fullmatch(value)
            form.append(_ELEMENT.pack(group, element, 2) + b"1\0")
        elif element:  # (0000,0000) is their length
            form.append(command[begin:at])
    known = None if number is None or uid is None else _request(b"".join(form))
    if known is None or uid is None:
        return None
    primitive: C_STORE = copy(known)
    primitive.MessageID, primitive.AffectedSOPInstanceUID = number, uid[1].decode("ascii")
    return primitive


@lru_cache(_FORMS)
def _request(form: bytes) -> C_STORE | None:
    message = C_STORE_RQ()
    try:
        message.command_set = command = decode(BytesIO(form), True, True)
        if command.CommandField != _C_STORE_RQ or command.CommandDataSetType == _NO_DATA_SET:
            return None
        if not command.AffectedSOPClassUID or command["AffectedSOPClassUID"].VM != 1:
            return None
        return message.message_to_primitive()
    except Exception:  # the library says so to the peer when it sees the command itself
        return None


@lru_cache(_FORMS)
def _file_meta(sop_class_uid: str, transfer_syntax_uid: str, length: int) -> tuple[bytes, bytes]:
    meta = create_file_meta(
        sop_class_uid=UID(sop_class_uid),
        sop_instance_uid=UID("1" * length),
        transfer_syntax=UID(transfer_syntax_uid),
    )
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta, enforce_standard=False)
    return _around(
        buffer.getvalue(), _MEDIA_STORAGE + struct.pack("<H", length + length % 2), length
    )


@lru_cache(_FORMS)
def _success(sop_class_uid: str, length: int) -> tuple[bytes, bytes, bytes]:
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo = _NUMBER
    primitive.AffectedSOPClassUID = sop_class_uid
    primitive.AffectedSOPInstanceUID = "1" * length
    primitive.Status = 0x0000
    message = C_STORE_RSP()
    message.primitive_to_message(primitive)
    whole = encode(message.command_set, True, True) or b""
    before, number, rest = whole.partition(_RESPONDED_TO + struct.pack("<H", _NUMBER))
    between, after = _around(rest, _AFFECTED + struct.pack("<I", length + length % 2), length)
    return before + number[:-2], between, after


def _around(whole: bytes, head: bytes, length: int) -> tuple[bytes, bytes]:
    """What stands before and after the value of the element that begins with ``head``."""
    at = whole.index(head) + len(head)
    return whole[:at], whole[at + length :]
