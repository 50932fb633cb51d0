"""Memory that is kept for the next series: never under an array that somebody still has."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.volume import memory
from diptych.volume.memory import empty

LARGE = (9, 512, 512)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(memory, "_free", {})


def test_what_one_array_leaves_is_given_to_the_next():
    first = empty(LARGE, np.float32)
    address = first.ctypes.data
    del first
    second = empty((8, 512, 512), np.float32)
    assert second.ctypes.data == address
    assert (second.dtype, second.shape) == (np.float32, (8, 512, 512))
    assert second.flags.writeable
    assert second.flags.c_contiguous


@pytest.mark.parametrize(
    "shared",
    [lambda a: a[3, ::2], lambda a: a.reshape(-1).view(np.uint8), lambda a: memoryview(a)[1:]],
    ids=["a view", "a view of another type", "a buffer"],
)
def test_memory_is_not_given_away_while_anything_shares_it(shared):
    array = empty(LARGE, np.float32)
    address = array.ctypes.data
    held = shared(array)
    del array
    assert empty(LARGE, np.float32).ctypes.data != address
    assert not any(block.ctypes.data == address for block in memory._free.values())
    del held
    assert any(block.ctypes.data == address for block in memory._free.values())


def test_a_block_far_too_large_is_left_for_something_larger():
    large = empty((40, 512, 512), np.float32)
    address = large.ctypes.data
    del large
    assert empty(LARGE, np.float32).ctypes.data != address


def test_no_more_is_kept_than_the_limit(monkeypatch):
    monkeypatch.setattr(memory, "KEPT_BYTES", 20 * 2**20)
    arrays = [empty((8, 512, 512), np.float32) for _ in range(4)]
    del arrays
    assert sum(block.nbytes for block in memory._free.values()) == 16 * 2**20


def test_small_arrays_are_left_to_the_allocator():
    small = empty((2, 3), np.int16)
    assert (small.shape, small.dtype) == ((2, 3), np.int16)
    del small
    assert memory._free == {}
