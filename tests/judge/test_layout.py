"""The coarse layout: what changes it, and what does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from diptych.demo.phantoms import Recipe, generate
from diptych.judge import proxy
from diptych.judge.layout import DIMENSION, layout, smoothed

AFFINE = np.diag([2.5, 2.5, 4.0, 1.0])[:, [2, 1, 0, 3]]


def body(seed):
    recipe = Recipe("x", "abdomen", seed, (40, 96, 96), (4.0, 2.5, 2.5))
    return generate(recipe).pixels.astype(np.float32)


def laid_out(volume, affine=AFFINE, valid=None):
    kept = proxy.decode(proxy.encode(volume.astype(np.float32), affine, valid=valid))
    return layout(kept)


BODY = body(61)


def noisy(volume):
    deviation = 0.4 * float(np.ptp(volume))
    return volume + np.random.default_rng(1).normal(0, deviation, volume.shape)


def reversed_slices(volume):
    return volume[::-1], AFFINE @ np.array(
        [[-1, 0, 0, len(volume) - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]
    )


def test_it_is_a_unit_vector_without_a_mean():
    vector = laid_out(BODY)
    assert vector.shape == (DIMENSION,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    assert vector.sum() == pytest.approx(0, abs=1e-2)
    kept = smoothed(vector)
    assert np.linalg.norm(kept) == pytest.approx(1, abs=1e-3)
    assert (kept == kept.astype(np.float16)).all()


@pytest.mark.parametrize(
    "change", [noisy, lambda v: ndimage.gaussian_filter(v, 8), lambda v: 3 * v + 50]
)
def test_damage_moves_it_less_than_another_body_is_away(change):
    original, damaged = smoothed(laid_out(BODY)), laid_out(change(BODY))
    others = [float(smoothed(laid_out(body(seed))) @ damaged) for seed in (62, 63, 64)]
    assert float(original @ damaged) > max(others)


def test_the_order_of_the_slices_does_not_matter():
    turned, affine = reversed_slices(BODY)
    assert float(laid_out(turned, affine) @ laid_out(BODY)) > 0.99


def test_an_inverted_image_has_the_negative():
    assert float(laid_out(BODY.max() - BODY) @ laid_out(BODY)) == pytest.approx(-1, abs=0.01)


def test_what_is_not_known_is_neither_bright_nor_dark():
    valid = np.ones(BODY.shape, bool)
    valid[:, :48] = False
    cells = laid_out(BODY, valid=valid).reshape(8, 8, 8)
    assert not cells[:, :4].any()
    assert cells[:, 4:].any()


@pytest.mark.parametrize("value", [0.0, 7.0, -1000.0])
def test_a_blank_volume_has_none(value):
    assert laid_out(np.full((5, 20, 20), value)) is None
