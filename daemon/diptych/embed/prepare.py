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
    extremes: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """Prepared slices, float32 (n, size, size) in [0, 1], in multiples of 1/(LEVELS - 1).

    ``voxels`` is (slice, row, column), any finite or non-finite real numbers; ``valid`` has the
    same shape and is False on pixel padding. Minimum and maximum are taken over the finite valid
    voxels of the whole volume (not per slice: the paper's choice); padding, NaN and infinities
    become 0; a volume of one value becomes all 0. Slices are resized to a square whatever their
    aspect, as in the paper: a copy is squeezed as its original is. ``extremes``: that minimum and
    maximum, from a caller that knows them and that all voxels are finite (``Volume.extremes``).
    Raises ValueError for other shapes and for a size below 1.
    """
    if voxels.ndim != 3 or 0 in voxels.shape:
        raise ValueError(f"a volume is (slice, row, column) and not empty, found {voxels.shape}")
    if valid is not None and valid.shape != voxels.shape:
        raise ValueError(f"the validity mask is {valid.shape}, the volume {voxels.shape}")
    if size < 1:
        raise ValueError(f"the size of a slice is at least 1 pixel, found {size}")
    low, span, finite = _range(voxels, valid, extremes)
    prepared = np.empty((len(voxels), size, size), np.float32)
    unit = np.empty(voxels.shape[1:], np.float32)
    for index, plane in enumerate(voxels):
        _unit(plane, None if valid is None else valid[index], low, span, finite, unit)
        _square(unit, prepared[index])
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


def _range(
    voxels: NDArray[np.float32],
    valid: NDArray[np.bool_] | None,
    extremes: tuple[float, float] | None,
) -> tuple[float, float, bool]:
    """Minimum and span of what counts, and whether all voxels are finite.

    A span of 0 says that there is nothing to stretch.
    """
    low, high, finite = *(extremes or (np.inf, -np.inf)), True
    for index, plane in enumerate(voxels if extremes is None else ()):
        least, most = float(plane.min()), float(plane.max())
        plain = bool(np.isfinite(least) and np.isfinite(most))  # NaN is passed on by both
        finite = finite and plain
        if not plain or valid is not None:
            counted = np.isfinite(plane)
            if valid is not None:
                counted &= valid[index]
            if not counted.any():
                continue
            kept = plane[counted]
            least, most = float(kept.min()), float(kept.max())
        low, high = min(low, least), max(high, most)
    span = high - low
    if not np.isfinite(span) or span <= 0:
        return 0.0, 0.0, finite
    return low, span, finite


def _unit(
    plane: NDArray[np.float32],
    valid: NDArray[np.bool_] | None,
    low: float,
    span: float,
    finite: bool,
    unit: NDArray[np.float32],
) -> None:
    """One plane in [0, 1] into ``unit``, with 0 wherever there is no valid finite value."""
    if span == 0:
        unit.fill(0)
        return
    if span > LARGEST_SPAN or plane.dtype != np.float32:
        with np.errstate(invalid="ignore"):
            unit[...] = (plane.astype(np.float64) - low) / span
    else:
        with np.errstate(invalid="ignore"):
            np.subtract(plane, low, out=unit)
            np.divide(unit, span, out=unit)
    if not finite:
        unit[~np.isfinite(plane)] = 0
    if valid is not None:
        unit[~valid] = 0
    np.clip(unit, 0, 1, out=unit)


def _square(unit: NDArray[np.float32], target: NDArray[np.float32]) -> None:
    """Pillow's bilinear filter, whose support grows with the reduction (antialiasing).

    Into ``target`` (size, size), in multiples of 1/(LEVELS - 1).
    """
    image = Image.fromarray(unit)
    if image.size != target.shape:
        image = image.resize(target.shape, Image.Resampling.BILINEAR)
    np.clip(np.asarray(image), 0, 1, out=target)
    np.multiply(target, np.float32(LEVELS - 1), out=target)
    np.rint(target, out=target)
    np.divide(target, np.float32(LEVELS - 1), out=target)
