"""From stored values to modality values and millimetres."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import dcmread

from dicom_factory import AXIAL, SAGITTAL, dicom_slice, pixels
from diptych.errors import NotScreenable, Reason
from diptych.volume.assemble import assemble, modality_values
from diptych.volume.orient import canonical_slices
from diptych.volume.value import Volume


def test_the_affine_maps_slice_row_column_to_lps_millimetres(volume_of):
    volume = volume_of([dicom_slice(number=n) for n in (2, 3, 4)])
    assert volume.array.shape == (3, 12, 10)
    assert volume.spacing == (5.0, 0.5, 0.75)
    # PS3.3 equation C.7.6.2.1-1: columns advance along the first triple by PixelSpacing[1].
    assert volume.affine @ (1, 4, 6, 1) == pytest.approx([-20 + 6 * 0.75, -30 + 4 * 0.5, 10 + 5, 1])


def test_the_affine_of_a_tilted_volume_is_sheared_along_the_slice_corners(volume_of):
    slices = [dicom_slice(number=n, ImagePositionPatient=[0.0, 2.0 * n, 5.0 * n]) for n in range(4)]
    volume = volume_of(slices)
    assert volume.affine @ (3, 0, 0, 1) == pytest.approx([0, 6, 15, 1])


def test_affine_and_order_agree_with_highdicom(volume_of, tmp_path):
    from highdicom import get_volume_from_series

    slices = [dicom_slice(number=n, RescaleSlope=2.0, RescaleIntercept=-7.0) for n in (4, 2, 3)]
    for ds in slices:
        ds.ImageOrientationPatient = [0.8, 0.6, 0, 0, 0, -1]
        ds.ImagePositionPatient = [3.0 * ds.InstanceNumber, -4.0 * ds.InstanceNumber, 9.0]
    ours = volume_of(slices)
    theirs = get_volume_from_series([dcmread(path) for path in sorted(tmp_path.rglob("*.dcm"))])
    if not np.allclose(ours.affine, theirs.affine):
        theirs = theirs.flip_spatial(0)
    assert ours.affine == pytest.approx(theirs.affine)
    assert ours.array == pytest.approx(theirs.array)


def test_absurd_positions_never_make_an_impossible_volume(planned):
    generator = np.random.default_rng(3)
    for scale in (1e-3, 1.0, 1e5):
        slices = [
            dicom_slice(
                number=n,
                ImagePositionPatient=[f"{x:.8g}" for x in generator.normal(size=3) * scale],
                SliceThickness=generator.choice([0.0, -3.0, 1e9]),
                PixelSpacing=[1e-30, 1e30] if n % 2 else [0.0002, 0.0002],
                RescaleSlope=1e300,
                RescaleIntercept=0.0,
            )
            for n in range(6)
        ]
        for stack in planned(slices).stacks:
            canonical_slices(assemble(stack))


def test_pet_is_rescaled_slice_by_slice(volume_of):
    slices = [
        dicom_slice(np.full((4, 4), 100, np.int16), number=n, Modality="PT", RescaleSlope=float(n))
        for n in (1, 2, 3)
    ]
    for ds in slices:
        ds.RescaleIntercept = 0.0
    assert volume_of(slices).array[:, 0, 0].tolist() == [100.0, 200.0, 300.0]


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint16, 12), (np.int16, 12), (np.uint8, 8)])
def test_monochrome1_equals_its_inverted_monochrome2_copy(volume_of, dtype, bits):
    low = -(1 << (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    stored = np.random.default_rng(0).integers(low, low + (1 << bits), (6, 6)).astype(dtype)
    inverse = (2 * low + (1 << bits) - 1 - stored).astype(dtype)
    fields = {"BitsStored": bits, "HighBit": bits - 1}
    white = volume_of([dicom_slice(stored, PhotometricInterpretation="MONOCHROME1", **fields)])
    black = volume_of([dicom_slice(inverse, **fields)])
    assert (white.array == black.array).all()


def test_padding_is_masked_and_does_not_disturb_the_minimum(volume_of):
    stored = pixels(1) + 10
    stored[0, :3] = -2000
    volume = volume_of([dicom_slice(stored, PixelPaddingValue=-2000)])
    assert volume.valid is not None
    assert not volume.valid[0, 0, :3].any()
    assert volume.valid.sum() == stored.size - 3
    assert volume.array.min() >= 10


def test_a_padding_range_is_masked_whole(volume_of):
    stored = np.arange(16, dtype=np.int16).reshape(4, 4)
    volume = volume_of([dicom_slice(stored, PixelPaddingValue=2, PixelPaddingRangeLimit=5)])
    assert volume.valid is not None
    assert np.flatnonzero(~volume.valid).tolist() == [2, 3, 4, 5]


def test_padding_written_unsigned_means_the_signed_value(volume_of):
    stored = np.array([[-2000, 1], [2, 3]], np.int16)
    ds = dicom_slice(stored)
    ds.add_new("PixelPaddingValue", "US", 63536)
    volume = volume_of([ds])
    assert volume.valid is not None
    assert not volume.valid[0, 0, 0]


def test_rgb_becomes_luminance(volume_of):
    stored = np.zeros((3, 4, 3), np.uint8)
    stored[..., 0], stored[..., 1], stored[..., 2] = 200, 100, 50
    assert volume_of([dicom_slice(stored)]).array == pytest.approx(
        0.299 * 200 + 0.587 * 100 + 0.114 * 50
    )


def test_a_palette_becomes_luminance(volume_of):
    stored = np.array([[0, 1], [2, 1]], np.uint8)
    ds = dicom_slice(stored, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [3, 0, 16])
        table = np.array([0, 30000, 65535], np.uint16).tobytes()
        setattr(ds, f"{colour}PaletteColorLookupTableData", table)
    assert volume_of([ds]).array[0] == pytest.approx(np.array([[0, 30000], [65535, 30000]]))


def test_overlay_bits_above_the_stored_ones_are_cleared(volume_of):
    stored = pixels(1, dtype=np.uint16) & 0x0FFF
    fields = {"BitsStored": 12, "HighBit": 11}
    plain = volume_of([dicom_slice(stored, **fields)])
    overlaid = volume_of([dicom_slice(stored | 0x8000, **fields)])
    assert (plain.array == overlaid.array).all()
    assert plain.digests == overlaid.digests


def test_two_copies_stored_in_other_orientations_look_alike_after_canonical_slices(volume_of):
    stack = np.stack([pixels(n) for n in range(3)])
    plain = [dicom_slice(stack[n], number=n) for n in range(3)]
    # The same anatomy, rows and columns exchanged and the columns reversed.
    turned = []
    for n in range(3):
        ds = dicom_slice(np.ascontiguousarray(stack[n].T[:, ::-1]), number=n)
        ds.ImageOrientationPatient = [0, -1, 0, 1, 0, 0]
        ds.PixelSpacing = [0.75, 0.5]
        ds.ImagePositionPatient = [-20.0, -30.0 + 11 * 0.5, 5.0 * n]
        turned.append(ds)
    one, other = canonical_slices(volume_of(plain)), canonical_slices(volume_of(turned))
    assert (one.array == other.array).all()
    assert one.affine == pytest.approx(other.affine)
    assert one.spacing == other.spacing


def test_slice_order_follows_the_patient_and_not_the_handedness_of_the_header(volume_of):
    stack = np.stack([pixels(n) for n in range(4)])
    plain = canonical_slices(volume_of([dicom_slice(stack[n], number=n) for n in range(4)]))
    mirrored = []
    for n in range(4):
        ds = dicom_slice(np.ascontiguousarray(stack[n][:, ::-1]), number=n)
        ds.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [-20.0 + 9 * 0.75, -30.0, 5.0 * n]
        mirrored.append(ds)
    other = canonical_slices(volume_of(mirrored))
    assert (plain.array == other.array).all()
    assert plain.affine == pytest.approx(other.affine)
    assert other.positions == pytest.approx([0, 5, 10, 15])


@pytest.mark.parametrize("cosines", [AXIAL, SAGITTAL, (1, 0, 0, 0, 0, -1), (0.8, 0.6, 0, 0, 0, -1)])
def test_canonical_slices_keep_every_voxel_where_it_was(volume_of, cosines):
    normal = np.cross(cosines[:3], cosines[3:])
    slices = [
        dicom_slice(
            number=n,
            ImageOrientationPatient=list(cosines),
            ImagePositionPatient=list(-3.0 * n * normal),
        )
        for n in range(3)
    ]
    volume = volume_of(slices)
    turned = canonical_slices(volume)
    for index in ((0, 0, 0), (2, 11, 9), (1, 3, 7)):
        at = np.linalg.inv(turned.affine) @ volume.affine @ (*index, 1)
        assert turned.array[tuple(np.rint(at[:3]).astype(int))] == volume.array[index]


def test_too_large_a_volume_is_refused_before_it_is_allocated(planned):
    (stack,) = planned([dicom_slice(number=n) for n in (1, 2)]).stacks
    with pytest.raises(NotScreenable) as error:
        assemble(stack, max_bytes=100)
    assert error.value.reason is Reason.TOO_LARGE


def test_impossible_volumes_cannot_be_made(volume_of):
    good = volume_of([dicom_slice(number=n) for n in (1, 2)])
    fields = {name: getattr(good, name) for name in good.__dataclass_fields__}
    for change in (
        {"array": good.array.astype(np.float64)},
        {"array": np.full_like(good.array, np.nan)},
        {"affine": np.zeros((4, 4))},
        {"positions": (0.0,)},
        {"completeness": 0.0},
        {"valid": np.ones((1, 1, 1), np.bool_)},
    ):
        with pytest.raises(ValueError):
            Volume(**{**fields, **change})


def test_the_extremes_are_those_of_the_valid_voxels(volume_of):
    stored = pixels(1).astype(np.int16)
    stored[:2] = -2000
    volume = volume_of([dicom_slice(stored, PixelPaddingValue=-2000, RescaleIntercept=-1024)])
    kept = stored[2:].astype(float) - 1024
    assert volume.extremes == (kept.min(), kept.max())
    assert canonical_slices(volume).extremes == volume.extremes


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (1, 0), (1, 0.5), (0.5, 3), (1, 3e7)])
def test_the_short_way_to_modality_values_gives_the_bits_of_the_long_one(
    planned, dtype, slope, intercept
):
    stored = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (12, 10)).astype(dtype)
    ds = dicom_slice(stored, RescaleSlope=slope, RescaleIntercept=intercept)
    (stack,) = planned([ds]).stacks
    expected = modality_values(stack.slices[0]).astype(np.float32)
    assert assemble(stack).array[0].tobytes() == expected.tobytes()
