"""Verification of one candidate in 3D: is this the same scan, and which part of it?

align → compare → one number, the *corrected correlation*: the correlation of the second and third
band (see :mod:`diptych.judge.compare`), freed from the white noise that was added to either side
and averaged by how surely each band knows it. On the calibration cases a copy has 0.95 and more
under every operation that leaves its detail, 0.92 and more (all but one) under noise of 0.4 and
0.8, and 0.7 to 0.98 under the strongest blurs; other people's images have 0.5, at most 0.85, and up
to 0.94 where either side is blurred so far that only what people share is left.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from diptych.judge.align import Alignment, align, pictures, realign
from diptych.judge.check import Band, Check, Impossible, Interval
from diptych.judge.compare import Comparison, compare
from diptych.judge.count import CaseId
from diptych.judge.policy import SURE
from diptych.judge.proxy import Proxy, Stack, turned_round

DECIDING = (1, 2)
"""Bands: the finest holds noise and interpolation's traces, the coarsest what people share."""
SPREAD = 0.1
"""Added to each band's own error, so that no band speaks alone."""
LEAST_BLOCKS = 400
"""Of the first deciding band in the overlap. A hippocampus beside a chest, on the chest's grid, is
a few dozen blocks, and those agree with somewhere by chance."""
BLURRY = 1.9
"""Voxels of blur from which the sides are aligned again at one sharpness."""
CENTRE = 0.25
"""Of a slice: how far outside the common interval a slice's centre may lie."""


def verify(case: CaseId, ours: Proxy | None, theirs: Proxy | None) -> Check:
    """Align the candidate's proxy with ours and compare them.

    A stack that is ordered by numbers alone may run either way: then both are tried.
    """
    if ours is None or theirs is None:
        return Check(case, Impossible.NO_PROXY)
    found = _verify(case, ours, theirs)
    if "inferred" not in (ours.geometry, theirs.geometry) or found.correlation >= SURE:
        return found
    # The other may be the guessed one, but which of the two is turned makes no difference.
    other = _verify(case, turned_round(ours), theirs)
    return replace(other, backwards=True) if other.correlation > found.correlation else found


def _verify(case: CaseId, ours: Proxy, theirs: Proxy) -> Check:
    ready = pictures(ours, theirs)
    if ready is None:
        return Check(case, Impossible.TOO_SMALL)
    alignment = align(*ready, ours.stack.axis)
    found = None if alignment is None else compare(*ready, alignment)
    if alignment is not None and found is not None and abs(found.blur) >= BLURRY:
        # One side has edges that the other has not: they were aligned on different things.
        alignment = realign(*ready, alignment, found.blur)
        found = compare(*ready, alignment)
    if alignment is None or found is None:
        return Check(case, Impossible.NO_OVERLAP)
    if found.bands[DECIDING[0]].n < LEAST_BLOCKS:
        return Check(case, Impossible.TOO_SMALL)
    step = ready[0].spacing_mm
    correlation, error, noisy, inverted = corrected(found)
    intervals = common_slices(ours, theirs, alignment, step)
    middles = [(np.array(side.values.shape) - 1) / 2 for side in ready]
    shift = (alignment.place - alignment.centre - middles[1] + middles[0]) * step
    return Check(
        case,
        None,
        round(correlation, 4),
        round(error, 4),
        round(alignment.angle, 2),
        (round(float(shift[0]), 2), round(float(shift[1]), 2), round(float(shift[2]), 2)),
        round(found.blur * step, 2),
        round(noisy, 4),
        inverted,
        (round(found.overlap[0], 3), round(found.overlap[1], 3)),
        *intervals,
        step,
        tuple(Band(round(b.r, 4), round(b.ours, 5), round(b.theirs, 5), b.n) for b in found.bands),
    )


def corrected(found: Comparison) -> tuple[float, float, float, bool]:
    """(correlation, standard error, noise, inverted): the deciding bands without the noise, and the
    share of their power that was taken for noise."""
    values, weights, noise = [], [], []
    for b in DECIDING:
        band = found.bands[b]
        if band.ours <= 0 or band.theirs <= 0:
            continue
        ours, theirs = found.signals[b]
        gain = band.ours * band.theirs / max(ours * theirs, 1e-3 * band.ours * band.theirs)
        # a block mean's eight children have seven degrees of freedom
        error = gain * math.sqrt((1 - band.r**2) / (band.n * 7 / 8))
        values.append(gain * band.r)
        weights.append(1 / (error**2 + SPREAD**2))
        noise.append(1 - 1 / gain**2)
    if not weights:
        return 0.0, 1.0, 0.0, False
    mean = float(np.average(values, weights=weights))
    taken = float(np.average(noise, weights=weights))
    return min(1.0, abs(mean)), math.sqrt(1 / sum(weights)), max(0.0, taken), mean < 0


def common_slices(
    ours: Proxy, theirs: Proxy, alignment: Alignment, step: float
) -> tuple[Interval, Interval]:
    """The slices of either stack that lie inside the other."""
    axis = ours.stack.axis
    # both grids begin at an outer corner, so that a voxel's middle is (index + ½)·step on either
    offset = float(alignment.place[axis] - alignment.centre[axis]) * step
    our_start = ours.stack.first_mm(ours.values.shape[axis] * ours.spacing_mm)
    their_start = theirs.stack.first_mm(theirs.values.shape[axis] * theirs.spacing_mm) - offset
    our_end = our_start + ours.stack.slices * ours.stack.pitch_mm
    their_end = their_start + theirs.stack.slices * theirs.stack.pitch_mm
    low, high = max(our_start, their_start), min(our_end, their_end)
    return (
        _interval(ours.stack, low - our_start, high - our_start),
        _interval(theirs.stack, low - their_start, high - their_start),
    )


def _interval(stack: Stack, low: float, high: float) -> Interval:
    """Slices whose centres lie between ``low`` and ``high`` mm from the stack's lower face."""
    if stack.backwards:
        length = stack.slices * stack.pitch_mm
        low, high = length - high, length - low
    first = max(1, math.ceil(low / stack.pitch_mm + 0.5 - CENTRE))
    last = min(stack.slices, math.floor(high / stack.pitch_mm + 0.5 + CENTRE))
    return Interval(first, last, stack.slices, round(low, 2), round(high, 2))
