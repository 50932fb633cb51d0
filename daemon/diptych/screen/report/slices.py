"""Two aligned scans as strips of slices: the delivered one, the other laid onto it, the difference.

Made from verification proxies, on the delivered one's grid. The other is resampled with the
transform of its ``Check`` (linear), and its grey values are brought to the delivered one's by one
gain and one offset, so that what is left in the difference is no matter of brightness.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diptych.judge.align import pictures, rotation
from diptych.judge.check import Check
from diptych.judge.proxy import Proxy, turned_round

SHOWN = 5
"""Slices in a strip."""
FULL_COLOUR = 0.3
"""Difference, as a share of the delivered one's range of grey, that has the strongest colour."""
_WINDOW = (1.0, 99.5)
_GAP = 3
_PLANES = ("axial", "coronal", "sagittal")
_NOTHING = (226, 223, 214)
_BRIGHTER, _DARKER = np.array([166, 68, 0.0]), np.array([18, 78, 150.0])

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Strips:
    """PNG files. known, difference: None where there is no other picture. numbers: of the shown
    slices, from 1, in the acquired stack; known_numbers: in the other's. difference_share: the mean
    difference where both are, as a share of the delivered one's range of grey."""

    plane: str
    delivered: bytes
    numbers: tuple[int, ...]
    slices: int
    known: bytes | None = None
    known_numbers: tuple[int, ...] = ()
    difference: bytes | None = None
    difference_share: float | None = None
    size: tuple[int, int] = (0, 0)


def strips(ours: Proxy, theirs: Proxy | None, check: Check | None) -> Strips:
    """theirs, check: None where the other side is not to be seen, or was not aligned; then the
    delivered one is shown alone."""
    if theirs is None or check is None or check.impossible is not None:
        return _alone(ours)
    if check.backwards:
        ours = turned_round(ours)
    placed = _place(ours, theirs, check)
    if placed is None:
        return _alone(ours)
    axis = ours.stack.axis
    planes = _common(ours, theirs, placed)
    shown, there = _take(ours, planes)
    other, inside = _resampled(ours, theirs, placed, axis, planes)
    both = there & inside
    other = _same_grey(shown, other, both)
    low, high = _window(shown, there)
    change = (shown - other) / (high - low)
    size, known = _png(_grey(other, inside, low, high))
    _, delivered = _png(_grey(shown, there, low, high))
    _, difference = _png(_colour(change, both), gap_level=200)
    return Strips(
        _PLANES[axis],
        delivered,
        _numbers(ours, planes),
        ours.stack.slices,
        known,
        _numbers_there(theirs, placed, axis, ours, planes),
        difference,
        float(np.abs(change[both]).mean()) if both.any() else None,
        size,
    )


@dataclass(frozen=True)
class _Placed:
    """ours → theirs, in mm from the outer corner of each: R (x - middle) + place."""

    turn: NDArray[np.float64]
    middle: NDArray[np.float64]
    place: NDArray[np.float64]


def _place(ours: Proxy, theirs: Proxy, check: Check) -> _Placed | None:
    """The transform as ``judge.verify`` measured it, from the middles of the compared pictures."""
    ready = pictures(ours, theirs)
    if ready is None:
        return None
    middles = [np.array(side.values.shape) / 2 * side.spacing_mm for side in ready]
    turn = rotation(check.rotation_degrees, ours.stack.axis)
    return _Placed(turn, middles[0], middles[1] + np.array(check.shift_mm))


def _common(ours: Proxy, theirs: Proxy, placed: _Placed) -> list[int]:
    """Planes of ours to show, from those that lie inside theirs: the turn is about the normal, so
    a plane of ours falls on one plane of theirs."""
    axis = ours.stack.axis
    count = ours.values.shape[axis]
    depth = (np.arange(count) + 0.5) * ours.spacing_mm - placed.middle[axis] + placed.place[axis]
    inside = np.flatnonzero((depth > 0) & (depth < theirs.values.shape[axis] * theirs.spacing_mm))
    first, last = (int(inside[0]), int(inside[-1])) if inside.size else (0, count - 1)
    return _spread(ours, first, last + 1)


def _spread(proxy: Proxy, begin: int, end: int) -> list[int]:
    """Up to SHOWN planes, evenly, away from the ends; each of another acquired slice."""
    count = min(SHOWN, end - begin)
    planes = [begin + int((j + 0.5) * (end - begin) / count) for j in range(count)]
    return list(dict(zip(_numbers(proxy, planes), planes, strict=True)).values())


def _take(proxy: Proxy, planes: list[int]) -> tuple[Field, Mask]:
    """(plane, row, column), as one looks at them."""
    axis = proxy.stack.axis
    return (
        _upright(np.take(proxy.values, planes, axis), axis),
        _upright(np.take(proxy.valid, planes, axis), axis),
    )


def _upright(array: NDArray[Number], axis: int) -> NDArray[Number]:
    """Planes first; rows downwards: towards the back in axial planes, else towards the feet."""
    out = np.moveaxis(array, axis, 0)
    return out if axis == 0 else out[:, ::-1]


def _resampled(
    ours: Proxy, theirs: Proxy, placed: _Placed, axis: int, planes: list[int]
) -> tuple[Field, Mask]:
    grid = [np.arange(n) for n in ours.values.shape]
    grid[axis] = np.array(planes)
    at = np.stack(np.meshgrid(*grid, indexing="ij"))
    mm = (at.reshape(3, -1) + 0.5) * ours.spacing_mm - placed.middle[:, None]
    there = (placed.turn @ mm + placed.place[:, None]) / theirs.spacing_mm - 0.5
    values = ndimage.map_coordinates(theirs.values, there, order=1, mode="nearest")
    inside = ndimage.map_coordinates(theirs.valid.astype(np.float32), there, order=1) > 0.5
    shape = at.shape[1:]
    return _upright(values.reshape(shape), axis), _upright(inside.reshape(shape), axis)


def _same_grey(ours: Field, theirs: Field, both: Mask) -> Field:
    """theirs by the gain and offset that bring it nearest to ours where both are."""
    if both.sum() < 2:
        return theirs
    x, y = theirs[both].astype(np.float64), ours[both].astype(np.float64)
    variance = x.var()
    gain = float(((x - x.mean()) * (y - y.mean())).mean() / variance) if variance > 0 else 1.0
    brought: Field = ((theirs - x.mean()) * gain + y.mean()).astype(np.float32)
    return brought


def _window(values: Field, there: Mask) -> tuple[float, float]:
    known = values[there] if there.any() else values.ravel()
    low, high = (float(p) for p in np.percentile(known, _WINDOW))
    return low, max(high, low + 1e-6)


def _grey(values: Field, there: Mask, low: float, high: float) -> Bytes:
    level = np.clip((values - low) / (high - low), 0, 1) * 255
    out = np.repeat(np.rint(level)[..., None], 3, -1)
    out[~there] = 0
    levels: Bytes = out.astype(np.uint8)
    return levels


def _colour(change: Field, both: Mask) -> Bytes:
    """White: no difference; orange: the delivered one is brighter; blue: darker."""
    strength = np.clip(np.abs(change) / FULL_COLOUR, 0, 1)[..., None]
    hue = np.where(change[..., None] > 0, _BRIGHTER, _DARKER)
    out = 255 + strength * (hue - 255)
    out[~both] = _NOTHING
    levels: Bytes = np.rint(out).astype(np.uint8)
    return levels


def _png(planes: Bytes, gap_level: int = 255) -> tuple[tuple[int, int], bytes]:
    """(plane, row, column, 3) side by side; (width, height) and the file."""
    gap = np.full((planes.shape[1], _GAP, 3), gap_level, np.uint8)
    row: list[Bytes] = []
    for plane in planes:
        row += [plane, gap]
    picture = Image.fromarray(np.concatenate(row[:-1], 1))
    return picture.size, png(picture)


def png(picture: Image.Image) -> bytes:
    """As a file, small."""
    grey = picture.convert("L")
    if picture.mode == "RGB" and grey.convert("RGB").tobytes() == picture.tobytes():
        picture = grey
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def _numbers(proxy: Proxy, planes: list[int]) -> tuple[int, ...]:
    return _slice_numbers(proxy, (np.array(planes) + 0.5) * proxy.spacing_mm)


def _numbers_there(
    theirs: Proxy, placed: _Placed, axis: int, ours: Proxy, planes: list[int]
) -> tuple[int, ...]:
    """Of the other's stack; none where it was acquired in another plane."""
    if theirs.stack.axis != axis:
        return ()
    depth = (np.array(planes) + 0.5) * ours.spacing_mm - placed.middle[axis] + placed.place[axis]
    return _slice_numbers(theirs, depth)


def _slice_numbers(proxy: Proxy, depth: NDArray[np.float64]) -> tuple[int, ...]:
    """Of the acquired slices at these depths (mm from the outer corner), from 1."""
    stack = proxy.stack
    extent = proxy.values.shape[stack.axis] * proxy.spacing_mm
    index = np.floor((depth - stack.first_mm(extent)) / stack.pitch_mm).astype(int)
    index = np.clip(index, 0, stack.slices - 1)
    return tuple(int(stack.slices - i if stack.backwards else i + 1) for i in index)


def _alone(proxy: Proxy) -> Strips:
    planes = _spread(proxy, 0, proxy.values.shape[proxy.stack.axis])
    shown, there = _take(proxy, planes)
    size, delivered = _png(_grey(shown, there, *_window(shown, there)))
    return Strips(
        _PLANES[proxy.stack.axis],
        delivered,
        _numbers(proxy, planes),
        proxy.stack.slices,
        size=size,
    )
