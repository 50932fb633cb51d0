"""What is encoded from a form must be, byte for byte, what the libraries encode."""

from __future__ import annotations

import pytest
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import create_file_meta, encode

from diptych.receive import encoded

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
