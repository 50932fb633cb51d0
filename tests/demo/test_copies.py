"""Copies: what must change changes, what must not does not, and the original is left alone."""

from __future__ import annotations

import copy
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless
from scipy import ndimage

from diptych.demo.copies import (
    COPIES,
    EMPTIED,
    REMOVED,
    deidentified,
    lossless_j2k,
    new_uids,
    resend,
    rotated_noisy,
)
from diptych.demo.phantoms import Recipe, generate
from diptych.demo.series import phantom_series, write_series
from diptych.demo.shipped import shipped

IDENTITIES = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")


@pytest.fixture(scope="module")
def series():
    return phantom_series(generate(Recipe("test", "abdomen", 3, (9, 96, 80), (4.0, 3.0, 3.0))))


def values(instances, keyword):
    return [instance[keyword].value for instance in instances]


def read_back(instance):
    file = BytesIO()
    dcmwrite(file, instance, enforce_file_format=True)
    file.seek(0)
    return dcmread(file)


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_deterministic_and_leaves_the_original_alone(series, name):
    before = copy.deepcopy(series)
    first, again = COPIES[name](series, 4), COPIES[name](series, 4)
    assert series == before
    assert [read_back(instance) for instance in first] == [read_back(one) for one in again]
    assert len(first) == len(series)


def test_a_resend_is_identical(series):
    assert resend(series) == series


def test_new_uids_are_new_consistent_and_leave_classes_alone(series):
    series = resend(series)
    reference = Dataset()
    reference.ReferencedSOPClassUID = CTImageStorage
    reference.ReferencedSOPInstanceUID = series[1].SOPInstanceUID
    series[0].ReferencedImageSequence = Sequence([reference])
    copies = new_uids(series, 1)
    for keyword in IDENTITIES:
        assert not set(values(series, keyword)) & set(values(copies, keyword))
        assert len(set(values(series, keyword))) == len(set(values(copies, keyword)))
    told = copies[0].ReferencedImageSequence[0]
    assert told.ReferencedSOPInstanceUID == copies[1].SOPInstanceUID
    assert told.ReferencedSOPClassUID == copies[0].SOPClassUID == CTImageStorage
    assert copies[0].file_meta.MediaStorageSOPInstanceUID == copies[0].SOPInstanceUID
    assert copies[0].file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert new_uids(series, 2)[0].SOPInstanceUID != copies[0].SOPInstanceUID


def test_a_new_series_may_stay_in_its_study(series):
    copies = new_uids(series, 1, study=False)
    for keyword in IDENTITIES[:2]:
        assert not set(values(series, keyword)) & set(values(copies, keyword))
    for keyword in IDENTITIES[2:]:
        assert values(series, keyword) == values(copies, keyword)


def test_a_deidentified_copy_keeps_pixels_and_geometry_and_nothing_else(series):
    copies = deidentified(series, 7)
    text = " ".join(str(instance) for instance in copies)
    for keyword in ("PatientName", "PatientID", "InstitutionName", "AccessionNumber", *IDENTITIES):
        assert str(series[0][keyword].value) not in text
    for instance in copies:
        assert not any(element.tag.is_private for element in instance.iterall())
        assert not any(keyword in instance for keyword in REMOVED)
        assert not any(instance.get(keyword) for keyword in EMPTIED)
        assert instance.PatientIdentityRemoved == "YES"
        read_back(instance)
    assert values(copies, "InstanceNumber") != values(series, "InstanceNumber")
    by_place = {tuple(instance.ImagePositionPatient): instance for instance in copies}
    for instance in series:
        twin = by_place[tuple(instance.ImagePositionPatient)]
        assert twin.PixelData == instance.PixelData
        assert twin.ImageOrientationPatient == instance.ImageOrientationPatient


def test_lossless_jpeg_2000_decodes_to_the_same_pixels(series):
    signed = write_series(
        np.random.default_rng(0).integers(-3000, 3000, (2, 40, 48)).astype(np.int16),
        np.eye(4), "MR", "signed",
    )  # fmt: skip
    real = [item.series for item in shipped()]
    for original in (series, signed, *real):
        copies = [read_back(instance) for instance in lossless_j2k(original, 2)]
        for before, after in zip(original, copies, strict=True):
            assert after.file_meta.TransferSyntaxUID == JPEG2000Lossless
            assert np.array_equal(before.pixel_array, after.pixel_array)
            assert after.SOPInstanceUID != before.SOPInstanceUID
            assert after.SeriesInstanceUID != before.SeriesInstanceUID
            assert after.StudyInstanceUID == before.StudyInstanceUID


def test_a_rotated_noisy_copy_is_turned_by_the_angle_and_noisy_by_the_amount(series):
    copies = [read_back(instance) for instance in rotated_noisy(series, 3, degrees=5, noise=0.02)]
    planes = np.array([instance.pixel_array for instance in series], dtype=np.float32)
    found = np.array([instance.pixel_array for instance in copies], dtype=np.float32)
    low, spread = planes.min(), planes.max() - planes.min()
    turned = ndimage.rotate(planes, 5, axes=(2, 1), reshape=False, order=1, cval=low)
    body = turned > low + 0.2 * spread  # where noise cannot be clipped at 0
    assert (found - turned)[body].std() == pytest.approx(0.02 * spread, rel=0.05)
    assert abs((found - turned)[body].mean()) < 0.001 * spread
    assert found.max() <= 4095
    assert not set(values(series, "StudyInstanceUID")) & set(values(copies, "StudyInstanceUID"))
    assert values(copies, "ImagePositionPatient") == values(series, "ImagePositionPatient")


def test_a_compressed_and_a_signed_series_can_be_rotated():
    for item in shipped():
        copies = rotated_noisy(item.series, 3)
        after = read_back(copies[0])
        assert not after.file_meta.TransferSyntaxUID.is_compressed
        assert after.pixel_array.shape == item.series[0].pixel_array.shape
        correlation = np.corrcoef(
            after.pixel_array.ravel(), item.series[0].pixel_array.astype(float).ravel()
        )[0, 1]
        assert 0.5 < correlation < 0.9999, item.name


def test_colour_is_not_rotated(series):
    colour = resend(series)
    colour[0].SamplesPerPixel = 3
    with pytest.raises(ValueError, match="monochrome"):
        rotated_noisy(colour, 1)
