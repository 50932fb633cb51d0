"""Pictures of the ladder's worst mistakes: the query, what it was held against, the difference.

Both volumes are read again, in full: the transform that verification found on their proxies is
applied to the voxels themselves, so that a reader sees more than the ladder saw.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from diptych.evaluate.answers import Mistake
from diptych.evaluate.cells import label
from diptych.evaluate.figures import STYLE, save
from diptych.evaluate.product_results import FOUND
from diptych.judge import ladder, proxy
from diptych.judge.align import rotation
from diptych.judge.check import Check
from diptych.judge.policy import Policy
from diptych.judge.proxy import Proxy
from diptych.judge.verify import verify
from diptych.volume.orient import canonical_slices
from diptych.volume.value import Volume

WORST = 10
SHADES = (1, 99)
"""Percentiles that are black and white."""
STRONGEST = 0.5
"""Of the range from black to white: a difference that has the deepest colour."""
UNKNOWN = "#F5E6A8"
GREYS = colormaps["gray"].with_extremes(bad=UNKNOWN)
SIGNS = colormaps["RdBu_r"].with_extremes(bad=UNKNOWN)
LETTERS = 60
"""In a line of words beside the pictures."""

Plane = NDArray[np.float64]
"""(row, column); NaN where nothing is known."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One mistake. ours: a slice of the query; theirs: what lies there in the other one;
    difference: ours less theirs, theirs brought to our intensities; None: never aligned.
    aspect: a row's height by a column's width. words: what is to be said, line by line."""

    ours: Plane
    theirs: Plane
    difference: Plane | None
    aspect: float
    words: tuple[str, ...]


def worst(mistakes: Iterable[Mistake]) -> list[Mistake]:
    """Wrong calls first, those most above what is demanded; then lost copies, those most below."""

    def badness(mistake: Mistake) -> tuple[bool, float, str, str]:
        called = mistake.relation in FOUND
        far = -mistake.margin if called else mistake.margin
        return not called, far, mistake.case, label(mistake.transform)

    return sorted(mistakes, key=badness)[:WORST]


def picture(mistake: Mistake, ours: Volume, theirs: Volume, policy: Policy) -> Picture:
    """Align the two once more, as the ladder did, and cut both."""
    a, b = (_proxy(each) for each in (ours, theirs))
    check = verify(0, a, b)
    words = said(mistake, check, policy)
    first, last = 0, len(ours.array) - 1
    if check.ours is not None and check.ours.slices:
        first, last = check.ours.first - 1, check.ours.last - 1
    number, oriented = (first + last) // 2, canonical_slices(ours)
    if oriented.affine[:3, 0] @ ours.affine[:3, 0] < 0:
        number = len(ours.array) - 1 - number
    own = oriented.array[number].astype(np.float64)
    aspect = oriented.spacing[1] / oriented.spacing[2]
    if check.impossible is not None:
        other = canonical_slices(theirs).array[len(theirs.array) // 2].astype(np.float64)
        return Picture(own, other, None, aspect, words)
    there = _resampled(theirs, _ours_to_theirs(oriented, a, theirs, b, check), number, own.shape)
    return Picture(own, there, _difference(own, there), aspect, words)


def said(mistake: Mistake, check: Check, policy: Policy) -> tuple[str, ...]:
    """What went wrong, of which files, and what was found and demanded."""
    if mistake.relation not in FOUND:
        what = f"Copy lost: {mistake.relation}"
    elif mistake.side == "copy":
        what = f"Copy called {mistake.relation} of another case"
    else:
        what = f"Stranger called {mistake.relation}"
    lines = [
        what,
        f"query: {_text(mistake.case)}, {label(mistake.transform)}",
        f"{'matched' if mistake.relation in FOUND else 'true'} case: {_text(mistake.against)}",
    ]
    if check.impossible is not None:
        return (*lines, f"cannot be aligned: {check.impossible.value}")
    lines.append(ladder.said(check))
    asked = f"demanded {ladder.demanded(check, policy):.3f}"
    if check.error > policy.max_error:
        asked += f", with an error of {policy.max_error:g} at most"
    if max(check.overlap) < policy.min_overlap:
        shared = f"{max(check.overlap):.2f} of the foreground in common"
        asked += f"; {shared}, demanded {policy.min_overlap:g}"
    lines.append(asked)
    if not mistake.tried and mistake.relation not in FOUND:
        lines.append("the ladder did not try this case: it was no candidate")
    return tuple(lines)


def draw(out: Path, pictures: Sequence[Picture]) -> tuple[Path, ...]:
    """``mistakes.png`` and ``.svg`` in out, a row per mistake; the paths. ValueError: none."""
    if not pictures:
        raise ValueError("no mistake to draw")
    with rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(11, 2.5 * len(pictures) + 0.4), layout="constrained")
        rows = figure.subplots(len(pictures), 4, squeeze=False, width_ratios=(1, 1, 1, 1.75))
        for axes, one in zip(rows, pictures, strict=True):
            for each in axes:
                each.set_axis_off()
            _grey(axes[0], one.ours, one.aspect)
            _grey(axes[1], one.theirs, one.aspect)
            if one.difference is not None:
                _signed(axes[2], one.difference, one.aspect)
            lines = [part for line in one.words for part in textwrap.wrap(line, LETTERS)]
            # A file's name may hold what would be taken for a formula.
            axes[3].text(0, 0.5, "\n".join(lines), va="center", fontsize=8, parse_math=False)
        for axes, title in zip(rows[0], ("query", "held against", "difference"), strict=False):
            axes.set_title(title)
        return save(figure, out, "mistakes")


def _proxy(volume: Volume) -> Proxy:
    content = proxy.encode(
        volume.array, volume.affine, valid=volume.valid, geometry=volume.geometry
    )
    return proxy.decode(content)


def _ours_to_theirs(
    ours: Volume, a: Proxy, theirs: Volume, b: Proxy, check: Check
) -> NDArray[np.float64]:
    """4×4: (slice, row, column, 1) of ours → of theirs, by the transform that was found.

    voxel → LPS mm → mm along our proxy's axes from the middle of the compared grid → rotation and
    shift → the same of theirs, backwards.
    """
    turn = np.eye(4)
    turn[:3, :3] = rotation(check.rotation_degrees, a.stack.axis)
    turn[:3, 3] = check.shift_mm
    there = np.linalg.inv(_from_middle(b, check.spacing_mm) @ theirs.affine)
    mapped: NDArray[np.float64] = there @ turn @ _from_middle(a, check.spacing_mm) @ ours.affine
    return mapped


def _from_middle(side: Proxy, step: float) -> NDArray[np.float64]:
    """4×4: LPS mm → mm along (S, P, L) from the middle of a grid of ``step`` over the proxy."""
    # Both grids begin at one outer corner; the coarser one may reach beyond the finer.
    cells = np.ceil(np.array(side.values.shape) * side.spacing_mm / step - 1e-6)
    scale = np.diag([side.spacing_mm] * 3 + [1.0])
    scale[:3, 3] = side.spacing_mm / 2 - np.maximum(cells, 1) * step / 2
    placed: NDArray[np.float64] = scale @ np.linalg.inv(side.affine)
    return placed


def _resampled(
    theirs: Volume, matrix: NDArray[np.float64], number: int, shape: tuple[int, ...]
) -> Plane:
    """What lies where our slice is."""
    rows, columns = np.indices(shape).reshape(2, -1)
    ours = np.stack([np.full(rows.shape, number), rows, columns, np.ones(rows.shape)])
    where = (matrix @ ours)[:3]
    values = ndimage.map_coordinates(
        theirs.array.astype(np.float64), where, order=1, cval=np.nan, mode="constant"
    )
    return np.asarray(values, np.float64).reshape(shape)


def _difference(ours: Plane, theirs: Plane) -> Plane:
    """Theirs taken away, under the gain and offset that leave least; 1 is from black to white."""
    both = np.isfinite(theirs)
    low, high = np.percentile(ours, SHADES)
    if not both.any() or theirs[both].std() == 0:
        return np.full(ours.shape, np.nan)
    gain, offset = np.polyfit(theirs[both], ours[both], 1)
    return np.asarray((ours - gain * theirs - offset) / max(float(high - low), 1e-9))


def _grey(axes: Axes, plane: Plane, aspect: float) -> None:
    known = plane[np.isfinite(plane)]
    low, high = np.percentile(known, SHADES) if known.size else (0.0, 1.0)
    axes.imshow(plane, cmap=GREYS, vmin=low, vmax=max(high, low + 1e-9), aspect=aspect)


def _signed(axes: Axes, plane: Plane, aspect: float) -> None:
    axes.imshow(plane, cmap=SIGNS, vmin=-STRONGEST, vmax=STRONGEST, aspect=aspect)


def _text(path: str) -> str:
    """A path may hold bytes that are no text."""
    return path.encode("utf-8", "backslashreplace").decode()
