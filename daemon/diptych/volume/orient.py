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
from typing import Any

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
    order = [0, 2, 1] if turned > straight else [0, 1, 2]
    directions = directions[:, order]
    flips = (
        bool(directions[slice_axis, 0] < 0),
        bool(directions[row_axis, 1] * row_sign < 0),
        bool(directions[column_axis, 2] * column_sign < 0),
    )
    if order == [0, 1, 2] and not any(flips):
        return volume
    # In one step: a Volume looks through all of its voxels when it is made.
    return _placed(volume, order, flips)


def _placed(volume: Volume, order: list[int], flips: tuple[bool, bool, bool]) -> Volume:
    """Axes in this order, and of the axes as they then are these reversed."""
    affine = volume.affine[:, [*order, 3]]
    backwards = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    shape = [volume.array.shape[axis] for axis in order]
    for axis, flip in enumerate(flips):
        if flip:
            mirror: npt.NDArray[np.float64] = np.eye(4)
            mirror[axis, axis] = -1.0
            mirror[axis, 3] = shape[axis] - 1
            affine = affine @ mirror
    first, second, third = (volume.spacing[axis] for axis in order)
    mirrored: dict[str, Any] = {}
    if flips[0]:
        count, end = len(volume.array), volume.positions[-1]
        mirrored = {
            "positions": tuple(end - position for position in reversed(volume.positions)),
            "digests": volume.digests[::-1],
            "constant": volume.constant[::-1],
            "gaps": tuple(
                replace(gap, after=count - 2 - gap.after) for gap in reversed(volume.gaps)
            ),
        }
    return replace(
        volume,
        array=volume.array.transpose(order)[backwards],
        valid=None if volume.valid is None else volume.valid.transpose(order)[backwards],
        affine=affine,
        spacing=(first, second, third),
        **mirrored,
    )
