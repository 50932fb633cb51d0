"""NIfTI, NRRD and MetaImage files in a decoder child: the planes, the geometry, and bad files."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
import time
import warnings

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_factory import dicom_slice, save, save_series
from diptych.errors import Reason
from diptych.evaluate.reading import read_itk, read_nifti
from diptych.judge.digest import case_digest
from diptych.volume.assemble import assemble
from diptych.volume.decoders import DecoderPool
from diptych.volume.instance import Instance, Refusal, decode_file
from diptych.volume.limits import Limits
from diptych.volume.orient import canonical_slices
from diptych.volume.plan import plan
from evaluate.volumes import body, save_itk, save_nifti


def stack_of(path, limits=None):
    outcome = decode_file(path, limits)
    assert isinstance(outcome, Instance), outcome
    (stack,) = plan([outcome]).stacks
    return stack


def refused(path, limits=None):
    outcome = decode_file(path, limits)
    assert isinstance(outcome, Refusal), outcome
    return outcome


def assert_as_evaluated(path, reading):
    """The daemon's path gives the case that the paper's protocol has."""
    stack = stack_of(path)
    ours, theirs = canonical_slices(assemble(stack)), canonical_slices(reading.volume)
    assert case_digest(stack.digests) == reading.digest
    assert np.array_equal(ours.array, theirs.array)
    assert (ours.valid is None) == (theirs.valid is None)
    assert ours.valid is None or np.array_equal(ours.valid, theirs.valid)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-6)
    np.testing.assert_allclose(ours.spacing, theirs.spacing, atol=1e-6)
    np.testing.assert_allclose(np.diff(ours.positions), np.diff(theirs.positions), atol=1e-4)
    assert ours.digests == theirs.digests
    assert ours.constant == theirs.constant
    assert (ours.geometry, ours.oriented) == (theirs.geometry, theirs.oriented)


def turned(x, y, z):
    cos, sin = np.cos(0.3), np.sin(0.3)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) * (x, y, z)
    affine[:3, 3] = 10, 20, -30
    return affine


AFFINES = {
    "LPS": np.diag([-1.0, -1.0, 1.5, 1.0]),
    "RAS": np.diag([0.7, 0.8, 3.0, 1.0]),
    "left-handed": np.diag([-1.0, 1.0, 2.0, 1.0]),
    "from head to feet": np.diag([1.0, 1.0, -2.0, 1.0]),
    "turned": turned(0.7, 0.8, 3.0),
    "sagittal": np.array([[0.0, 0, 3, 5], [1, 0, 0, 6], [0, 1, 0, 7], [0, 0, 0, 1]]),
    "of microscopy": np.diag([0.05, 0.05, 0.05, 1.0]),
}


@pytest.mark.parametrize("name", AFFINES)
def test_a_nifti_file_is_the_case_that_the_protocol_reads(tmp_path, name):
    path = save_nifti(tmp_path / "a.nii.gz", body(1), AFFINES[name])
    assert_as_evaluated(path, read_nifti(path))


@pytest.mark.parametrize("singular", [np.zeros((4, 4)), np.diag([1.0, 1.0, 0.0, 1.0])])
def test_an_affine_without_three_directions_leaves_the_order_of_the_file(tmp_path, singular):
    singular[3, 3] = 1.0
    image = nibabel.Nifti1Image(body(1).transpose(2, 1, 0), None)
    image.header.set_sform(singular, code=1)
    nibabel.save(image, tmp_path / "a.nii")
    assert_as_evaluated(tmp_path / "a.nii", read_nifti(tmp_path / "a.nii"))
    assert stack_of(tmp_path / "a.nii").geometry == "inferred"


def test_volumes_of_a_4d_file_are_told_apart_without_an_affine(tmp_path):
    series = np.stack([body(n, (5, 20, 18)) for n in range(4)])
    image = nibabel.Nifti1Image(series.T, None)
    image.header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
    nibabel.save(image, tmp_path / "a.nii")
    stack = stack_of(tmp_path / "a.nii")
    assert [len(frame) for frame in stack.frames] == [5] * 4
    assert np.array_equal(assemble(stack).array, series[0])


def test_slices_closer_than_a_position_can_be_told_are_not_taken_for_repeats(tmp_path):
    path = save_nifti(tmp_path / "a.nii", body(1), np.diag([0.005, 0.005, 0.005, 1.0]))
    stack = stack_of(path)
    assert len(stack.slices) == 12
    assert stack.notes == ("slices 0.005 mm apart: affine unused",)


def test_a_sheared_affine_is_a_tilted_gantry(tmp_path):
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    affine[1, 2] = 0.8
    path = save_nifti(tmp_path / "a.nii", body(1), affine)
    stack, reading = stack_of(path), read_nifti(path)
    assert stack.tilt_degrees == pytest.approx(-np.degrees(np.arctan2(0.8, 3.0)))
    np.testing.assert_allclose(assemble(stack).affine, reading.volume.affine, atol=1e-6)
    assert stack.spacing_mm == pytest.approx(3.0)


TYPES = ["uint8", "int8", "int16", "uint16", ">i2", "int32", "uint32", "float32", "float64", ">f4"]


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_value_has_the_digest_that_the_protocol_gives_it(tmp_path, kind):
    array = (np.abs(body(2)) % 120).astype(kind)
    header = nibabel.Nifti1Header(endianness=">" if kind.startswith(">") else "<")
    header.set_data_dtype(array.dtype)
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0), np.eye(4), header)
    nibabel.save(image, tmp_path / "a.nii")
    assert nibabel.load(tmp_path / "a.nii").get_data_dtype() == np.dtype(kind)
    assert_as_evaluated(tmp_path / "a.nii", read_nifti(tmp_path / "a.nii"))


@pytest.mark.parametrize("most", [2000, 2**40])
def test_eight_byte_integers_are_digested_as_four_where_they_fit(tmp_path, most):
    array = body(2).astype(np.int64)
    array[3, 4, 5] = most
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0), np.eye(4), dtype=np.int64)
    nibabel.save(image, tmp_path / "a.nii")
    assert_as_evaluated(tmp_path / "a.nii", read_nifti(tmp_path / "a.nii"))
    assert stack_of(tmp_path / "a.nii").planes[0].stored.dtype == (
        np.int32 if most < 2**31 else np.float64
    )


def test_values_that_are_not_finite_are_masked_and_slope_and_intercept_applied(tmp_path):
    array = body(3).astype(np.float32)
    array[2, 3:9, 4:9], array[5, 5, 5] = np.nan, np.inf
    path = save_nifti(tmp_path / "a.nii", array)
    assert_as_evaluated(path, read_nifti(path))
    image = nibabel.Nifti1Image(body(3).transpose(2, 1, 0), np.eye(4))
    image.header.set_slope_inter(0.37, -11.5)
    nibabel.save(image, tmp_path / "b.nii")
    assert_as_evaluated(tmp_path / "b.nii", read_nifti(tmp_path / "b.nii"))
    assert stack_of(tmp_path / "b.nii").planes[0].RescaleIntercept == -11.5


def test_values_that_only_their_sum_is_too_large_for_are_all_valid_without_a_warning(tmp_path):
    array = np.full((12, 40, 36), 3e38, np.float32)
    array[4] = -3e38
    stack = stack_of(save_nifti(tmp_path / "a.nii", array))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert assemble(stack).valid is None


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
@pytest.mark.parametrize("packed", [False, True])
def test_nrrd_and_metaimage_are_the_cases_that_the_protocol_reads(tmp_path, name, packed):
    image = sitk.GetImageFromArray(body(4))
    image.SetSpacing((0.7, 0.8, 3.0))
    image.SetOrigin((-10.0, 4.0, 99.0))
    image.SetDirection((0, 0, 1, 1, 0, 0, 0, -1, 0))
    sitk.WriteImage(image, str(tmp_path / name), packed)
    assert_as_evaluated(tmp_path / name, read_itk(tmp_path / name))


@pytest.mark.parametrize("suffix", [".hdr", ".hdr.gz"])
def test_a_pair_is_read_by_its_header(tmp_path, suffix):
    image = nibabel.Nifti1Pair(body(1).transpose(2, 1, 0), np.eye(4))
    nibabel.save(image, tmp_path / f"a{suffix}")
    path = tmp_path / f"a{suffix}"
    assert_as_evaluated(path, read_nifti(path))
    next(tmp_path.glob("a.img*")).unlink()
    assert refused(path).reason is Reason.NO_PIXEL_DATA


def test_nifti_2_and_every_packer_are_read_whatever_the_name(tmp_path):
    image = nibabel.Nifti2Image(body(1).transpose(2, 1, 0), np.diag([1.0, 1.0, 2.0, 1.0]))
    nibabel.save(image, tmp_path / "a.nii")
    raw = (tmp_path / "a.nii").read_bytes()
    whole = stack_of(tmp_path / "a.nii").digests
    for pack in (bytes, gzip.compress, bz2.compress, lzma.compress):
        (tmp_path / "scan").write_bytes(pack(raw))
        assert stack_of(tmp_path / "scan").digests == whole
    save_itk(tmp_path / "b.mha", body(1))
    (tmp_path / "scan").write_bytes((tmp_path / "b.mha").read_bytes())
    assert stack_of(tmp_path / "scan").digests == whole


def test_the_stored_values_of_a_dicom_series_are_the_same_case_in_a_nifti_file(tmp_path):
    planes = body(5).astype(np.int16)
    slices = [dicom_slice(plane, n, RescaleIntercept=-24) for n, plane in enumerate(planes, 1)]
    found = [decode_file(path) for path in save_series(tmp_path / "series", slices)]
    (series,) = plan(found).stacks
    affine = np.diag([-0.75, -0.5, 5.0, 1.0])
    affine[:3, 3] = 20, 30, 5
    image = nibabel.Nifti1Image(planes.transpose(2, 1, 0), affine)
    image.header.set_slope_inter(1.0, -24.0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    copy = stack_of(tmp_path / "a.nii.gz")
    assert case_digest(copy.digests) == case_digest(series.digests)
    assert copy.signature != series.signature  # (kind AXIAL): the signature is no evidence
    ours, theirs = assemble(copy), assemble(series)
    assert np.array_equal(ours.array, theirs.array)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-6)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.nrrd"])
def test_all_volumes_of_a_4d_file_are_digested_and_the_first_becomes_the_volume(tmp_path, name):
    series = np.stack([body(n, (5, 20, 18)) for n in range(7)])
    path = tmp_path / name
    if ".nii" in name:
        nibabel.save(nibabel.Nifti1Image(series.T, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    else:
        volumes = [sitk.GetImageFromArray(volume) for volume in series]
        sitk.WriteImage(sitk.JoinSeries(volumes), str(path))
    stack = stack_of(path)
    reading = read_nifti(path) if ".nii" in name else read_itk(path)
    assert [len(frame) for frame in stack.frames] == [5] * 7
    assert (stack.chosen, stack.frame_axis, stack.completeness) == (0, "TemporalPositionIndex", 1)
    ours, theirs = canonical_slices(assemble(stack)), canonical_slices(reading.volume)
    assert np.array_equal(ours.array, theirs.array)
    assert ours.digests == theirs.digests
    each = {stack_of(save_itk(tmp_path / "one.mha", volume)).digests for volume in series}
    assert sorted(stack.digests) == sorted(digest for digests in each for digest in digests)
    assert [plane.stored is None for plane in stack.planes] == [False] * 5 + [True] * 30


def test_a_list_of_values_at_every_voxel_of_an_nrrd_is_so_many_volumes(tmp_path):
    volumes = np.stack([body(n, (5, 20, 18)) for n in range(3)])
    header = (
        "NRRD0004\ntype: short\ndimension: 4\nspace: left-posterior-superior\n"
        "sizes: 3 18 20 5\nspace directions: none (1,0,0) (0,1,0) (0,0,2)\n"
        "kinds: list domain domain domain\nendian: little\nencoding: raw\n\n"
    )
    path = tmp_path / "dwi.nrrd"
    path.write_bytes(header.encode() + np.moveaxis(volumes, 0, -1).tobytes())
    stack = stack_of(path)
    assert [len(frame) for frame in stack.frames] == [5] * 3
    assert np.array_equal(assemble(stack).array, read_itk(path).volume.array)
    assert np.array_equal(assemble(stack).array, volumes[0])


def test_digests_alone_bring_no_pixels(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", body(1))
    outcome = decode_file(path, pixels=False)
    assert {plane.stored is None for plane in outcome.planes} == {True}
    assert tuple(p.digest for p in outcome.planes) == stack_of(path).digests


# what it is


def test_a_preamble_that_begins_another_format_is_still_dicom(tmp_path):
    path = save(dicom_slice(), tmp_path / "a.dcm")
    raw = path.read_bytes()
    for preamble in (b"NRRD0004\n", b"ObjectType = Image\nNDims = 3\nDimSize = 1\nElementType"):
        path.write_bytes(preamble.ljust(128, b"\n") + raw[128:])
        outcome = decode_file(path)
        assert isinstance(outcome, Instance)
        assert outcome.header.SOPInstanceUID


def test_a_metaimage_with_a_long_header_is_one(tmp_path):
    image = sitk.GetImageFromArray(body(1))
    for number in range(100):
        image.SetMetaData(f"0008|{number:04}", "a text that came with the series")
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    assert len(stack_of(tmp_path / "a.mha").slices) == 12


def test_a_child_that_gets_dicom_only_loads_neither_library(tmp_path):
    path = save(dicom_slice(), tmp_path / "a.dcm")
    program = (
        "import sys, pathlib, diptych.volume.child as child\n"
        "print(type(child.decode_file(pathlib.Path(sys.argv[1]))).__name__)\n"
        "print(*{'SimpleITK', 'nibabel'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "Instance\n\n"


# what BIDS says


def bids(root):
    path = root / "sub-07" / "ses-1" / "anat" / "sub-07_ses-1_T1w.nii.gz"
    save_nifti(path, body(1))
    return path


def test_sidecars_are_inherited_and_the_nearest_wins(tmp_path):
    path = bids(tmp_path / "set")
    assert decode_file(path).header.Modality == "MR"  # by its folder
    (tmp_path / "set" / "T1w.json").write_text('{"Modality": "XX", "BodyPartExamined": "head"}')
    (tmp_path / "set" / "T2w.json").write_text('{"Modality": "no"}')
    (tmp_path / "set" / "sub-07" / "sub-08_T1w.json").write_text('{"Modality": "no"}')
    header = decode_file(path).header
    assert (header.Modality, header.BodyPartExamined) == ("XX", "HEAD")
    (path.parent / "sub-07_T1w.json").write_text('{"Modality": "ct"}')
    (path.parent / "sub-07_ses-1_T1w.json").write_text('{"BodyPartExamined": "KNEE"}')
    header = decode_file(path).header
    assert (header.Modality, header.BodyPartExamined) == ("CT", "KNEE")


def test_a_subject_is_somebody_within_its_data_set_only(tmp_path):
    one, other = bids(tmp_path / "one"), bids(tmp_path / "other")
    assert decode_file(one).header.PatientID == "one/sub-07"
    assert decode_file(other).header.PatientID == "other/sub-07"
    (tmp_path / "other" / "dataset_description.json").write_text('{"Name": "one"}')
    assert decode_file(other).header.PatientID == "one/sub-07"
    assert "sub-07" not in repr(decode_file(other).header)
    alone = save_nifti(tmp_path / "scans" / "sub-07.nii", body(1))
    assert decode_file(alone).header.PatientID == ""


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"\xff", b'{"Modality": 7}', b"[" * 100_000, b" " * (2 << 20)]
)
def test_a_sidecar_that_cannot_be_read_says_nothing(tmp_path, content):
    path = save_nifti(tmp_path / "a.nii", body(1))
    (tmp_path / "a.json").write_bytes(content)
    assert decode_file(path).header.Modality == ""
    (tmp_path / "a.json").write_text(json.dumps({"Modality": "pt"}))
    assert decode_file(path).header.Modality == "PT"


def test_itk_says_the_modality_of_what_an_image_was_made_of(tmp_path):
    image = sitk.GetImageFromArray(body(1))
    image.SetMetaData("0008|0060", "CT")
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    assert decode_file(tmp_path / "a.nrrd").header.Modality == "CT"


# bad files


def nifti_bytes(array=None, **fields):
    """A single file with header fields overwritten, unchecked."""
    array = body(1, (4, 20, 18)) if array is None else array
    image = nibabel.Nifti1Image(array.T, np.eye(4))
    raw = bytearray(image.to_bytes())
    header = np.ndarray((), nibabel.Nifti1Header.template_dtype, raw)
    for name, value in fields.items():
        header[name] = value
    return bytes(raw)


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
BAD = {
    "flat": (nifti_bytes(body(1, (1, 20, 18))), Reason.UNSUPPORTED_PIXEL_FORMAT),
    "no array": (nifti_bytes(dim=[0] * 8), Reason.UNSUPPORTED_PIXEL_FORMAT),
    "negative": (nifti_bytes(dim=[4, 18, 20, 4, -1, 1, 1, 1]), Reason.UNSUPPORTED_PIXEL_FORMAT),
    "RGB": (nifti_bytes(np.zeros((4, 20, 18), RGB)), Reason.UNSUPPORTED_PIXEL_FORMAT),
    "complex": (
        nifti_bytes(np.zeros((4, 20, 18), np.complex64)),
        Reason.UNSUPPORTED_PIXEL_FORMAT,
    ),
    "vectors": (
        nifti_bytes(np.zeros((3, 1, 4, 20, 18), np.float32)),
        Reason.UNSUPPORTED_PIXEL_FORMAT,
    ),
    "bits": (nifti_bytes(datatype=1), Reason.UNREADABLE),
    "no type": (nifti_bytes(datatype=77), Reason.UNREADABLE),
    "offset": (nifti_bytes(vox_offset=3e38), Reason.TOO_LARGE),
    "offset is no number": (nifti_bytes(vox_offset=np.nan), Reason.UNREADABLE),
    "cut": (nifti_bytes()[:-1], Reason.TRUNCATED_PIXEL_DATA),
    "nothing but a header": (nifti_bytes()[:352], Reason.TRUNCATED_PIXEL_DATA),
    "huge": (nifti_bytes(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), Reason.TOO_LARGE),
    "many": (nifti_bytes(dim=[4, 1, 1, 32767, 32767, 1, 1, 1]), Reason.TOO_LARGE),
    "packed and cut": (gzip.compress(nifti_bytes())[:-500], Reason.TRUNCATED_PIXEL_DATA),
    "packed, another sum": (
        gzip.compress(nifti_bytes())[:-8] + bytes(8),
        Reason.DECODE_FAILED,
    ),
    "intercept": (nifti_bytes(scl_slope=1, scl_inter=np.inf), Reason.UNREADABLE),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_nifti_file_has_its_reason(tmp_path, name):
    content, reason = BAD[name]
    (tmp_path / "a.nii").write_bytes(content)
    assert refused(tmp_path / "a.nii").reason is reason


def test_an_extension_that_claims_to_be_long_is_not_asked_for(tmp_path):
    raw = nifti_bytes()
    extended = raw[:348] + b"\1\0\0\0" + (2**31 - 16).to_bytes(4, "little") + raw[356:]
    (tmp_path / "a.nii").write_bytes(extended)
    assert len(stack_of(tmp_path / "a.nii").slices) == 4


def nrrd(sizes="18 20 4", extra="", kind="short", encoding="raw", values=b""):
    dimension = len(sizes.split())
    return (
        f"NRRD0004\ntype: {kind}\ndimension: {dimension}\nsizes: {sizes}\n{extra}endian: little\n"
        f"encoding: {encoding}\n\n"
    ).encode() + (values or bytes(2 * 18 * 20 * 4))


def meta(size="18 20 4", kind="MET_SHORT", data="LOCAL", extra="", values=b""):
    return (
        f"ObjectType = Image\nNDims = {len(size.split())}\n{extra}DimSize = {size}\n"
        f"ElementType = {kind}\nElementDataFile = {data}\n"
    ).encode() + (values or bytes(2 * 18 * 20 * 4))


BAD_ITK = {
    "cut nrrd": (nrrd()[:-1], Reason.TRUNCATED_PIXEL_DATA),
    "cut meta": (meta()[:-1], Reason.TRUNCATED_PIXEL_DATA),
    "flat": (meta("18 80", values=bytes(2880)), Reason.UNSUPPORTED_PIXEL_FORMAT),
    "huge nrrd": (nrrd("90000 90000 90000"), Reason.TOO_LARGE),
    "huge meta": (meta("30000 30000 30000"), Reason.TOO_LARGE),
    "colour": (
        meta(extra="ElementNumberOfChannels = 3\n", values=bytes(6 * 1440)),
        Reason.UNSUPPORTED_PIXEL_FORMAT,
    ),
    "outside": (nrrd(extra="data file: ../secret.raw\n"), Reason.UNREADABLE),
    "outside, absolute": (nrrd(extra="Data File: /etc/passwd\n"), Reason.UNREADABLE),
    "outside, a list": (nrrd(extra="data file: LIST\n/etc/passwd\n"), Reason.UNREADABLE),
    "outside meta": (meta(data="../secret.raw"), Reason.UNREADABLE),
    "outside meta, a list": (meta(data="LIST\n/etc/passwd\n/etc/passwd"), Reason.UNREADABLE),
    "missing": (meta(data="missing.raw"), Reason.NO_PIXEL_DATA),
    "missing nrrd": (nrrd(extra="data file: missing.raw\n"), Reason.NO_PIXEL_DATA),
    "endless": (b"NRRD0004\n" + b"# nothing\n" * 200_000, Reason.UNREADABLE),
    "packed, but not so": (nrrd(encoding="bzip2"), Reason.DECODE_FAILED),
}


@pytest.mark.parametrize("name", BAD_ITK)
def test_a_bad_nrrd_or_metaimage_has_its_reason(tmp_path, name):
    content, reason = BAD_ITK[name]
    (tmp_path / "secret.raw").write_bytes(bytes(2 * 18 * 20 * 4))
    path = tmp_path / "folder" / "a.mha"
    path.parent.mkdir()
    path.write_bytes(content)
    found = refused(path)
    assert found.reason is reason
    assert "secret" not in found.detail


def test_values_in_the_header_s_folder_are_read(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.raw").write_bytes(body(1, (4, 20, 18)).tobytes())
    (tmp_path / "a.nhdr").write_bytes(nrrd(extra="data file: sub/a.raw\n"))
    (tmp_path / "a.mhd").write_bytes(meta(data="sub/a.raw"))
    assert np.array_equal(assemble(stack_of(tmp_path / "a.nhdr")).array, body(1, (4, 20, 18)))
    assert stack_of(tmp_path / "a.nhdr").digests == stack_of(tmp_path / "a.mhd").digests


def test_a_bomb_ends_in_bounded_memory_and_time(tmp_path):
    # 60 MB packed to 60 kB; its header claims 1.9 GB of one volume, or 17 volumes of it.
    one = nifti_bytes(dim=[3, 8000, 8000, 4, 1, 1, 1, 1], datatype=64, bitpix=64)[:352]
    (tmp_path / "one.nii.gz").write_bytes(gzip.compress(one + bytes(60_000_000)))
    (tmp_path / "nrrd").write_bytes(nrrd("6000 6000 7", kind="double"))
    (tmp_path / "meta").write_bytes(meta("6000 6000 7", "MET_DOUBLE"))
    (tmp_path / "good.nii").write_bytes(nifti_bytes())
    names = ["one.nii.gz", "nrrd", "meta", "good.nii"]
    begun = time.monotonic()
    with DecoderPool(memory_bytes=2**31, seconds_per_instance=20) as pool:
        found = list(pool.decode([tmp_path / name for name in names]))
    assert [type(outcome).__name__ for outcome in found] == ["Refusal"] * 3 + ["Instance"]
    assert {outcome.reason for outcome in found[:3]} <= {
        Reason.TOO_LARGE, Reason.TRUNCATED_PIXEL_DATA,
    }  # fmt: skip
    assert time.monotonic() - begun < 30


def test_a_packed_series_larger_than_the_memory_is_read_volume_by_volume(tmp_path):
    # 1 GB of float64 in a child that may have 0.75 GiB of addresses with its libraries.
    head = nifti_bytes(dim=[4, 256, 256, 16, 120, 1, 1, 1], datatype=64, bitpix=64)[:352]
    volume = gzip.compress(np.ones(2**20).tobytes(), 1)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(head) + 120 * volume)
    with DecoderPool(memory_bytes=3 * 2**28) as pool:
        (outcome,) = pool.decode([tmp_path / "a.nii.gz"])
    assert isinstance(outcome, Instance), outcome
    assert len(outcome.planes) == 120 * 16
    assert sum(plane.stored is not None for plane in outcome.planes) == 16


SEEDS = {
    "nii": nifti_bytes(), "nii.gz": gzip.compress(nifti_bytes()), "nrrd": nrrd(), "mha": meta(),
}  # fmt: skip


@pytest.fixture(scope="module")
def pool():
    with DecoderPool(memory_bytes=2**31, seconds_per_instance=20) as made:
        yield made


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(sorted(SEEDS)),
    changes=st.lists(st.tuples(st.integers(0, 420), st.integers(0, 255)), max_size=8),
    length=st.none() | st.integers(0, 3000),
)
def test_a_damaged_file_is_an_image_or_a_refusal_and_the_next_one_is_read(
    tmp_path, pool, name, changes, length
):
    raw = bytearray(SEEDS[name][:length])
    for place, value in changes:
        if place < len(raw):
            raw[place] = value
    (tmp_path / "bad").write_bytes(raw)
    (tmp_path / "good").write_bytes(SEEDS["nii"])
    outcome, good = pool.decode([tmp_path / "bad", tmp_path / "good"])
    assert isinstance(good, Instance)
    assert isinstance(outcome, Instance) or outcome.reason in Reason
    if isinstance(outcome, Instance):
        for stack in plan([outcome]).stacks:
            assemble(stack)


def test_the_limits_of_the_caller_hold(tmp_path):
    path = save_nifti(tmp_path / "a.nii", body(1))
    assert refused(path, Limits(max_samples=1000)).reason is Reason.TOO_LARGE
    assert refused(path, Limits(max_planes=11)).reason is Reason.TOO_LARGE
    assert refused(path, Limits(max_digested=1000)).reason is Reason.TOO_LARGE
    assert refused(path, Limits(max_side=39)).reason is Reason.TOO_LARGE
