"""The paper's preparation, on volumes made here."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.embed.prepare import LEVELS, digest_slices, normalise, prepare


def volume(seed: int = 0, shape: tuple[int, int, int] = (5, 60, 40)) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 30, shape).astype(np.float32)


def test_slices_are_square_float32_between_zero_and_one():
    prepared = prepare(volume(), 112)
    assert prepared.shape == (5, 112, 112)
    assert prepared.dtype == np.float32
    assert prepared.min() >= 0
    assert prepared.max() <= 1


def test_minimum_and_maximum_are_the_volumes_not_the_slices():
    voxels = np.zeros((2, 16, 16), np.float32)
    voxels[0, 4:12, 4:12] = 50
    voxels[1, 4:12, 4:12] = 100
    prepared = prepare(voxels, 16)
    assert prepared[0].max() == pytest.approx(0.5, abs=1 / LEVELS)
    assert prepared[1].max() == 1


def test_gain_and_offset_of_the_volume_do_not_matter():
    voxels = volume()
    assert np.abs(prepare(voxels, 64) - prepare(voxels * 3 - 1024, 64)).max() <= 1.5 / LEVELS


def test_the_same_volume_is_prepared_to_the_same_bits():
    assert prepare(volume(), 96).tobytes() == prepare(volume().copy(order="F"), 96).tobytes()


def test_a_slice_is_prepared_alike_in_any_order_of_slices():
    voxels = volume()
    assert np.array_equal(prepare(voxels[::-1], 32), prepare(voxels, 32)[::-1])


def test_extremes_that_are_known_change_no_bit():
    voxels = volume()
    valid = np.ones(voxels.shape, np.bool_)
    valid[:, :10] = False
    voxels[~valid] = voxels[valid].min()
    known = (float(voxels.min()), float(voxels.max()))
    for mask in (None, valid):
        assert prepare(voxels, 32, mask, known).tobytes() == prepare(voxels, 32, mask).tobytes()


def test_padding_is_black_and_does_not_stretch_the_range():
    voxels = volume()
    valid = np.ones(voxels.shape, np.bool_)
    valid[:, :10] = False
    padded = voxels.copy()
    padded[:, :10] = -30000
    # 40 columns and 60 rows at their own size: no interpolation between padding and image
    prepared = prepare(padded[:, :40], 40, valid[:, :40])
    assert not prepared[:, :10].any()
    inside = voxels[:, 10:40]
    expected = (inside - inside.min()) / (inside.max() - inside.min())
    assert np.abs(prepared[:, 10:] - expected).max() <= 1 / LEVELS


def test_nan_and_infinity_become_black_and_do_not_stretch_the_range():
    voxels = volume(shape=(3, 32, 32))
    clean = prepare(voxels, 32)
    voxels[0, 0, 0], voxels[1, 5, 5], voxels[2, 7, 7] = np.nan, np.inf, -np.inf
    prepared = prepare(voxels, 32)
    assert np.isfinite(prepared).all()
    assert prepared[0, 0, 0] == prepared[1, 5, 5] == prepared[2, 7, 7] == 0
    assert np.abs(prepared[0, 1:] - clean[0, 1:]).max() < 0.2


@pytest.mark.parametrize("value", [0.0, -1024.0, 7.5, np.nan])
def test_a_volume_of_one_value_is_black(value):
    assert not prepare(np.full((3, 20, 20), value, np.float32), 16).any()


def test_a_volume_without_a_valid_voxel_is_black():
    voxels = volume()
    assert not prepare(voxels, 16, np.zeros(voxels.shape, np.bool_)).any()


def test_the_largest_float_does_not_overflow():
    voxels = np.zeros((1, 8, 8), np.float32)
    voxels[0, 0, 0], voxels[0, 1, 1] = np.finfo(np.float32).max, np.finfo(np.float32).min
    assert np.isfinite(prepare(voxels, 8)).all()


def test_one_slice_is_a_volume():
    assert prepare(volume(shape=(1, 512, 512)), 112).shape == (1, 112, 112)


def test_one_pixel_is_a_slice():
    assert prepare(np.array([[[1.0]], [[2.0]]], np.float32), 4)[1].min() == 1


def test_reduction_averages_rather_than_picks():
    checkers = (np.indices((1, 448, 448)).sum(axis=0) % 2).astype(np.float32)
    assert np.abs(prepare(checkers, 112) - 0.5).max() < 0.02


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 4), (2, 0, 4), (1, 1, 4, 4)])
def test_what_is_not_a_volume_is_refused(shape):
    with pytest.raises(ValueError, match="slice, row, column"):
        prepare(np.zeros(shape, np.float32), 16)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 2, 2\).*\(5, 60, 40\)"):
        prepare(volume(), 16, np.ones((1, 2, 2), np.bool_))


def test_equal_prepared_slices_have_equal_digests_and_others_do_not():
    voxels = volume()
    voxels[3] = voxels[1]
    digests = digest_slices(prepare(voxels, 32))
    assert [len(d) for d in digests] == [16] * 5
    assert digests[3] == digests[1]
    assert len(set(digests)) == 4


def test_slices_of_another_size_have_another_digest():
    assert digest_slices(np.zeros((1, 8, 8), np.float32)) != digest_slices(
        np.zeros((1, 4, 16), np.float32)
    )


def test_three_channels_repeat_the_grey_and_take_the_models_mean_and_deviation():
    prepared = prepare(volume(), 16)
    inputs = normalise(prepared, (0.5, 0.4, 0.0), (0.2, 0.25, 1.0))
    assert inputs.shape == (5, 3, 16, 16)
    assert inputs.dtype == np.float32
    assert np.allclose(inputs[:, 0], (prepared - 0.5) / 0.2)
    assert np.array_equal(inputs[:, 2], prepared)


def test_unequal_numbers_of_means_and_deviations_are_refused():
    with pytest.raises(ValueError, match="1 means for 3"):
        normalise(prepare(volume(), 16), (0.5,), (0.2, 0.2, 0.2))
