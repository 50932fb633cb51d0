"""The paper's preparation: one volume in, square slices in [0, 1] out (Truong et al. 2023, §II-B).

Everything that embeds, trains, calibrates or evaluates goes through :func:`prepare`; what it does
has a version, and the version is part of the fingerprint: vectors prepared differently never meet.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PREPARATION_VERSION = "minmax-volume-1"
"""Min-max over the valid volume, padding at 0, square slices by Pillow's antialiased bilinear."""

LEVELS = 4096
"""Grey levels of a prepared slice.

Twelve bits are what scanners deliver; rounding to them makes results equal where rescale
arithmetic differs in the last float bit: a re-encoded plane has an identical prepared slice.
"""

LARGEST_SPAN = 1e30
"""Above it (no scanner comes near) the arithmetic is done in float64, where it cannot overflow."""

DIGEST_BYTES = 16
"""128 bits: a chance collision among 10⁹ slices has a probability of 10⁻²¹."""


def prepare(
    voxels: NDArray[np.float32],
    size: int,
    valid: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Prepared slices, float32 (n, size, size) in [0, 1], in multiples of 1/(LEVELS - 1).

    ``voxels`` is (slice, row, column), any finite or non-finite real numbers; ``valid`` has the
    same shape and is False on pixel padding. Minimum and maximum are taken over the finite valid
    voxels of the whole volume (not per slice: the paper's choice); padding, NaN and infinities
    become 0; a volume of one value becomes all 0. Slices are resized to a square whatever their
    aspect, as in the paper: a copy is squeezed as its original is.
    Raises ValueError for other shapes and for a size below 1.
    """
    if voxels.ndim != 3 or 0 in voxels.shape:
        raise ValueError(f"a volume is (slice, row, column) and not empty, found {voxels.shape}")
    if valid is not None and valid.shape != voxels.shape:
        raise ValueError(f"the validity mask is {valid.shape}, the volume {voxels.shape}")
    if size < 1:
        raise ValueError(f"the size of a slice is at least 1 pixel, found {size}")
    low, span = _range(voxels, valid)
    prepared = np.empty((len(voxels), size, size), np.float32)
    for index, plane in enumerate(voxels):
        unit = _unit(plane, None if valid is None else valid[index], low, span)
        prepared[index] = _square(unit, size)
    np.rint(prepared * np.float32(LEVELS - 1), out=prepared)
    prepared /= np.float32(LEVELS - 1)
    return prepared


def digest_slices(prepared: NDArray[np.float32]) -> list[bytes]:
    """A 16-byte BLAKE2b per prepared slice: equal slices share one node of the index.

    Hashed are the grey levels as little-endian uint16, row by row, after a header of rows and
    columns, so that neither the machine nor the float representation matters.
    """
    levels = np.rint(prepared * np.float32(LEVELS - 1)).astype("<u2")
    header = np.array(prepared.shape[1:], "<u4").tobytes()
    return [blake2b(header + p.tobytes(), digest_size=DIGEST_BYTES).digest() for p in levels]


def normalise(
    prepared: NDArray[np.float32],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> NDArray[np.float32]:
    """The model's input (n, channels, size, size): grey repeated per channel, minus mean, over std.

    ``mean`` and ``std`` have one number per channel, as the manifest states them.
    """
    if len(mean) != len(std):
        raise ValueError(f"{len(mean)} means for {len(std)} standard deviations")
    if len(mean) == 1 and mean[0] == 0.0 and std[0] == 1.0:
        return np.ascontiguousarray(prepared[:, np.newaxis], np.float32)
    channels = [(prepared - np.float32(m)) / np.float32(s) for m, s in zip(mean, std, strict=True)]
    return np.stack(channels, axis=1).astype(np.float32, copy=False)


def _range(voxels: NDArray[np.float32], valid: NDArray[np.bool_] | None) -> tuple[float, float]:
    """Minimum and span of what counts; a span of 0 says that there is nothing to stretch."""
    low, high = np.inf, -np.inf
    for index, plane in enumerate(voxels):
        counted = np.isfinite(plane)
        if valid is not None:
            counted &= valid[index]
        if counted.all():
            low, high = min(low, float(plane.min())), max(high, float(plane.max()))
        elif counted.any():
            kept = plane[counted]
            low, high = min(low, float(kept.min())), max(high, float(kept.max()))
    span = high - low
    if not np.isfinite(span) or span <= 0:
        return 0.0, 0.0
    return low, span


def _unit(
    plane: NDArray[np.float32],
    valid: NDArray[np.bool_] | None,
    low: float,
    span: float,
) -> NDArray[np.float32]:
    """One plane in [0, 1], with 0 wherever there is no valid finite value."""
    if span == 0:
        return np.zeros(plane.shape, np.float32)
    finite = np.isfinite(plane)
    wide = plane.astype(np.float64) if span > LARGEST_SPAN else plane
    with np.errstate(invalid="ignore"):
        unit = ((wide - low) / span).astype(np.float32, copy=False)
    if not finite.all():
        unit = np.where(finite, unit, np.float32(0))
    if valid is not None:
        unit = np.where(valid, unit, np.float32(0))
    return np.clip(unit, 0, 1)


def _square(unit: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Pillow's bilinear filter, whose support grows with the reduction (antialiasing)."""
    image = Image.fromarray(np.ascontiguousarray(unit), mode=None)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(image, np.float32), 0, 1)
