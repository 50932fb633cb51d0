"""Generated scans: the same seed the same scan, other seeds other bodies, z changes everything."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from diptych.demo.phantoms import DEMO, Recipe, generate

SMALL = {recipe.name: recipe for recipe in DEMO if recipe.shape[0] <= 60}


def thumbnail(plane):
    """16 × 16, mean removed, unit length: the coarsest look at a slice."""
    rows, columns = (side // 16 * 16 for side in plane.shape)
    blocks = plane[:rows, :columns].reshape(16, rows // 16, 16, columns // 16).mean((1, 3))
    blocks = blocks - blocks.mean()
    return blocks.ravel() / np.linalg.norm(blocks)


@pytest.mark.parametrize("kind", ["chest", "abdomen", "head", "limb"])
def test_equal_recipes_give_equal_pixels_and_other_seeds_do_not(kind):
    recipe = Recipe("test", kind, 5, (12, 64, 80), (4.0, 3.0, 3.0))
    first, again = generate(recipe), generate(recipe)
    assert first.pixels.dtype == np.int16
    assert first.pixels.shape == recipe.shape
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, generate(replace(recipe, seed=6)).pixels)


def test_a_large_phantom_takes_seconds():
    started = time.process_time()
    phantom = generate(DEMO[0])
    seconds = time.process_time() - started
    assert phantom.pixels.shape == (200, 512, 512)
    assert seconds < 8.0  # two to three on an idle core


def test_every_body_differs_from_every_other_more_than_from_its_own_neighbouring_slices():
    middles, steps = {}, []
    for name, recipe in SMALL.items():
        pixels = generate(recipe).pixels.astype(float)
        looks = np.array([thumbnail(plane) for plane in pixels[4:-4]])
        middles[name] = looks
        steps.append(np.median(np.linalg.norm(np.diff(looks, axis=0), axis=1)))
    for one, other in combinations(middles, 2):
        between = np.linalg.norm(middles[one][:, None] - middles[other][None], axis=2)
        assert np.median(between.min(axis=1)) > 1.5 * max(steps), (one, other)


def test_anatomy_changes_along_z():
    for recipe in SMALL.values():
        pixels = generate(recipe).pixels.astype(float)
        low, high = (thumbnail(pixels[int(place * len(pixels))]) for place in (0.2, 0.8))
        assert np.linalg.norm(low - high) > 0.1, recipe.name


def test_the_volume_is_centred_and_runs_towards_head_back_and_left():
    phantom = generate(SMALL["head-mr-a"])
    affine = phantom.affine
    centre = affine[:3, :3] @ ((np.array(phantom.pixels.shape) - 1) / 2) + affine[:3, 3]
    assert np.allclose(centre, 0)
    assert np.allclose(affine[:3, 0], [0, 0, 3.5])
    assert np.allclose(affine[:3, 1], [0, 1.25, 0])
    assert np.allclose(affine[:3, 2], [1.25, 0, 0])


def test_a_phantom_too_small_for_anatomy_is_refused():
    with pytest.raises(ValueError, match="too small"):
        generate(Recipe("test", "head", 1, (1, 64, 64), (1.0, 1.0, 1.0)))
