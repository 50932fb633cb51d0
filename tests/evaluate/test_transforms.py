"""What each transform of the paper does to a volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diptych.evaluate import transforms
from diptych.evaluate.answers import DUPLICATE, TRANSFORMS, Transform
from diptych.evaluate.reading import read_nifti
from diptych.evaluate.transforms import apply, transformed, unit
from diptych.volume.value import Volume
from evaluate.volumes import body, save_nifti


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    affine = np.array([[-2.0, 0, 0, 10], [0, -2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])
    return read_nifti(save_nifti(tmp_path / "a.nii.gz", body(1, (20, 40, 60)), affine)).volume


def test_all_25_give_a_finite_volume_of_their_own(volume: Volume) -> None:
    seen = {}
    for transform in TRANSFORMS:
        made = transformed(volume, transform, "a")
        seen[transform] = made.digests
        assert np.isfinite(made.array).all()
    assert len(set(seen.values())) == len(TRANSFORMS) == 25


def test_a_duplicate_is_the_volume_itself(volume: Volume) -> None:
    assert transformed(volume, DUPLICATE, "a") is volume


def test_unit_scales_by_the_whole_volume() -> None:
    array = np.stack([np.full((2, 2), -10.0), np.full((2, 2), 30.0)]).astype(np.float32)
    np.testing.assert_array_equal(unit(array)[:, 0, 0], [0, 1])
    np.testing.assert_array_equal(unit(np.full((2, 2, 2), 5, np.float32)), 0)
    wide = np.array([[[-3e38, 3e38]]], np.float32)
    np.testing.assert_allclose(unit(wide), [[[0, 1]]])


@pytest.mark.parametrize(
    ("share", "shape"),
    [(0.05, (19, 38, 57)), (0.10, (18, 36, 54)), (0.15, (17, 34, 51)), (0.20, (16, 32, 48))],
)
def test_a_crop_takes_its_share_of_each_axis_in_total_from_both_sides(
    volume: Volume, share: float, shape: tuple[int, int, int]
) -> None:
    made = transformed(volume, Transform("crop", share), "a")
    assert made.array.shape == shape
    original = unit(volume.array)
    before = [(n - m) // 2 for n, m in zip(original.shape, shape, strict=True)]
    inside = tuple(slice(b, b + m) for b, m in zip(before, shape, strict=True))
    np.testing.assert_array_equal(made.array, original[inside])
    # The voxels stay where they were in space.
    at = volume.affine @ [*before, 1]
    np.testing.assert_allclose(made.affine[:, 3], at)
    assert made.positions == volume.positions[inside[0]]


def test_a_rotation_turns_in_plane_and_keeps_the_size() -> None:
    array = np.zeros((2, 41, 41), np.float32)
    array[:, 20, 35] = 1
    turned = apply(array, Transform("rotation", 20.0), "a")
    assert turned.shape == array.shape
    row, column = np.unravel_index(turned[0].argmax(), (41, 41))
    degrees = np.degrees(np.arctan2(20 - row, column - 20))
    assert degrees == pytest.approx(20, abs=3)
    np.testing.assert_array_equal(turned[0], turned[1])


def test_a_translation_moves_rows_and_columns_by_whole_pixels(volume: Volume) -> None:
    array = unit(volume.array)
    moved = apply(array, Transform("translation", 0.10), "a")
    np.testing.assert_array_equal(moved[:, 4:, 6:], array[:, :-4, :-6])
    assert not moved[:, :4].any()
    assert not moved[:, :, :6].any()


def test_blur_works_along_all_three_axes() -> None:
    array = np.zeros((9, 9, 9), np.float32)
    array[4, 4, 4] = 1
    blurred = apply(array, Transform("blur", 1.0), "a")
    assert blurred[3, 4, 4] == pytest.approx(blurred[4, 3, 4]) == pytest.approx(blurred[4, 4, 3])
    assert blurred[3, 4, 4] > 0.01
    assert blurred.sum() == pytest.approx(1, abs=1e-4)


def test_a_lower_jpeg_quality_loses_more(volume: Volume) -> None:
    array = unit(volume.array)
    lost = [
        float(np.abs(apply(array, Transform("jpeg", quality), "a") - array).mean())
        for quality in (100.0, 75.0, 50.0, 25.0)
    ]
    assert lost == sorted(lost)
    assert lost[0] < 1 / 255 < lost[-1]


def test_noise_has_its_deviation_is_not_clipped_and_differs_by_case_only(volume: Volume) -> None:
    array = unit(volume.array)
    noise = Transform("noise", 0.4)
    added = apply(array, noise, "a") - array
    assert added.std() == pytest.approx(0.4, rel=0.02)
    assert apply(array, noise, "a").min() < 0
    np.testing.assert_array_equal(apply(array, noise, "a") - array, added)
    assert (apply(array, noise, "b") - array != added).any()
    first = transformed(volume, noise, "a")
    assert first.digests == transformed(volume, noise, "a").digests
    assert first.digests != transformed(volume, noise, "b").digests


def test_transforms_work_on_the_oriented_volume(tmp_path: Path) -> None:
    array = body(1, (20, 40, 60))
    straight = read_nifti(save_nifti(tmp_path / "a.nii", array)).volume
    flipped = read_nifti(
        save_nifti(tmp_path / "b.nii", array[:, ::-1, ::-1], np.diag([1.0, 1.0, 1.0, 1.0]))
    ).volume
    move = Transform("translation", 0.2)
    np.testing.assert_array_equal(
        transformed(straight, move, "a").array, transformed(flipped, move, "a").array
    )


def test_the_smallest_volume_survives_every_transform() -> None:
    array = unit(body(2, (3, 16, 16)).astype(np.float32))
    for transform in TRANSFORMS:
        made = apply(array, transform, "a")
        assert made.dtype == np.float32
        assert min(made.shape) >= 2


def test_an_unknown_transform_is_refused() -> None:
    with pytest.raises(ValueError, match="no such transform"):
        apply(np.zeros((2, 2, 2), np.float32), Transform("mirror", 1.0), "a")
    assert transforms.DUPLICATE.strength is None
