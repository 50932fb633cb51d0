"""Bad input: every file ends in planes, in not-an-image, or in a named reason."""

from __future__ import annotations

import random
import struct
import zlib

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from dicom_factory import deflated, dicom_slice, pixels, save, save_compressed, save_encapsulated
from diptych.errors import Reason
from diptych.volume.instance import Instance, Refusal, decode_file
from diptych.volume.limits import Limits

SR, SEGMENTATION, PDF, KOS = (
    "1.2.840.10008.5.1.4.1.1.88.33",
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.104.1",
    "1.2.840.10008.5.1.4.1.1.88.59",
)


def refused(path, limits=None):
    outcome = decode_file(path, limits)
    assert isinstance(outcome, Refusal), outcome
    return outcome


@pytest.mark.parametrize("uid", [SR, SEGMENTATION, PDF, KOS])
def test_objects_that_are_no_images_are_left_out_silently(tmp_path, uid):
    outcome = refused(save(dicom_slice(SOPClassUID=uid), tmp_path / "object.dcm"))
    assert outcome.not_an_image
    assert outcome.header.SOPClassUID == uid


def test_truncated_native_pixels_are_noticed(tmp_path):
    ds = dicom_slice()
    ds.PixelData = ds.PixelData[:-2]
    outcome = refused(save(ds, tmp_path / "short.dcm"))
    assert outcome.reason is Reason.TRUNCATED_PIXEL_DATA
    assert "238" in outcome.detail
    assert "240" in outcome.detail


def test_a_file_cut_off_anywhere_is_never_an_exception(tmp_path):
    whole = save(dicom_slice(), tmp_path / "whole.dcm").read_bytes()
    cut = tmp_path / "cut.dcm"
    for length in range(0, len(whole) - 1, 7):
        cut.write_bytes(whole[:length])
        assert isinstance(decode_file(cut), Refusal)


def test_a_compressed_file_cut_off_in_its_pixels_is_truncated(tmp_path):
    ds = dicom_slice(pixels(1, 64, 64))
    path = save_compressed(ds, tmp_path / "whole.dcm", JPEG2000Lossless)
    path.write_bytes(path.read_bytes()[:-200])
    assert refused(path).reason is Reason.TRUNCATED_PIXEL_DATA


def test_fewer_compressed_frames_than_declared_are_truncated(tmp_path):
    ds = dicom_slice(pixels(1, 64, 64))
    path = save_compressed(ds, tmp_path / "frames.dcm", RLELossless)
    ds.NumberOfFrames = 5
    outcome = refused(save_encapsulated(ds, path, RLELossless))
    assert outcome.reason in (Reason.TRUNCATED_PIXEL_DATA, Reason.DECODE_FAILED)


@pytest.mark.parametrize("syntax", ["1.2.3.4.5", "1.2.840.10008.1.2.4.9999"])
def test_an_unknown_transfer_syntax_is_named(tmp_path, syntax):
    path = save(dicom_slice(), tmp_path / "slice.dcm")
    known = str(ExplicitVRLittleEndian).encode()
    padded = syntax.encode().ljust(len(known), b"\0")[: len(known)]
    path.write_bytes(path.read_bytes().replace(known, padded, 1))
    assert refused(path).reason is Reason.UNSUPPORTED_TRANSFER_SYNTAX


def test_video_is_an_unsupported_transfer_syntax(tmp_path):
    path = save_encapsulated(dicom_slice(), tmp_path / "v.dcm", "1.2.840.10008.1.2.4.102", [b"x"])
    outcome = refused(path)
    assert outcome.reason is Reason.UNSUPPORTED_TRANSFER_SYNTAX
    assert "video" in outcome.detail


def test_compressed_pixels_without_a_transfer_syntax_are_unsupported(tmp_path):
    ds = dicom_slice()
    ds.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00"
    path = save_encapsulated(ds, tmp_path / "x.dcm", JPEG2000Lossless, [b"ab"])
    whole = path.read_bytes()
    path.write_bytes(whole[whole.index(b"\x08\x00\x08\x00CS") :])
    assert refused(path).reason is Reason.UNSUPPORTED_TRANSFER_SYNTAX


def test_a_native_file_without_preamble_and_meta_information_is_read(tmp_path):
    path = save(dicom_slice(), tmp_path / "bare.dcm")
    whole = path.read_bytes()
    path.write_bytes(whole[whole.index(b"\x08\x00\x08\x00CS") :])
    assert isinstance(decode_file(path), Instance)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Rows": 65535, "Columns": 65535}, Reason.TOO_LARGE),
        ({"Rows": 0}, Reason.UNSUPPORTED_PIXEL_FORMAT),
        ({"Rows": None}, Reason.UNSUPPORTED_PIXEL_FORMAT),
        ({"NumberOfFrames": 2**31 - 1}, Reason.TOO_LARGE),
        ({"NumberOfFrames": -4}, Reason.UNSUPPORTED_PIXEL_FORMAT),
        ({"NumberOfFrames": 3}, Reason.TRUNCATED_PIXEL_DATA),
        ({"BitsAllocated": 12}, Reason.UNSUPPORTED_PIXEL_FORMAT),
        ({"BitsAllocated": 64}, Reason.UNSUPPORTED_PIXEL_FORMAT),
        ({"SamplesPerPixel": 7}, Reason.UNSUPPORTED_PIXEL_FORMAT),
        ({"PhotometricInterpretation": "HSV"}, Reason.UNSUPPORTED_PIXEL_FORMAT),
        ({"PixelData": None}, Reason.NO_PIXEL_DATA),
    ],
    ids=str,
)
def test_absurd_pixel_descriptions_have_a_reason(tmp_path, elements, reason):
    assert refused(save(dicom_slice(**elements), tmp_path / "absurd.dcm")).reason is reason


def test_absurd_bit_depths_are_read_as_the_container(tmp_path):
    path = save(dicom_slice(BitsStored=99, HighBit=77), tmp_path / "bits.dcm")
    outcome = decode_file(path)
    assert isinstance(outcome, Instance)
    assert (outcome.planes[0].stored == pixels(1)).all()


def test_a_deflate_bomb_is_refused_before_it_is_inflated(tmp_path):
    path = deflated(dicom_slice(), tmp_path / "bomb.dcm")
    whole = path.read_bytes()
    start = 132 + 12 + struct.unpack("<I", whole[140:144])[0]
    path.write_bytes(whole[:start] + _deflate(b"\0" * 50_000_000))
    outcome = refused(path, Limits(max_inflated_bytes=10_000_000))
    assert outcome.reason is Reason.TOO_LARGE


def test_a_damaged_or_short_deflated_stream_has_a_reason(tmp_path):
    path = deflated(dicom_slice(pixels(1, 100, 100)), tmp_path / "short.dcm")
    whole = path.read_bytes()
    path.write_bytes(whole[:-500])
    assert refused(path).reason is Reason.TRUNCATED_PIXEL_DATA
    path.write_bytes(whole[:400] + bytes(random.Random(0).randbytes(500)))
    assert refused(path).reason in (Reason.UNREADABLE, Reason.TRUNCATED_PIXEL_DATA)


def _deflate(data):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def test_a_codestream_larger_than_the_header_says_is_not_decoded(tmp_path):
    ds = dicom_slice(pixels(1, 64, 64))
    path = save_compressed(ds, tmp_path / "bomb.dcm", JPEG2000Lossless)
    whole = bytearray(path.read_bytes())
    at = whole.index(b"\xff\x4f\xff\x51") + 8
    whole[at : at + 8] = struct.pack(">II", 60000, 60000)
    path.write_bytes(whole)
    outcome = refused(path)
    assert outcome.reason is Reason.DECODE_FAILED
    assert "60000×60000" in outcome.detail


def test_an_rle_frame_that_cannot_fill_its_rows_and_columns_is_refused(tmp_path):
    ds = dicom_slice(pixels(1, 64, 64))
    path = save_compressed(ds, tmp_path / "bomb.dcm", RLELossless)
    ds.Rows, ds.Columns = 8000, 8000
    assert refused(save_encapsulated(ds, path, RLELossless)).reason is Reason.DECODE_FAILED
    ds.Rows, ds.Columns = 60000, 60000
    assert refused(save_encapsulated(ds, path, RLELossless)).reason is Reason.TOO_LARGE


def test_garbage_in_place_of_a_codestream_has_a_reason(tmp_path):
    for syntax in (JPEGBaseline8Bit, JPEG2000, RLELossless):
        frame = random.Random(1).randbytes(200)
        path = save_encapsulated(dicom_slice(), tmp_path / "garbage.dcm", syntax, [frame])
        assert refused(path).reason is Reason.DECODE_FAILED


def test_sequences_nested_without_end_have_a_reason(tmp_path):
    depth = 400
    inner = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth
    path = save(dicom_slice(), tmp_path / "deep.dcm")
    whole = path.read_bytes()
    at = whole.index(b"\x10\x00\x10\x00PN")
    path.write_bytes(whole[:at] + inner + whole[at:])
    assert refused(path).reason is Reason.UNREADABLE


def test_a_bad_value_representation_or_charset_does_not_cost_the_image(tmp_path):
    ds = dicom_slice(SpecificCharacterSet="NONSENSE 99", SeriesDescription="x")
    path = save(ds, tmp_path / "odd.dcm")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"\x08\x00\x3e\x10LO", b"\x08\x00\x3e\x10FD", 1))
    assert isinstance(decode_file(path), Instance)


def test_random_damage_never_raises(tmp_path):
    generator = random.Random(5)
    ds = dicom_slice(pixels(1, 64, 64))
    wholes = [save(ds, tmp_path / "native.dcm").read_bytes()]
    wholes += [
        save_compressed(dicom_slice(pixels(1, 64, 64)), tmp_path / "c.dcm", syntax).read_bytes()
        for syntax in (RLELossless, JPEG2000Lossless)
    ]
    path = tmp_path / "damaged.dcm"
    for round_ in range(150):
        damaged = bytearray(wholes[round_ % len(wholes)])
        for _ in range(generator.randint(1, 12)):
            damaged[generator.randrange(132, len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        assert isinstance(decode_file(path), Instance | Refusal)


def test_a_file_that_is_not_dicom_is_unreadable(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK\3\4" + bytes(200))
    assert refused(path).reason is Reason.UNREADABLE
    path.write_bytes(b"")
    assert refused(path).reason is Reason.UNREADABLE


def test_a_file_that_is_gone_is_lost_and_not_unreadable(tmp_path):
    assert refused(tmp_path / "gone.dcm").reason is Reason.SPOOL_FILE_LOST


def test_the_header_hides_patient_data_from_representations(tmp_path):
    outcome = decode_file(save(dicom_slice(PatientID="SECRET-7"), tmp_path / "slice.dcm"))
    assert isinstance(outcome, Instance)
    assert outcome.header.PatientID == "SECRET-7"
    assert "SECRET-7" not in repr(outcome)


def test_lossy_frames_have_a_bitstream_hash_and_lossless_ones_do_not(tmp_path):
    ds = dicom_slice(pixels(1, 64, 64))
    path = save_compressed(ds, tmp_path / "lossless.dcm", JPEG2000Lossless)
    lossless = decode_file(path)
    save_encapsulated(ds, path, JPEG2000)
    lossy = decode_file(path)
    assert isinstance(lossless, Instance)
    assert isinstance(lossy, Instance)
    assert not lossless.header.lossy
    assert lossless.planes[0].bitstream is None
    assert lossy.header.lossy
    assert len(lossy.planes[0].bitstream) == 32


def test_constant_planes_are_marked(tmp_path):
    outcome = decode_file(save(dicom_slice(np.full((4, 4), 7, np.int16)), tmp_path / "flat.dcm"))
    assert isinstance(outcome, Instance)
    assert outcome.planes[0].constant


def test_float_pixel_data_are_an_image(tmp_path):
    values = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    ds = dicom_slice(SOPClassUID="1.2.840.10008.5.1.4.1.1.30", Rows=6, Columns=8)
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, keyword)
    ds.BitsAllocated = 32
    ds.FloatPixelData = values.tobytes()
    outcome = decode_file(save(ds, tmp_path / "map.dcm"))
    assert isinstance(outcome, Instance)
    assert (outcome.planes[0].stored == values).all()


def test_overlong_and_hostile_texts_are_bounded(tmp_path):
    ds = Dataset()
    ds.update(dicom_slice())
    ds.Modality = "CT"
    ds.PatientID = "x" * 9000 + "\x00\n"
    ds.ReferencedStudySequence = Sequence([Dataset()])
    ds.file_meta = FileMetaDataset()
    outcome = decode_file(save(ds, tmp_path / "long.dcm"))
    assert isinstance(outcome, Instance)
    assert len(outcome.header.PatientID) <= 1024
    assert "\n" not in outcome.header.PatientID


def test_what_the_object_says_it_shows_is_read_as_it_stands(tmp_path):
    told = save(dicom_slice(BodyPartExamined="CHEST ", Modality="ct"), tmp_path / "told.dcm")
    header = decode_file(told).header
    assert (header.Modality, header.BodyPartExamined) == ("CT", "CHEST")
    assert decode_file(save(dicom_slice(), tmp_path / "silent.dcm")).header.BodyPartExamined == ""
