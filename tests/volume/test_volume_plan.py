"""Which instances form a stack, in which order, and how odd series are said to be odd."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dicom_factory import SAGITTAL, dicom_slice, enhanced_mr, pixels
from diptych.judge.digest import case_digest


def z_of(stack):
    return [plane.ImagePositionPatient[2] for plane in stack.slices]


def test_slices_are_ordered_by_position_and_not_by_instance_number(planned):
    slices = [dicom_slice(number=n, InstanceNumber=100 - n) for n in range(1, 8)]
    random.Random(0).shuffle(slices)
    (stack,) = planned(slices).stacks
    assert z_of(stack) == [5.0 * n for n in range(1, 8)]
    assert stack.geometry == "known"
    assert stack.completeness == 1
    assert stack.spacing_mm == pytest.approx(5.0)


def test_a_localizer_another_orientation_another_size_and_another_spacing_are_stacks_apart(planned):
    slices = [dicom_slice(number=n) for n in (1, 2, 3)]
    slices.append(dicom_slice(number=4, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    slices.append(dicom_slice(number=5, ImageOrientationPatient=list(SAGITTAL)))
    slices.append(dicom_slice(pixels(6, 20, 20), number=6))
    slices.append(dicom_slice(number=7, PixelSpacing=[0.9, 0.9]))
    stacks = planned(slices).stacks
    assert sorted(len(stack.planes) for stack in stacks) == [1, 1, 1, 1, 3]
    assert len({stack.signature for stack in stacks}) == 5


def test_echoes_at_the_same_positions_are_stacks_apart(planned):
    slices = [
        dicom_slice(pixels(10 * echo + n), number=n, EchoTime=float(echo), Modality="MR")
        for n in (1, 2, 3)
        for echo in (10, 80)
    ]
    assert [len(stack.slices) for stack in planned(slices).stacks] == [3, 3]


def test_an_image_type_that_alternates_from_slice_to_slice_does_not_tear_a_volume(planned):
    kinds = (["ORIGINAL", "PRIMARY", "AXIAL", "ADD"], ["ORIGINAL", "PRIMARY", "AXIAL"])
    slices = [dicom_slice(number=n, ImageType=kinds[n % 2]) for n in range(1, 7)]
    (stack,) = planned(slices).stacks
    assert len(stack.slices) == 6


def test_an_acquisition_number_per_slice_does_not_tear_a_volume(planned):
    slices = [dicom_slice(number=n, AcquisitionNumber=n) for n in range(1, 7)]
    (stack,) = planned(slices).stacks
    assert len(stack.slices) == 6


def test_two_acquisitions_that_overlap_without_being_time_points_are_stacks_apart(planned):
    first = [dicom_slice(number=n, AcquisitionNumber=1) for n in range(1, 9)]
    second = [dicom_slice(pixels(50 + n), number=n, AcquisitionNumber=2) for n in range(3, 7)]
    stacks = planned(first + second).stacks
    assert sorted(len(stack.slices) for stack in stacks) == [4, 8]


@pytest.mark.parametrize(
    "axis", ["TemporalPositionIdentifier", "TriggerTime", "DiffusionBValue", "AcquisitionNumber"]
)
def test_a_4d_series_is_one_stack_with_frames_all_digested_and_the_first_one_chosen(planned, axis):
    slices = [
        dicom_slice(pixels(100 * time + n), number=n, **{axis: 10 * time})
        for time in (1, 2, 3)
        for n in (1, 2, 3, 4)
    ]
    random.Random(1).shuffle(slices)
    (stack,) = planned(slices).stacks
    assert [len(frame) for frame in stack.frames] == [4, 4, 4]
    assert len(stack.digests) == 12
    expected = [pixels(100 + n) for n in (1, 2, 3, 4)]
    assert all((p.stored == e).all() for p, e in zip(stack.slices, expected, strict=True))


def test_of_a_4d_series_the_first_complete_frame_is_chosen(planned):
    slices = [
        dicom_slice(pixels(100 * time + n), number=n, TemporalPositionIdentifier=time)
        for time in (1, 2, 3)
        for n in (1, 2, 3, 4)
        if (time, n) != (1, 2)
    ]
    (stack,) = planned(slices).stacks
    assert stack.chosen == 1
    assert stack.completeness == 1


def test_a_repeated_slice_is_set_aside_but_stays_in_the_digests(planned):
    slices = [dicom_slice(number=n) for n in (1, 2, 3)] + [dicom_slice(number=2, InstanceNumber=9)]
    (stack,) = planned(slices).stacks
    assert len(stack.slices) == 3
    assert len(stack.repeats) == 1
    assert len(stack.digests) == 4


def test_different_pixels_at_one_position_are_never_dropped(planned):
    slices = [dicom_slice(number=n) for n in (1, 2, 3)] + [dicom_slice(pixels(77), number=2)]
    (stack,) = planned(slices).stacks
    assert len(stack.digests) == 4
    assert len(stack.frames) == 2


def test_one_sop_instance_uid_with_the_same_pixels_is_one_instance(planned):
    slices = [dicom_slice(number=n, SOPInstanceUID=f"1.2.{n}") for n in (1, 2, 1)]
    found = planned(slices)
    assert found.collapsed == 1
    assert found.collisions == ()
    assert len(found.stacks[0].digests) == 2


def test_of_two_headers_over_the_same_pixels_the_newest_stays_and_the_older_is_named(planned):
    slices = [dicom_slice(SOPInstanceUID="1.2.1", PatientID=name) for name in ("OLD", "NEW")]
    found = planned(slices)
    ((older, newer),) = found.superseded
    assert (older.PatientID, newer.PatientID) == ("OLD", "NEW")
    assert found.stacks[0].header.PatientID == "NEW"


def test_one_sop_instance_uid_with_other_pixels_keeps_both(planned):
    slices = [dicom_slice(number=n, SOPInstanceUID=f"1.2.{n}") for n in (1, 2)]
    slices.append(dicom_slice(pixels(50), number=2, SOPInstanceUID="1.2.2"))
    found = planned(slices)
    assert found.collisions == ("1.2.2",)
    assert len(found.stacks[0].digests) == 3


def test_gaps_are_kept_and_counted(planned):
    (stack,) = planned([dicom_slice(number=n) for n in (1, 2, 3, 6, 7, 8, 9)]).stacks
    (gap,) = stack.gaps
    assert (gap.after, gap.missing, gap.mm) == (2, 2, pytest.approx(15.0))
    assert stack.completeness == pytest.approx(7 / 9)


def test_thick_slices_after_thin_ones_are_no_gap(planned):
    positions = [4.0 * n for n in range(8)] + [28.0 + 8.0 * n for n in range(1, 5)]
    slices = [
        dicom_slice(
            pixels(i),
            ImagePositionPatient=[0.0, 0.0, z],
            SliceThickness=4.0 if i < 8 else 8.0,
        )
        for i, z in enumerate(positions)
    ]
    (stack,) = planned(slices).stacks
    assert stack.gaps == ()
    assert "irregular spacing" in stack.notes


def test_a_tilted_gantry_is_recorded_and_slices_stay(planned):
    shift = 5.0 * np.tan(np.radians(18.5))
    slices = [
        dicom_slice(number=n, ImagePositionPatient=[0.0, shift * n, 5.0 * n]) for n in range(1, 6)
    ]
    (stack,) = planned(slices).stacks
    assert stack.tilt_degrees == pytest.approx(18.5)
    assert len(stack.slices) == 5


def test_without_positions_slice_location_orders_and_geometry_is_inferred(planned):
    slices = [
        dicom_slice(number=n, InstanceNumber=20 - n, SliceLocation=2.0 * n) for n in (3, 1, 4, 2)
    ]
    for ds in slices:
        del ds.ImagePositionPatient
    (stack,) = planned(slices).stacks
    assert [plane.SliceLocation for plane in stack.slices] == [2.0, 4.0, 6.0, 8.0]
    assert stack.geometry == "inferred"
    assert stack.spacing_mm == pytest.approx(2.0)


def test_without_any_position_the_instance_number_orders(planned):
    slices = [dicom_slice(number=n) for n in (3, 1, 10, 2)]
    for ds in slices:
        del ds.ImagePositionPatient
        del ds.ImageOrientationPatient
    (stack,) = planned(slices).stacks
    assert [plane.InstanceNumber for plane in stack.slices] == [1, 2, 3, 10]
    assert stack.geometry == "inferred"
    assert not stack.oriented


@pytest.mark.parametrize("bad", [[0.0, 0.0], [0.0, 0.0, 1e30], [float("nan")] * 3])
def test_an_absurd_position_is_no_position(planned, bad):
    (stack,) = planned([dicom_slice(ImagePositionPatient=bad)]).stacks
    assert stack.geometry == "inferred"


def test_enhanced_multi_frame_is_read_per_frame(planned):
    frames = np.stack([pixels(n) for n in range(6)])
    (stack,) = planned([enhanced_mr(frames, [4, 2, 0, 4, 2, 0], [1, 1, 1, 2, 2, 2])]).stacks
    assert [len(frame) for frame in stack.frames] == [3, 3]
    assert z_of(stack) == [0.0, 2.0, 4.0]
    assert [plane.RescaleSlope for plane in stack.slices] == [3.0, 2.0, 1.0]


def test_cine_frames_without_positions_are_slices_in_order(planned):
    frames = np.stack([pixels(n, dtype=np.uint8) for n in range(5)])
    ds = dicom_slice(frames[0], Modality="US", NumberOfFrames=5)
    del ds.ImagePositionPatient
    del ds.ImageOrientationPatient
    ds.PixelData = frames.tobytes()
    (stack,) = planned([ds]).stacks
    assert [plane.frame_number for plane in stack.slices] == [1, 2, 3, 4, 5]
    assert stack.geometry == "inferred"


def test_the_signature_survives_order_new_uids_and_late_slices(planned):
    def series(numbers):
        extra = dicom_slice(number=30, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
        return [dicom_slice(number=n) for n in numbers] + [extra]

    def signatures(slices):
        return {stack.signature: len(stack.planes) for stack in planned(slices).stacks}

    early = signatures(series((1, 2, 3)))
    assert signatures(series((3, 1, 2))) == early
    late = signatures(series((5, 2, 1, 3, 4)))
    assert late.keys() == early.keys()
    assert sorted(late.values()) == [1, 5]


def test_every_plane_of_a_series_is_in_exactly_one_stack(planned):
    generator = random.Random(7)
    slices = [
        dicom_slice(
            pixels(n),
            number=generator.randint(1, 6),
            EchoTime=float(generator.choice((10, 80))),
            AcquisitionNumber=generator.randint(1, 3),
            ImageType=["ORIGINAL", "PRIMARY", generator.choice(("M", "P")), "X"],
        )
        for n in range(40)
    ]
    found = planned(slices)
    digests = [digest for stack in found.stacks for digest in stack.digests]
    assert len(digests) == 40 == len(set(digests))


def test_the_case_digest_is_that_of_all_planes(planned):
    (stack,) = planned([dicom_slice(number=n) for n in (1, 2, 3)]).stacks
    assert case_digest(stack.digests) == case_digest(reversed(stack.digests))
