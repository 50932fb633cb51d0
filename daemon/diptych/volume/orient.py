"""Native planes turned and flipped to the closest LPS axes, so that two copies look alike.

No resampling: slices stay the acquired planes (sagittal stays sagittal); only their rows and
columns are exchanged or reversed, and the order of slices. The target is how radiologists hang
images:

| plane    | slices go to | rows go to | columns go to |
|----------|--------------|------------|---------------|
| axial    | head         | back       | left          |
| coronal  | back         | feet       | left          |
| sagittal | left         | feet       | back          |
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .value import Volume

_LEFT, _BACK, _HEAD = 0, 1, 2  # axes of LPS

_ROWS_COLUMNS = {
    _HEAD: ((_BACK, 1), (_LEFT, 1)),
    _BACK: ((_HEAD, -1), (_LEFT, 1)),
    _LEFT: ((_HEAD, -1), (_BACK, 1)),
}
"""Slice axis → (axis, sign) of increasing row index, of increasing column index."""


def canonical_slices(volume: Volume) -> Volume:
    """The same volume with planes in the table's orientation; views, no copy of the array.

    Unchanged when ``volume.oriented`` is False: then nothing says how it lies. Slice order follows
    the table too, so ``positions`` are mirrored to stay ascending from the new first slice.
    """
    if not volume.oriented:
        return volume
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    # The normal, not the slice direction: a tilted gantry must not change the plane's name.
    normal = np.cross(directions[:, 2], directions[:, 1])
    slice_axis = int(np.argmax(np.abs(normal)))
    (row_axis, row_sign), (column_axis, column_sign) = _ROWS_COLUMNS[slice_axis]
    straight = abs(directions[column_axis, 2]) + abs(directions[row_axis, 1])
    turned = abs(directions[row_axis, 2]) + abs(directions[column_axis, 1])
    result = volume
    if turned > straight:
        result = _turned(result)
        directions = directions[:, [0, 2, 1]]
    if directions[slice_axis, 0] < 0:
        result = _flipped(result, 0)
    if directions[row_axis, 1] * row_sign < 0:
        result = _flipped(result, 1)
    if directions[column_axis, 2] * column_sign < 0:
        result = _flipped(result, 2)
    return result


def _turned(volume: Volume) -> Volume:
    step, row, column = volume.spacing
    return replace(
        volume,
        array=volume.array.transpose(0, 2, 1),
        valid=None if volume.valid is None else volume.valid.transpose(0, 2, 1),
        affine=volume.affine[:, [0, 2, 1, 3]],
        spacing=(step, column, row),
    )


def _flipped(volume: Volume, axis: int) -> Volume:
    flip: npt.NDArray[np.float64] = np.eye(4)
    flip[axis, axis] = -1.0
    flip[axis, 3] = volume.array.shape[axis] - 1
    changed = replace(
        volume,
        array=np.flip(volume.array, axis),
        valid=None if volume.valid is None else np.flip(volume.valid, axis),
        affine=volume.affine @ flip,
    )
    if axis != 0:
        return changed
    count, end = len(volume.array), volume.positions[-1]
    return replace(
        changed,
        positions=tuple(end - position for position in reversed(volume.positions)),
        digests=tuple(reversed(volume.digests)),
        constant=tuple(reversed(volume.constant)),
        gaps=tuple(replace(gap, after=count - 2 - gap.after) for gap in reversed(volume.gaps)),
    )
