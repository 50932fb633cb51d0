"""The exact tier: what a digest survives and what it must notice."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from dicom_factory import dicom_slice, pixels, save, save_compressed
from diptych.judge.digest import (
    case_digest,
    collision_parts,
    plane_digest,
    planes_in_common,
)
from diptych.volume.instance import Instance, decode_file

NATIVE = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
COMPRESSED = (JPEG2000Lossless, JPEGLSLossless, RLELossless)


def decoded(path):
    outcome = decode_file(path)
    assert isinstance(outcome, Instance), outcome
    return outcome


@pytest.mark.parametrize("syntax", NATIVE + COMPRESSED, ids=lambda uid: uid.name)
@pytest.mark.parametrize(
    ("dtype", "bits"), [(np.int16, 16), (np.int16, 12), (np.uint16, 12), (np.uint8, 8)]
)
def test_a_lossless_transfer_syntax_does_not_change_the_plane_digest(tmp_path, syntax, dtype, bits):
    low = -(1 << (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    stored = np.random.default_rng(3).integers(low, low + (1 << bits), (64, 48)).astype(dtype)
    ds = dicom_slice(stored, BitsStored=bits, HighBit=bits - 1)
    write = save if syntax in NATIVE else save_compressed
    (plane,) = decoded(write(ds, tmp_path / "slice.dcm", syntax)).planes
    assert plane.digest == plane_digest(stored, 64, 48)
    assert (plane.stored == stored).all()


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda uid: uid.name)
def test_lossless_colour_does_not_change_the_plane_digest(tmp_path, syntax):
    stored = np.random.default_rng(4).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    path = save_compressed(dicom_slice(stored), tmp_path / "slice.dcm", syntax)
    assert decoded(path).planes[0].digest == plane_digest(stored, 48, 64, 3)


def test_planar_configuration_does_not_change_the_plane_digest(tmp_path):
    stored = np.random.default_rng(4).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    ds = dicom_slice(stored, PlanarConfiguration=1)
    ds.PixelData = np.ascontiguousarray(stored.transpose(2, 0, 1)).tobytes()
    (plane,) = decoded(save(ds, tmp_path / "slice.dcm")).planes
    assert plane.digest == plane_digest(stored, 48, 64, 3)


def test_the_width_in_which_values_are_held_does_not_matter():
    values = pixels(1)
    assert plane_digest(values, 12, 10) == plane_digest(values.astype(np.int32), 12, 10)


def test_one_changed_pixel_changes_the_digest():
    values = pixels(1)
    changed = values.copy()
    changed[5, 5] += 1
    assert plane_digest(values, 12, 10) != plane_digest(changed, 12, 10)


def test_the_shape_is_part_of_the_digest():
    values = np.zeros((4, 6), np.int16)
    assert plane_digest(values, 4, 6) != plane_digest(values.reshape(6, 4), 6, 4)


def test_float_values_have_a_header_of_their_own():
    whole = np.zeros((4, 6), np.int32)
    digests = {plane_digest(whole.astype(kind), 4, 6) for kind in (np.int32, "f4", "f8")}
    assert len(digests) == 3


def test_a_shape_that_contradicts_the_header_is_refused():
    with pytest.raises(ValueError):
        plane_digest(np.zeros((4, 6), np.int16), 6, 4)


def test_the_digest_of_a_known_plane_never_changes():
    # A stored archive depends on it: a change here needs a new DIGEST_VERSION.
    plane = plane_digest(np.arange(6, dtype=np.int16).reshape(2, 3), 2, 3)
    assert plane.hex() == KNOWN_PLANE
    assert case_digest([plane, plane]).hex() == KNOWN_CASE


def test_the_case_digest_ignores_order_and_counts_repeats():
    planes = [plane_digest(pixels(n), 12, 10) for n in range(5)]
    assert case_digest(planes) == case_digest(planes[::-1])
    assert case_digest(planes) != case_digest([*planes, planes[0]])
    with pytest.raises(ValueError):
        case_digest([])


def test_planes_in_common_are_counted_with_repeats_and_without_constant_ones():
    a, b, c, blank = (bytes([n]) * 32 for n in range(4))
    shared = planes_in_common([a, a, b, blank], [a, b, c, blank, blank], constant=[blank])
    assert (shared.common, shared.ours, shared.theirs) == (2, 3, 3)
    assert not shared.exact
    assert planes_in_common([a, b], [b, a]).exact
    assert not planes_in_common([blank], [blank], constant=[blank]).exact


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"PatientName": "Roe^Jane"}, {"identity"}),
        ({"AccessionNumber": "77"}, {"identity"}),
        ({"SeriesDescription": "other"}, {"other"}),
        ({}, set()),
    ],
)
def test_a_collision_says_which_part_of_the_header_differs(tmp_path, change, part):
    one = decoded(save(dicom_slice(SOPInstanceUID="1.2.3"), tmp_path / "one.dcm"))
    other = decoded(save(dicom_slice(SOPInstanceUID="1.2.3", **change), tmp_path / "other.dcm"))
    planes = [plane.digest for plane in one.planes]
    assert collision_parts(one.header, planes, other.header, planes) == part


def test_a_collision_sees_pixels_and_private_tags(tmp_path):
    changed = dicom_slice(pixels(9), SOPInstanceUID="1.2.3")
    changed.private_block(0x0009, "DIPTYCH TEST", create=True).add_new(1, "LO", "x")
    one = decoded(save(dicom_slice(SOPInstanceUID="1.2.3"), tmp_path / "one.dcm"))
    other = decoded(save(changed, tmp_path / "other.dcm"))
    found = collision_parts(
        one.header,
        [plane.digest for plane in one.planes],
        other.header,
        [plane.digest for plane in other.planes],
    )
    assert found == {"pixels", "private"}


@pytest.mark.parametrize("syntax", NATIVE[1:] + COMPRESSED, ids=lambda uid: uid.name)
def test_another_encoding_of_one_instance_differs_in_no_part(tmp_path, syntax):
    ds = dicom_slice(pixels(1, 64, 64), SOPInstanceUID="1.2.3")
    one = decoded(save(ds, tmp_path / "one.dcm"))
    write = save if syntax in NATIVE else save_compressed
    ds = dicom_slice(pixels(1, 64, 64), SOPInstanceUID="1.2.3")
    path = write(ds, tmp_path / "other.dcm", syntax)
    other = decoded(path)
    assert not collision_parts(
        one.header,
        [plane.digest for plane in one.planes],
        other.header,
        [plane.digest for plane in other.planes],
    )


KNOWN_PLANE = "109991d391c608cf07d2e5cca243163b90ae6d752eaf7148f53eadbdf767db34"
KNOWN_CASE = "12150ec03a108146be2d25ce365c74939a6288884dac792fc694ad5fcb99ad17"
