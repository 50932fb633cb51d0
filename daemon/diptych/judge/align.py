"""Where one proxy lies in another: rotation about the slice normal, and shift, in millimetres.

Coarse to fine. Coarse: on grids of about :data:`COARSE` cells a side, every angle of
:data:`ANGLES` and every shift at once, by masked normalised cross-correlation over Fourier
transforms (Padfield 2012, "Masked object registration in the Fourier domain"). Fine: Gauss–Newton
on rotation and shift, the intensities related by a gain (negative after an inversion) and an
offset, on smoothed and then on less smoothed voxels. The grid is fixed in millimetres: one that
depended on an array's size would not bring a crop back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from diptych.judge.noise import Noise, white
from diptych.judge.proxy import SPACINGS_MM, Proxy, averaged

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]
Vector = NDArray[np.float64]
Waves = NDArray[np.complexfloating]

COARSE = 24
"""Cells along the longer side of the coarse grid: 22 mm of a whole body, 8 of a head."""
ANGLES = (0.0, -7.0, 7.0, -14.0, 14.0, -21.0, 21.0)
"""Degrees. Gauss–Newton finds its way from 3.5 beside the truth."""
FINE_VOXELS = 56**3
"""The finest grid holds at most so many voxels of either side."""
LEAST_SHARE = 0.25
"""Of the smaller side's foreground: less overlap is not looked at."""
LEAST_VOXELS = 200
"""Foreground voxels below which nothing can be said."""
POINTS = (6000, 12000)
"""Voxels that Gauss–Newton looks at, coarse and fine."""
SMOOTH = (2.0, 1.0)
"""Their Gaussian in voxels."""
STEPS = (8, 5)
ABREAST = 0.9
"""A second angle that has so much of the first one's weight is tried as well."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A proxy made ready to be aligned: values float32 in about [0, 1] over its foreground, 0
    elsewhere; mask: the foreground. Axes (S, P, L), ``spacing_mm`` along all of them. white: what
    noise of the acquired voxels leaves in each band."""

    values: Field
    mask: Mask
    spacing_mm: float
    white: Noise


@dataclass(frozen=True, eq=False)
class Alignment:
    """Maps a voxel of ours to theirs: y = R(angle) (x - centre) + place, in voxels of the grid.

    angle: degrees about ``axis``. place: where the centre of ours lies in theirs. weight: how much
    speaks for it, Fisher's z of the absolute correlation times the root of the shared part; half of
    an image that agrees well by chance does not outweigh the whole.
    """

    axis: int
    angle: float
    place: Vector
    centre: Vector
    weight: float


def pictures(ours: Proxy, theirs: Proxy) -> tuple[Picture, Picture] | None:
    """Both on one grid: the coarser of the two steps, or one that holds few enough voxels. None:
    nothing is left of one of them."""
    least = max(ours.spacing_mm, theirs.spacing_mm)
    steps = [least, *(s for s in SPACINGS_MM if s > least)]
    most = max(p.values.size * p.spacing_mm**3 for p in (ours, theirs))
    step = next((s for s in steps if most / s**3 <= FINE_VOXELS), steps[-1])
    a, b = picture(ours, step), picture(theirs, step)
    return None if a is None or b is None else (a, b)


def picture(proxy: Proxy, step: float) -> Picture | None:
    """One proxy on a grid of ``step`` mm; None: too little of it."""
    inside = _foreground(proxy)
    values, share = averaged(proxy.values, inside, proxy.spacing_mm, step)
    mask = share > 0.5
    if mask.sum() < LEAST_VOXELS:
        return None
    low, high = np.percentile(values[mask], (1, 99))
    scaled = np.clip((values - low) / max(float(high - low), 1e-9), -0.2, 1.2)
    return Picture(np.where(mask, scaled, 0).astype(np.float32), mask, step, white(proxy, step))


def align(ours: Picture, theirs: Picture, axis: int) -> Alignment | None:
    """The best transform found; None when nothing overlaps. axis: of our slice normal, 0…2."""
    found = _coarse(ours, theirs, axis)
    if not found:
        return None
    near = [start for start in found[:2] if start.weight >= ABREAST * found[0].weight]
    fields = _smooth(ours, SMOOTH[0]), _smooth(theirs, SMOOTH[0])
    refined = [_refine(ours, theirs, start, *fields, POINTS[0], STEPS[0]) for start in near]
    best = max(refined, key=lambda each: each.weight)
    fields = _smooth(ours, SMOOTH[1]), _smooth(theirs, SMOOTH[1])
    return _refine(ours, theirs, best, *fields, POINTS[1], STEPS[1])


def realign(ours: Picture, theirs: Picture, start: Alignment, blur: float) -> Alignment:
    """Once more from ``start``, theirs blurred by so many voxels (negative: ours)."""
    fields = [
        _smooth(side, math.hypot(SMOOTH[1], max(0.0, sign * blur)))
        for side, sign in ((ours, -1), (theirs, 1))
    ]
    return _refine(ours, theirs, start, fields[0], fields[1], POINTS[1], 2 * STEPS[1])


def rotation(degrees: float, axis: int) -> Vector:
    """3×3, about one axis of (S, P, L)."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = (k for k in range(3) if k != axis)
    out = np.eye(3)
    out[i, i] = out[j, j] = cos
    out[i, j], out[j, i] = sin, -sin
    return out


def _foreground(proxy: Proxy) -> Mask:
    """Without what is exactly the smallest value (air, what a rotation filled in), unless that is
    nearly everything."""
    known = proxy.values[proxy.valid]
    if not known.size:
        return proxy.valid
    above: Mask = proxy.valid & (proxy.values > known.min())
    return above if above.sum() > 0.05 * known.size else proxy.valid


def _coarse(ours: Picture, theirs: Picture, axis: int) -> list[Alignment]:
    """One start for every angle, best correlation first."""
    longest = max(*ours.values.shape, *theirs.values.shape)
    shrink = max(1, -(-longest // COARSE))
    d, their_share = averaged(theirs.values, theirs.mask, 1.0, shrink)
    q, our_share = averaged(ours.values, ours.mask, 1.0, shrink)
    m = their_share > 0.5
    centre = (np.array(ours.values.shape) - 1) / 2
    # the middle of a cell, in voxels, is shrink·cell + (shrink - 1)/2
    offset = (shrink - 1) / 2
    found = []
    side = _padded(q.shape, axis)
    shape = [fft.next_fast_len(a + b - 1, real=True) for a, b in zip(side, d.shape, strict=True)]
    known = _Transformed(np.where(m, d, 0), m.astype(np.float32), shape)
    for angle in ANGLES:
        turned, inside, middle = _turned(q, our_share, side, axis, angle)
        least = LEAST_SHARE * min(inside.sum(), m.sum())
        best = _correlate(_Transformed(turned, inside, shape), known, max(least, 8.0))
        if best is None:
            continue
        shift, weight = best
        # our centre, in cells of q, is in the middle of the turned array
        cells = (centre - offset) / shrink - (np.array(q.shape) - 1) / 2
        cells = rotation(angle, axis) @ cells + middle + shift
        found.append(Alignment(axis, angle, cells * shrink + offset, centre, weight))
    return sorted(found, key=lambda start: -start.weight)


def _padded(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Room for every rotation about ``axis``."""
    across = math.ceil(math.hypot(*(n for k, n in enumerate(shape) if k != axis)))
    return tuple(n if k == axis else across for k, n in enumerate(shape))


def _turned(
    q: Field, share: Field, side: tuple[int, ...], axis: int, angle: float
) -> tuple[Field, Field, Vector]:
    """q turned by ``angle`` in an array of ``side``, its mask, and the array's middle."""
    middle = (np.array(side) - 1) / 2
    # affine_transform asks where an output voxel comes from: the inverse
    inverse = rotation(angle, axis).T
    start = (np.array(q.shape) - 1) / 2 - inverse @ middle
    inside = (share > 0.5).astype(np.float32)
    values = ndimage.affine_transform(np.where(inside, q, 0), inverse, start, side, order=1)
    weight = ndimage.affine_transform(inside, inverse, start, side, order=1)
    mask = weight > 0.5
    known = np.where(mask, values / np.maximum(weight, 0.5), 0).astype(np.float32)
    return known, mask.astype(np.float32), middle


class _Transformed:
    """The three Fourier transforms of a masked field."""

    def __init__(self, values: Field, mask: Field, shape: list[int]) -> None:
        self.shape = shape
        masked = (values * mask).astype(np.float32)
        self.value: Waves = fft.rfftn(masked, shape)
        self.square = fft.rfftn(masked * masked, shape)
        self.mask = fft.rfftn(mask, shape)
        self.size = values.shape


def _correlate(q: _Transformed, d: _Transformed, least: float) -> tuple[Vector, float] | None:
    """The shift (cells) with the largest weight among those that share at least so many cells."""

    def over(a: Waves, b: Waves) -> Field:
        return np.asarray(fft.irfftn(np.conj(a) * b, q.shape), np.float32)

    n = over(q.mask, d.mask)
    enough = n >= least
    if not enough.any():
        return None
    n = np.maximum(n, np.float32(1))
    mean_q, mean_d = over(q.value, d.mask) / n, over(q.mask, d.value) / n
    var_q = over(q.square, d.mask) / n - mean_q**2
    var_d = over(q.mask, d.square) / n - mean_d**2
    both = over(q.value, d.value) / n - mean_q * mean_d
    steady = (var_q > 1e-5) & (var_d > 1e-5) & enough
    r = np.where(steady, both / np.sqrt(np.maximum(var_q * var_d, 1e-10)), 0)
    share = np.sqrt(np.minimum(n * (LEAST_SHARE / least), 1))
    weight = np.arctanh(np.minimum(np.abs(r), 0.999)) * share
    best = np.unravel_index(weight.argmax(), r.shape)
    shift = [i if i < n_d else i - n_all for i, n_d, n_all in
             zip(best, d.size, q.shape, strict=True)]  # fmt: skip
    return np.array(shift, float), float(weight[best])


def _smooth(side: Picture, sigma: float) -> Field:
    """Masked Gaussian; 0 outside the mask."""
    weight = ndimage.gaussian_filter(side.mask.astype(np.float32), sigma, truncate=2.5)
    values = ndimage.gaussian_filter(side.values, sigma, truncate=2.5)
    return np.where(side.mask, values / np.maximum(weight, 1e-3), 0).astype(np.float32)


def _refine(
    ours: Picture,
    theirs: Picture,
    start: Alignment,
    our_field: Field,
    their_field: Field,
    points: int,
    steps: int,
) -> Alignment:
    """Gauss–Newton from ``start``."""
    flat = np.flatnonzero(ours.mask)
    flat = flat[:: max(1, len(flat) // points)]
    x = np.stack(np.unravel_index(flat, ours.mask.shape), 1) - start.centre
    values = our_field.ravel()[flat]
    slopes = [
        np.gradient(their_field, axis=k) if n > 1 else np.zeros_like(their_field)
        for k, n in enumerate(their_field.shape)
    ]
    inside = theirs.mask.astype(np.float32)
    angle, place, weight = start.angle, start.place, 0.0
    smaller = min(1.0, float(theirs.mask.sum()) / float(ours.mask.sum())) * len(flat)
    for _ in range(steps):
        y = (x @ rotation(angle, start.axis).T + place).T
        there = ndimage.map_coordinates(inside, y, order=1) > 0.5
        if there.sum() < LEAST_VOXELS / 4:
            break
        y, mine = y[:, there], values[there]
        other = ndimage.map_coordinates(their_field, y, order=1)
        slope = np.stack([ndimage.map_coordinates(s, y, order=1) for s in slopes], 1)
        per_degree = rotation(angle + 0.5, start.axis) - rotation(angle - 0.5, start.axis)
        turning = (slope * (x[there] @ per_degree.T)).sum(1)
        centred, other = mine - mine.mean(), other - other.mean()
        variance = float(other @ other)
        if variance < 1e-6 * len(other):
            break
        gain = float(centred @ other) / variance
        r = abs(gain) * math.sqrt(variance / max(float(centred @ centred), 1e-12))
        weight = math.atanh(min(r, 0.999)) * math.sqrt(min(1.0, len(other) / smaller))
        jacobian = gain * np.column_stack([turning, slope])
        jacobian -= jacobian.mean(0)
        normal = jacobian.T @ jacobian
        normal[np.diag_indices(4)] += 1e-3 * normal.diagonal() + 1e-9
        step = np.linalg.solve(normal, jacobian.T @ (centred - gain * other))
        step = np.clip(step, -3, 3)
        angle, place = angle + float(step[0]), place + step[1:]
        if np.abs(step).max() < 0.02:
            break
    return Alignment(start.axis, angle, place, start.centre, weight)
