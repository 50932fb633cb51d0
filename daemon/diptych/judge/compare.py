"""How alike two aligned proxies are, scale by scale: what separates a copy from a look-alike.

Anatomy is common at coarse scales: registered heads of two people correlate at 0.97 and more. What
belongs to one person, and to one acquisition, is fine. So both sides are split into octave bands of
block means (each band: blocks of 2ᵇ voxels minus blocks of 2ᵇ⁺¹, orthogonal, so that white noise of
variance σ² leaves σ²(8⁻ᵇ - 8⁻ᵇ⁻¹) in band b), and correlated band by band. A gain per band
does not matter to a correlation, so sharpening, windowing and mild blur cost little; strong blur is
brought to theirs first; noise is measured in the finest band and taken out of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from diptych.judge.align import Alignment, Field, Mask, Picture, rotation
from diptych.judge.check import Band
from diptych.judge.noise import BANDS, Noise

BLURS = (1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)
"""Voxels of the grid: Gaussians tried on the sharper side."""
START = 3
"""Which of them first; 0 would be none."""
SHARP = 0.88
"""Ours holds so much of theirs in the second band, beside the last, when neither is blurred."""
WORTH = (0.02, 0.4)
"""Unexplained power between which a Gaussian of two widths is looked for."""
LEFT_BY_BLUR = 0.1
"""Where noise and blur are both possible, blur is believed when it leaves less unexplained."""
NOISE_MARGIN = 1.2
"""Blocks that the mask cuts average less of the noise away than whole ones."""
WHITE = 1.6
"""White noise has an eighth of the finest band's power in the second, images as much or more: so
many times the former is still taken for noise."""
FEWEST = 16
"""Blocks below which a band says nothing."""
LEAST = 150
"""Voxels of overlap."""


Steps = tuple[int, int]


@dataclass(frozen=True)
class Comparison:
    """bands: finest first; signals: their (ours, theirs) without the white noise of the noisier
    side. overlap: share of our and of their foreground that the other covers.
    blur: the Gaussian, in voxels, that brought theirs to ours; negative: ours to theirs; 0: none
    was needed."""

    bands: tuple[Band, ...]
    signals: tuple[tuple[float, float], ...]
    overlap: tuple[float, float]
    blur: float


def compare(ours: Picture, theirs: Picture, alignment: Alignment) -> Comparison | None:
    """None when hardly anything overlaps."""
    values, mask = resampled(ours, theirs, alignment)
    both = ours.mask & mask
    n = int(both.sum())
    if n < LEAST:
        return None
    overlap = n / int(ours.mask.sum()), min(1.0, n / int(theirs.mask.sum()))
    mine, other = _Split(ours.values, both), _Split(values, both)
    bands = mine.against(other)
    white = ours.white, theirs.white
    signals = _without_noise(bands, white)
    fine, coarse = (signals[b][0] / max(signals[b][1], 1e-9) for b in (1, _coarsest(bands)))
    if SHARP * coarse <= fine <= coarse / SHARP:
        return Comparison(bands, signals, overlap, 0.0)
    if fine < coarse:
        spectrum = _Spectrum(values, mask, alignment.axis)
        matched = _matched(lambda *s: mine.against(_Split(spectrum.blurred(*s), both)), bands)
        blur = max(matched[1])
    else:
        spectrum = _Spectrum(ours.values, ours.mask, alignment.axis)
        matched = _matched(lambda *s: _Split(spectrum.blurred(*s), both).against(other), bands)
        blur = -max(matched[1])
    if _noisy(bands, white) and _unexplained(matched[0]) > LEFT_BY_BLUR:
        return Comparison(bands, signals, overlap, 0.0)
    return Comparison(matched[0], _without_noise(matched[0], white), overlap, blur)


def _matched(
    blurred: Callable[[float, float], tuple[Band, ...]], sharp: tuple[Band, ...]
) -> tuple[tuple[Band, ...], tuple[float, float]]:
    """The bands under the Gaussian, in plane and along the stack, that leaves least unexplained.

    First one for all directions; thick slices, blurred by as many voxels as thin ones, need two.
    Downhill over the steps of :data:`BLURS`: every Gaussian costs a transform of the volume.
    """
    sigmas = (0.0, *BLURS)
    tried: dict[Steps, tuple[Band, ...]] = {(0, 0): sharp}

    def left(at: Steps) -> float:
        if at not in tried:
            tried[at] = blurred(sigmas[at[0]], sigmas[at[1]])
        return _unexplained(tried[at])

    def downhill(at: Steps, moves: Sequence[Steps]) -> Steps:
        while True:
            around = [(at[0] + i, at[1] + j) for i, j in moves]
            within = [p for p in around if min(p) >= 0 and max(p) < len(sigmas)]
            lower = min(within, key=left)
            if left(lower) >= left(at):
                return at
            at = lower

    at = downhill((START, START), ((-1, -1), (1, 1)))
    if WORTH[0] < left(at) < WORTH[1]:
        at = downhill(at, ((0, -1), (0, 1), (-1, 0), (1, 0)))
    return tried[at], (sigmas[at[0]], sigmas[at[1]])


def resampled(ours: Picture, theirs: Picture, alignment: Alignment) -> tuple[Field, Mask]:
    """Theirs on our grid, and where it is known."""
    matrix = rotation(alignment.angle, alignment.axis)
    start = alignment.place - matrix @ alignment.centre
    shape = ours.values.shape
    inside = ndimage.affine_transform(theirs.mask.astype(np.float32), matrix, start, shape, order=1)
    values = ndimage.affine_transform(theirs.values, matrix, start, shape, order=1)
    mask = inside > 0.75
    return np.where(mask, values / np.maximum(inside, 0.75), 0).astype(np.float32), mask


def _without_noise(
    bands: Sequence[Band], white: tuple[Noise, Noise]
) -> tuple[tuple[float, float], ...]:
    """Standard deviations of (ours, theirs) in every band without the noise of the noisier.

    What it does not share of the finest band is taken for white noise. Strong noise is not known so
    well that it could be subtracted: then the coarsest band, where it has averaged out, says by
    which gain one side is the other.
    """
    ours, theirs = [b.ours for b in bands], [b.theirs for b in bands]
    mine = _noisier_is_ours(bands)
    noisy, clean, powers = (ours, theirs, white[0]) if mine else (theirs, ours, white[1])
    noise = [NOISE_MARGIN * (1 - bands[0].r ** 2) * noisy[0] ** 2 * power for power in powers]
    r = [abs(band.r) for band in bands]
    last = _coarsest(bands)
    gain = _signal(noisy[last], r[last], noise[last], 0.0) / max(clean[last], 1e-9)
    signals = [_signal(noisy[b], r[b], noise[b], gain * clean[b]) for b in range(len(bands))]
    pairs = zip(signals, clean, strict=True) if mine else zip(clean, signals, strict=True)
    return tuple(pairs)


def _noisier_is_ours(bands: Sequence[Band]) -> bool:
    """Who holds more of the finest band, beside the coarsest."""
    last = bands[_coarsest(bands)]
    return bands[0].ours * last.theirs >= bands[0].theirs * last.ours


def _coarsest(bands: Sequence[Band]) -> int:
    """The coarsest band that says something: few slices leave no whole block in the last."""
    return max((b for b, band in enumerate(bands) if band.n >= FEWEST), default=0)


def _signal(whole: float, r: float, noise: float, expected: float) -> float:
    """What is expected; at least what the noise leaves and the other side explains."""
    least = max(math.sqrt(max(0.0, whole**2 - noise)), r * whole)
    return min(whole, max(least, expected))


def _noisy(bands: Sequence[Band], white: tuple[Noise, Noise]) -> bool:
    """Whether what one side has more of falls with the scale as white noise does, and not as
    slowly as the sharpness of an image."""
    mine = _noisier_is_ours(bands)
    pairs = [(b.ours, b.theirs) if mine else (b.theirs, b.ours) for b in bands]
    last = _coarsest(bands)
    gain = pairs[last][0] / max(pairs[last][1], 1e-9)
    more = [noisy**2 - (gain * clean) ** 2 for noisy, clean in pairs[:2]]
    return more[0] > 0 and more[1] < WHITE * white[0 if mine else 1][1] * more[0]


class _Split:
    """Block means of a masked field at every scale, and the differences between them."""

    def __init__(self, values: Field, mask: Mask) -> None:
        value, weight = np.where(mask, values, 0).astype(np.float32), mask.astype(np.float32)
        self.bands: list[Field] = []
        for _ in range(BANDS):
            even = [(0, n % 2) for n in value.shape]
            value = np.pad(value, even).astype(np.float32)
            weight = np.pad(weight, even).astype(np.float32)
            total, count = _eighths(value * weight), _eighths(weight)
            coarse = (total / np.maximum(count, 1e-6)).astype(np.float32)
            known = (weight >= 0.5) & (_doubled(count) >= 4)
            self.bands.append((value - _doubled(coarse))[known])
            value, weight = coarse, (count / 8).astype(np.float32)

    def against(self, other: _Split) -> tuple[Band, ...]:
        """Correlations band by band; both were split under one mask."""
        found = []
        for a, b in zip(self.bands, other.bands, strict=True):
            if len(a) < FEWEST:
                found.append(Band(0.0, 0.0, 0.0, len(a)))
                continue
            # a block mean of its eight children is 0, so there is no mean to take out
            ours, theirs = math.sqrt(float(a @ a) / len(a)), math.sqrt(float(b @ b) / len(b))
            r = float(a @ b) / len(a) / max(ours * theirs, 1e-12)
            found.append(Band(max(-1.0, min(1.0, r)), ours, theirs, len(a)))
        return tuple(found)


def _eighths(field: Field) -> Field:
    """Sums over blocks of 2×2×2; added by slices, three times as fast as a sum over axes."""
    total = field[0::2] + field[1::2]
    total = total[:, 0::2] + total[:, 1::2]
    return np.ascontiguousarray(total[:, :, 0::2] + total[:, :, 1::2])


def _doubled(field: Field) -> Field:
    return field.repeat(2, 0).repeat(2, 1).repeat(2, 2)


class _Spectrum:
    """A masked field that can be blurred by any Gaussian for one inverse transform."""

    def __init__(self, values: Field, mask: Mask, axis: int) -> None:
        self._shape = values.shape
        self._size = [fft.next_fast_len(n + 12, real=True) for n in values.shape]
        self._values = fft.rfftn(values, self._size)
        self._weight = fft.rfftn(mask.astype(np.float32), self._size)
        axes = [fft.fftfreq(n) for n in self._size[:2]] + [fft.rfftfreq(self._size[2])]
        squares = [np.square(each) for each in np.ix_(*axes)]
        self._along = squares.pop(axis)
        self._across = squares[0] + squares[1]

    def blurred(self, across: float, along: float) -> Field:
        """By Gaussians of so many voxels in the slice plane and along the stack."""
        exponent = across**2 * self._across + along**2 * self._along
        pass_ = np.exp(-2 * math.pi**2 * exponent).astype(np.float32)
        part = tuple(slice(n) for n in self._shape)
        value = fft.irfftn(self._values * pass_, self._size)[part]
        weight = fft.irfftn(self._weight * pass_, self._size)[part]
        return (value / np.maximum(weight, 0.05)).astype(np.float32)


def _unexplained(bands: tuple[Band, ...]) -> float:
    """Of bands 1…: the share that one gain for all of them leaves."""
    cross = sum(b.r * b.ours * b.theirs for b in bands[1:])
    own = sum(b.theirs**2 for b in bands[1:])
    total = sum(b.ours**2 for b in bands[1:])
    return 1 - cross**2 / max(own * total, 1e-12)
