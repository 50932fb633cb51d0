"""What is encoded from a form must be, byte for byte, what the libraries encode; what is decoded as
views, what they decode."""

from __future__ import annotations

import contextlib
import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import create_file_meta, decode, encode
from pynetdicom.pdu import P_DATA_TF

from diptych.receive import encoded, pynetdicom_hooks

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
INSTANCES = ["1", "1.2", "2.25.7", "277", f"2.25.{'7' * 39}", f"1.2.{'9' * 60}"]


@pytest.mark.parametrize("sop_class", [CT, ENHANCED_MR])
@pytest.mark.parametrize("instance", INSTANCES)
@pytest.mark.parametrize("message_id", [0, 1, 0x5A5A, 0xFFFF])
def test_a_success_response_is_the_librarys(sop_class: str, instance: str, message_id: int) -> None:
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo = message_id
    primitive.AffectedSOPClassUID = sop_class
    primitive.AffectedSOPInstanceUID = instance
    primitive.Status = 0x0000
    message = C_STORE_RSP()
    message.primitive_to_message(primitive)
    assert encoded.success(message_id, sop_class, instance) == encode(
        message.command_set, True, True
    )


@pytest.mark.parametrize("sop_class", [CT, ENHANCED_MR, ""])
@pytest.mark.parametrize("instance", [*INSTANCES, "", "1" * 64])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.4.90"])
def test_file_meta_is_the_librarys(sop_class: str, instance: str, syntax: str) -> None:
    buffer = DicomBytesIO()
    meta = create_file_meta(
        sop_class_uid=UID(sop_class), sop_instance_uid=UID(instance), transfer_syntax=UID(syntax)
    )
    write_file_meta_info(buffer, meta, enforce_standard=False)
    assert encoded.file_meta(sop_class, instance, syntax) == buffer.getvalue()


COMMAND = {
    "CommandGroupLength": 100,
    "AffectedSOPClassUID": CT,
    "CommandField": 0x0001,
    "MessageID": 7,
    "Priority": 0,
    "CommandDataSetType": 0x0000,
    "AffectedSOPInstanceUID": "1.2.3",
}


def command_set(**changed: object) -> bytes:
    command = Dataset()
    for keyword, value in (COMMAND | changed).items():
        if value is not None:
            setattr(command, keyword, value)
    return encode(command, True, True) or b""


def as_the_library(command: bytes) -> C_STORE:
    message = C_STORE_RQ()
    message.command_set = decode(BytesIO(command), True, True)
    return message.message_to_primitive()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"MessageID": 0},
        {"MessageID": 0xFFFF, "AffectedSOPInstanceUID": f"1.2.{'9' * 60}"},
        {"AffectedSOPInstanceUID": "1.2"},
        {"AffectedSOPClassUID": ENHANCED_MR, "Priority": 2},
        {"AffectedSOPClassUID": "1.2.3.private"},
        {"Priority": None, "CommandGroupLength": None},
        {"CommandDataSetType": 0x0102},
        {
            "MoveOriginatorApplicationEntityTitle": "MOVER",
            "MoveOriginatorMessageID": 9,
        },
    ],
)
def test_a_store_request_is_the_librarys(changed: dict[str, object]) -> None:
    command = command_set(**changed)
    for _ in range(2):  # once made, once from the form
        found, theirs = encoded.store_request(command), as_the_library(command)
        assert found is not None
        found.DataSet = theirs.DataSet
        assert vars(found) == vars(theirs)


@pytest.mark.parametrize(
    "command",
    [
        b"",
        command_set(CommandField=0x0030),
        command_set(CommandDataSetType=0x0101),
        command_set(MessageID=None),
        command_set(AffectedSOPClassUID=None),
        command_set(AffectedSOPClassUID=""),
        command_set(AffectedSOPClassUID=[CT, CT]),
        command_set(AffectedSOPInstanceUID=None),
        command_set(AffectedSOPInstanceUID=""),
        command_set(AffectedSOPInstanceUID="1" * 66),
        command_set(AffectedSOPInstanceUID="../../etc"),
        command_set(MoveOriginatorApplicationEntityTitle="A" * 600),
        command_set()[:-1],
        command_set() + b"\0",
        command_set() + command_set(),
        struct.pack("<HHI", 8, 0x18, 2) + b"1\0" + command_set(),
        struct.pack("<HHI", 0, 0x1000, 0xFFFFFFFF),
    ],
)
def test_what_is_unusual_about_a_command_is_left_to_the_library(command: bytes) -> None:
    assert encoded.store_request(command) is None


VALUE = st.builds(
    lambda declared, context_id, data: (
        struct.pack(">IB", len(data) + 1 if declared is None else declared, context_id) + data
    ),
    st.none() | st.integers(0, 9) | st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.binary(max_size=8),
)


@given(st.lists(VALUE, max_size=4), st.binary(max_size=5))
def test_the_values_of_a_p_data_pdu_are_the_librarys(values: list[bytes], rest: bytes) -> None:
    body = b"".join(values) + rest
    received = bytearray(struct.pack(">BBI", 4, 0, len(body)) + body)

    found = theirs = None
    with contextlib.suppress(ValueError, struct.error):
        found = [(cx, bytes(data)) for cx, data in pynetdicom_hooks.values_of(received)]
    with contextlib.suppress(AssertionError, struct.error):
        theirs = list(P_DATA_TF._generate_items(bytes(received[6:])))

    assert found == theirs
