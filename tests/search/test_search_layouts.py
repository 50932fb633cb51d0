"""The index of layouts: one vector for equal ones, every case of them found."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.search.layouts import K, Layouts

RNG = np.random.default_rng(5)


def unit(rows):
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float16).astype(np.float32)


VECTORS = unit(RNG.standard_normal((50, 32)))


@pytest.fixture(params=["exact", "hnsw"])
def filled(request):
    layouts = Layouts(32, mode=request.param)
    layouts.add(list(range(1, 51)), VECTORS)
    return layouts


def everyone(keys):
    return {key: key for key in keys}


def test_the_nearest_comes_first_with_its_distance(filled):
    found = filled.nearest(VECTORS[6], everyone)
    assert next(iter(found.items())) == (7, 0.0)
    assert list(found.values()) == sorted(found.values())
    assert len(found) <= 2 * K


def test_the_inverted_image_is_found(filled):
    assert next(iter(filled.nearest(-VECTORS[6], everyone))) == 7


def test_an_empty_index_finds_nothing():
    assert Layouts(32).nearest(VECTORS[0], everyone) == {}


def test_equal_layouts_are_one_vector_and_all_their_cases_are_known(filled):
    filled.add([900, 901], np.stack([VECTORS[6]] * 2))
    assert len(filled) == 52
    assert next(iter(filled.nearest(VECTORS[6], everyone))) == 7
    without = filled.nearest(VECTORS[6], lambda keys: {k: k for k in keys if k > 900})
    assert list(without) == [901], "the search widens until somebody answers"


def test_nobody_who_is_left_out_is_found(filled):
    assert filled.nearest(VECTORS[6], lambda keys: {}) == {}
    assert 7 not in filled.nearest(VECTORS[6], lambda keys: {k: k for k in keys if k != 7})


def test_a_case_with_several_layouts_is_named_once_by_its_nearest(filled):
    found = filled.nearest(VECTORS[6], lambda keys: dict.fromkeys(keys, 1))
    assert found == {1: 0.0}


def test_a_key_that_comes_again_after_its_case_was_forgotten_names_the_new_layout(filled):
    filled.add([7], VECTORS[:1])
    assert len(filled) == 50
    found = filled.nearest(VECTORS[0], everyone)
    assert next(iter(found)) == 1
    assert 7 not in found, "equal layouts answer with the earliest case"
    assert list(filled.nearest(VECTORS[0], lambda keys: {k: k for k in keys if k == 7})) == [7]
    assert filled.nearest(VECTORS[6], everyone).get(7) != 0.0
