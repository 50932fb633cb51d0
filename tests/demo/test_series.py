"""Volumes as DICOM series: what a reader rebuilds is what was written."""

from __future__ import annotations

from io import BytesIO

import highdicom
import nibabel
import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.pixels import apply_rescale

from diptych.demo.phantoms import DEMO, Recipe, generate
from diptych.demo.series import phantom_series, uid, write_series
from diptych.demo.shipped import NIBABEL_FILES, PYDICOM_FILES, _nibabel, shipped

CT = Recipe("test-ct", "abdomen", 3, (12, 96, 80), (4.0, 3.0, 3.0))
MR = Recipe("test-mr", "head", 3, (10, 64, 64), (3.5, 2.5, 2.5))


def through_a_file(series):
    read = []
    for instance in series:
        file = BytesIO()
        dcmwrite(file, instance, enforce_file_format=True)
        file.seek(0)
        read.append(dcmread(file))
    return read


@pytest.mark.parametrize("recipe", [CT, MR])
def test_highdicom_rebuilds_the_volume_that_was_written(recipe):
    phantom = generate(recipe)
    series = through_a_file(phantom_series(phantom))
    volume = highdicom.get_volume_from_series(series, dtype=np.float32).to_patient_orientation(
        "HPL"
    )
    assert np.array_equal(volume.array, phantom.pixels.astype(np.float32))
    assert np.allclose(volume.affine, phantom.affine, atol=1e-6)


def test_a_ct_stores_twelve_unsigned_bits_with_an_intercept():
    phantom = generate(CT)
    instance = through_a_file(phantom_series(phantom))[3]
    assert (instance.BitsStored, instance.PixelRepresentation) == (12, 0)
    assert instance.pixel_array.min() >= 0
    assert np.array_equal(apply_rescale(instance.pixel_array, instance), phantom.pixels[3])


def test_negative_mr_values_are_stored_signed():
    pixels = np.arange(-500, 500, dtype=np.int16).reshape(4, 10, 25)
    series = through_a_file(write_series(pixels, np.eye(4), "MR", "signed"))
    assert np.array_equal([instance.pixel_array for instance in series], pixels)


def test_uids_are_valid_and_depend_on_name_and_seed_alone():
    phantom = generate(MR)
    one, again, other = (phantom_series(phantom, seed) for seed in (0, 0, 1))
    sop = [instance.SOPInstanceUID for instance in one]
    assert len(set(sop)) == len(sop)
    assert all(value.is_valid for value in sop)
    assert sop == [instance.SOPInstanceUID for instance in again]
    assert one == again
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"):
        assert one[0][keyword].value != other[0][keyword].value
    assert uid("a", "b") != uid("ab")


def test_the_demo_has_eight_different_studies():
    assert len({recipe.name for recipe in DEMO}) == len(DEMO) == 8
    assert len({(recipe.kind, recipe.seed) for recipe in DEMO}) == 8


@pytest.mark.parametrize(
    ("pixels", "affine", "modality", "words"),
    [
        (np.zeros((2, 4, 4), np.int32), np.eye(4), "MR", "must be int16"),
        (np.zeros((4, 4), np.int16), np.eye(4), "MR", "must be int16"),
        (np.full((2, 4, 4), -2000, np.int16), np.eye(4), "CT", r"\[-1024, 3071\]"),
        (np.zeros((2, 4, 4), np.int16), np.eye(4) + np.eye(4, k=1), "MR", "right angles"),
    ],
)
def test_impossible_volumes_are_refused(pixels, affine, modality, words):
    with pytest.raises(ValueError, match=words):
        write_series(pixels, affine, modality, "impossible")


@pytest.mark.parametrize("name", NIBABEL_FILES)
def test_a_nifti_voxel_keeps_its_place_in_the_patient(name):
    found = next(item for item in shipped() if item.name == name)
    image = nibabel.load(_nibabel(name))
    volume = highdicom.get_volume_from_series(through_a_file(found.series), dtype=np.float32)
    values = np.asanyarray(image.dataobj)
    values = values[..., 0] if values.ndim == 4 else values
    assert volume.array.size == values.size
    ras_of_lps = np.diag([-1, -1, 1, 1])
    to_ijk = np.linalg.inv(image.affine) @ ras_of_lps @ volume.affine
    index = np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), -1)
    ijk = index @ to_ijk[:3, :3].T + to_ijk[:3, 3]
    assert np.abs(ijk - np.rint(ijk)).max() < 1e-2
    i, j, k = np.moveaxis(np.rint(ijk).astype(int), -1, 0)
    assert np.array_equal(values[i, j, k], volume.array)


def test_nifti_rows_run_to_the_back_and_columns_to_the_left():
    for item in shipped():
        if item.name in NIBABEL_FILES:
            across, down = np.reshape(item.series[0].ImageOrientationPatient, (2, 3))
            assert across[0] > 0.9
            assert down[1] > 0.9


def test_every_shipped_file_is_there_and_holds_an_image():
    found = {item.name: item.series for item in shipped()}
    assert list(found) == [*PYDICOM_FILES, *NIBABEL_FILES]
    for series in found.values():
        for instance in series:
            assert instance.pixel_array.std() > 0
    assert [len(found[name]) for name in NIBABEL_FILES] == [24, 25]
