"""Large arrays in memory that is kept for the next ones.

A system hands out fresh memory page by page, cleared, and a virtual machine asks its host for it
first: for a CT that takes as long as everything that is done with its pixels. Series follow each
other and are alike, so what one leaves is kept for the next.
"""

from __future__ import annotations

import math
import weakref
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T", bound=np.generic)

KEPT_BYTES = 512 * 2**20
"""What a process keeps at most while nothing needs it: a CT of 300 slices, decoded and as a volume,
beside another that is decoded ahead. What exceeds it is given back."""

_SMALLEST = 2**20
"""Bytes; for less the allocator's own free lists do."""

_free: dict[int, npt.NDArray[np.uint8]] = {}


def empty(shape: tuple[int, ...], dtype: type[T]) -> npt.NDArray[T]:
    """``numpy.empty``, writable and contiguous, in memory that is taken back when no array uses it.

    Safe to keep for as long as wanted: views and whatever else shares its memory keep it, too.
    """
    count = math.prod(shape)
    needed = count * np.dtype(dtype).itemsize
    if needed < _SMALLEST:
        return np.empty(shape, dtype)
    block = _block(needed)
    lease = block[:]
    weakref.finalize(lease, _take_back, block).atexit = False
    # Over the buffer protocol: a view of the view would only hold on to the block.
    return np.frombuffer(lease.data, dtype, count).reshape(shape)


def _block(needed: int) -> npt.NDArray[np.uint8]:
    """The smallest free block that holds it and is at most half wasted, or a new one."""
    # Blocks come back at any moment, from any thread: each step here is one that nothing divides.
    for number, block in sorted(_free.copy().items(), key=lambda item: item[1].nbytes):
        fits = needed <= block.nbytes <= 2 * needed
        if fits and _free.pop(number, None) is not None:
            return block
    return np.empty(needed, np.uint8)


def _take_back(block: npt.NDArray[np.uint8]) -> None:
    _free[id(block)] = block
    kept = _free.copy()
    excess = sum(one.nbytes for one in kept.values()) - KEPT_BYTES
    for number, one in kept.items():  # the one that was of no use for longest comes first
        if excess > 0:
            _free.pop(number, None)
            excess -= one.nbytes
