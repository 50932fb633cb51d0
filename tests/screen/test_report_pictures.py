"""What is shown beside each other is the same place, and a diagonal is one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from diptych.judge import proxy
from diptych.judge.check import Check, Impossible
from diptych.judge.verify import verify
from diptych.screen.report import slices
from diptych.screen.report.similarity import MOST, similarity
from diptych.screen.report.slices import strips
from screen import delivered

ABDOMEN, AFFINE = delivered.body("abdomen", 61)
HEAD, HEAD_AFFINE = delivered.body("head", 70)
LPS = {0: (2, 1, 0), 1: (1, 2, 0), 2: (0, 2, 1)}


def stacked(volume, axis=0, geometry="known", backwards=False):
    affine = np.zeros((4, 4))
    for column, (row, length) in enumerate(zip(LPS[axis], (4.0, 2.5, 2.5), strict=True)):
        affine[row, column] = length
    affine[3, 3] = 1
    if backwards:
        affine[:, 0] *= -1
    content = proxy.encode(np.ascontiguousarray(volume, np.float32), affine, geometry=geometry)
    return proxy.decode(content)


def pixels(png):
    return np.array(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_turned_and_shifted_copy_is_laid_onto_the_delivered_one(axis):
    turned = ndimage.rotate(ABDOMEN, 9, axes=(1, 2), reshape=False, order=1, cval=-1000)
    turned = ndimage.shift(turned, (3, 6, -5), order=1, cval=-1000)
    ours, theirs = stacked(turned, axis), stacked(ABDOMEN, axis)
    check = verify(0, ours, theirs)
    found = strips(ours, theirs, check)
    assert found.difference_share < 0.02
    assert found.plane == ("axial", "coronal", "sagittal")[axis]
    assert len(found.numbers) == slices.SHOWN
    moved = [a - b for a, b in zip(found.numbers, found.known_numbers, strict=True)]
    assert set(moved) <= {2, 3, 4}  # the copy was moved by three slices
    # the other way round it would not lie on it
    mirrored = Check(
        0, None, check.correlation, 0, -check.rotation_degrees,
        tuple(-mm for mm in check.shift_mm), spacing_mm=check.spacing_mm,
    )  # fmt: skip
    assert strips(ours, theirs, mirrored).difference_share > 3 * found.difference_share


def test_only_slices_of_the_common_part_are_shown():
    ours, theirs = stacked(HEAD), stacked(HEAD[8:28])
    found = strips(ours, theirs, verify(0, ours, theirs))
    assert found.slices == 40
    assert all(9 <= number <= 28 for number in found.numbers)
    assert all(
        abs(known + 8 - number) <= 1
        for known, number in zip(found.known_numbers, found.numbers, strict=True)
    )


def test_a_stack_placed_by_numbers_alone_that_runs_the_other_way_is_turned_round():
    unplaced, known = stacked(HEAD[30:10:-1], geometry="inferred"), stacked(HEAD)
    check = verify(0, unplaced, known)
    assert check.backwards
    found = strips(unplaced, known, check)
    assert found.difference_share < 0.03
    assert found.numbers == tuple(sorted(found.numbers, reverse=True))
    assert all(
        abs(31 - number - (other - 1)) <= 1
        for number, other in zip(found.numbers, found.known_numbers, strict=True)
    )


def test_brightness_is_no_difference_but_a_nodule_is():
    theirs = stacked(ABDOMEN)
    inverted = stacked(ABDOMEN.max() - 0.5 * ABDOMEN)
    check = verify(0, inverted, theirs)
    assert check.inverted
    assert strips(inverted, theirs, check).difference_share < 0.02
    marked = ABDOMEN.copy()
    marked[:, 40:48, 40:48] = 2000
    ours = stacked(marked)
    colours = pixels(strips(ours, theirs, verify(0, ours, theirs)).difference)
    orange = (colours[..., 0] > colours[..., 2] + 80).sum()
    blue = (colours[..., 2] > colours[..., 0] + 80).sum()
    assert orange > 5 * 4  # brighter: orange, in every slice
    assert orange > 20 * max(blue, 1)


def test_what_cannot_be_aligned_is_shown_alone():
    ours = stacked(HEAD)
    for theirs, check in (
        (None, None),
        (stacked(HEAD), None),
        (stacked(HEAD), Check(0, Impossible.TOO_SMALL)),
    ):
        found = strips(ours, theirs, check)
        assert found.known is found.difference is found.difference_share is None
        assert pixels(found.delivered).std() > 20
        assert found.size == Image.open(io.BytesIO(found.delivered)).size


def test_a_single_plane_is_a_strip_of_one():
    flat = stacked(ABDOMEN[20:21])
    assert strips(flat, None, None).numbers == (1,)


def test_a_head_is_shown_with_its_top_upwards():
    ours = stacked(np.arange(40, dtype=np.float32)[:, None, None] * np.ones((1, 40, 40)), axis=0)
    coronal = proxy.Proxy(
        ours.values, ours.valid, ours.affine, ours.spacing_mm, "known",
        proxy.Stack(1, False, 40, 2.5), ours.voxel_mm,
    )  # fmt: skip
    shown = pixels(strips(coronal, None, None).delivered)[..., 0]
    assert shown[0, 0] > shown[-1, 0]  # values grow towards the head


def test_a_copy_is_a_diagonal_and_a_part_is_a_part_of_one():
    rng = np.random.default_rng(1)
    whole = delivered.path(rng, 40)
    same = similarity(whole, whole)
    assert (same.rows, same.columns, same.on_line) == (40, 40, 40)
    assert same.line == pytest.approx((0.5, 0.5, 39.5, 39.5))
    part = similarity(whole[10:30], whole)
    assert part.line == pytest.approx((10.5, 0.5, 29.5, 19.5))
    turned = similarity(whole[::-1], whole)
    assert turned.line == pytest.approx((39.5, 0.5, 0.5, 39.5))
    every_second = similarity(whole[::2], whole)
    assert every_second.line == pytest.approx((0.5, 0.5, 38.5, 19.5))


def test_a_stranger_has_no_diagonal():
    rng = np.random.default_rng(2)
    found = similarity(delivered.path(rng, 40), delivered.path(rng, 40))
    assert found.line is None
    assert found.on_line <= 20


def test_the_matrix_is_dark_where_slices_are_alike():
    vectors = delivered.path(np.random.default_rng(3), 30)
    picture = pixels(similarity(vectors, vectors).picture)
    side = len(picture) // 30
    cells = picture[side // 2 :: side, side // 2 :: side].sum(-1)
    assert (cells.argmin(1) == np.arange(30)).all()


def test_a_thousand_slices_are_thinned_and_nothing_is_compared_with_nothing():
    long = delivered.path(np.random.default_rng(4), 1000)
    found = similarity(long, long)
    assert (found.rows, found.columns, found.on_line) == (MOST, MOST, MOST)
    assert similarity(long, long[:0]) is None
    assert similarity(long, long[:, :3]) is None
    assert similarity(long, np.full_like(long, np.nan)) is None
    assert similarity(long[:1], long[:1]).line is None
