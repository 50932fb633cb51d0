"""Stand-ins: people who never were, to fill an archive with strangers that look like its cases.

    source volume → reduced once → warped (elastic, turned, scaled, mirrored) → other intensities

An archive of tens of thousands of real cases is not at hand; this makes one of any folder. A
stand-in keeps the kind of anatomy, contrast and texture of its source, so that its slices come near
those of real cases (hard strangers), and has another body: its displacements are of several voxels
of the grid on which the ladder verifies, and differ from place to place, so that no rotation and
shift brings it back to its source or to a sibling. Every stand-in follows from its number alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diptych.demo.phantoms import Kind, Recipe, generate
from diptych.volume.digest import plane_digest
from diptych.volume.orient import canonical_slices
from diptych.volume.plan import Geometry
from diptych.volume.value import Volume

Array = NDArray[np.float32]
Affine = NDArray[np.float64]

RECIPE = 1
"""Raise it whenever a stand-in of the same number and sources comes out otherwise."""
SEED = 2023

SLICES = 24
"""At most so many slices of a stand-in, and :data:`SIDE` pixels along the longer side of one: an
eighth of a scan's voxels and less, since twenty thousand are wanted."""
SIDE = 96

BUMPS = 4
"""Bends of the displacement along each axis."""
BEND = 0.035
"""Its standard deviation, as a share of each axis: 2 to 5 voxels of the grid of 56³ on which a pair
is verified."""
TURN = 6.0
"""Degrees in plane, either way; scales differ by up to :data:`SCALE` along each axis."""
SCALE = 0.06
MIRRORED = 0.25
"""So many are mirrored, left to right."""
KNOTS = 6
"""Of the monotone intensity map."""
SHADING = 0.1
"""Standard deviation of the logarithm of the bias field."""
NOISE = 0.03
"""At most, of the intensity range."""
LEVELS = 4000

BODY_EVERY = 10
"""Every tenth stand-in is a generated body instead, of no source at all."""
FIRST_BODY = 100_000
"""Seeds of phantoms below are the demo's and the calibration's."""
KINDS: tuple[Kind, ...] = ("chest", "abdomen", "head", "limb")
BODY_SHAPE = (24, 96, 96)
BODY_SPACING_MM = (8.0, 4.0, 4.0)


@dataclass(frozen=True)
class Frame:
    """How an array lies in the patient: affine and spacing as of a Volume. mirror: the axis closest
    to left-right."""

    affine: Affine
    spacing: tuple[float, float, float]
    geometry: Geometry
    oriented: bool
    mirror: int


def reduced(volume: Volume) -> tuple[Array, Frame]:
    """float32 (slice, row, column) in [0, 1], oriented, with at most :data:`SIDE` pixels along
    either side of a slice; every slice is there."""
    oriented = canonical_slices(volume)
    rows, columns = oriented.array.shape[1:]
    share = min(1.0, SIDE / max(rows, columns))
    size = max(1, round(rows * share)), max(1, round(columns * share))
    low, high = np.percentile(oriented.array, (0.1, 99.9))
    values = np.stack([_resized(plane, size) for plane in oriented.array])
    values = np.clip((values - low) / max(float(high - low), 1e-30), 0, 1).astype(np.float32)
    ratios = (1.0, rows / size[0], columns / size[1])
    affine = oriented.affine.copy()
    affine[:3, :3] *= ratios
    spacing = tuple(s * r for s, r in zip(oriented.spacing, ratios, strict=True))
    directions = np.abs(affine[0, :3]) / np.linalg.norm(affine[:3, :3], axis=0)
    frame = Frame(
        affine,
        (spacing[0], spacing[1], spacing[2]),
        oriented.geometry,
        oriented.oriented,
        int(directions.argmax()),
    )
    return values, frame


def stand_in(source: Array, frame: Frame, number: int) -> Volume:
    """The stand-in ``number``, of this source."""
    rng = np.random.default_rng([SEED, number])
    stored = _recoloured(_warped(source, frame.mirror, rng), rng)
    pitch = len(source) / len(stored)
    affine = frame.affine.copy()
    affine[:3, 0] *= pitch
    spacing = (frame.spacing[0] * pitch, frame.spacing[1], frame.spacing[2])
    return _volume(stored, affine, spacing, frame.geometry, frame.oriented)


def source_of(number: int, sources: int) -> int | None:
    """Which source a stand-in is of, so that all serve alike; None: it is a generated body."""
    bodies = -(-number // BODY_EVERY)
    return None if number % BODY_EVERY == 0 else (number - bodies) % sources


def body(number: int) -> Volume:
    """The generated body ``number``, of one of four kinds."""
    kind = KINDS[number % len(KINDS)]
    phantom = generate(
        Recipe(f"body-{number}", kind, FIRST_BODY + number, BODY_SHAPE, BODY_SPACING_MM)
    )
    return _volume(phantom.pixels, phantom.affine, phantom.spacing_mm, "known", True)


def _warped(source: Array, mirror: int, rng: np.random.Generator) -> Array:
    """Sampled where a smooth displacement, a rotation in plane, scales and perhaps a mirror say."""
    shape = (min(SLICES, len(source)), *source.shape[1:])
    scales = rng.uniform(1 - SCALE, 1 + SCALE, 3)
    if rng.random() < MIRRORED:
        scales[mirror] *= -1
    # every axis from -1/2 to 1/2 of the source
    z, y, x = np.ix_(
        *(s * ((np.arange(n) + 0.5) / n - 0.5) for n, s in zip(shape, scales, strict=True))
    )
    angle, aspect = np.radians(rng.uniform(-TURN, TURN)), shape[1] / shape[2]
    cos, sin = np.cos(angle), np.sin(angle)
    turned = (z, cos * y + sin / aspect * x, cos * x - sin * aspect * y)
    splines = [_splines(n) for n in shape]
    places = np.empty((3, *shape), np.float32)
    for axis, (place, n) in enumerate(zip(turned, source.shape, strict=True)):
        places[axis] = (place + BEND * _smooth(splines, rng) + 0.5) * n - 0.5
    warped = ndimage.map_coordinates(source, places, order=1, mode="mirror")
    return np.asarray(warped, np.float32)


def _recoloured(array: Array, rng: np.random.Generator) -> NDArray[np.int16]:
    """Another contrast: a monotone map, a bias field, noise; stored as a scanner stores them."""
    steps = rng.uniform(0.3, 1.7, KNOTS)
    heights = np.concatenate([[0.0], np.cumsum(steps) / steps.sum()])
    mapped = np.interp(array, np.linspace(0, 1, KNOTS + 1), heights).astype(np.float32)
    mapped *= np.exp(SHADING * _smooth([_splines(n) for n in array.shape], rng))
    grain = rng.standard_normal(array.shape, np.float32)
    mapped += np.float32(rng.uniform(0, NOISE)) * grain * (mapped > 0)
    return np.asarray(np.rint(np.clip(mapped, 0, 2) * LEVELS), np.int16)


def _smooth(splines: list[Array], rng: np.random.Generator) -> Array:
    """A smooth random field of unit spread."""
    field = rng.standard_normal([each.shape[1] for each in splines]).astype(np.float32)
    for axis, spline in enumerate(splines):
        field = np.moveaxis(np.tensordot(spline, field, (1, axis)), 0, axis)
    field -= field.mean()
    return np.asarray(field / field.std(), np.float32)


def _splines(count: int) -> Array:
    """(count, BUMPS + 3): cubic B-splines at ``count`` places; of random weights of unit spread
    their sum, too, has unit spread."""
    places = (np.arange(count) + 0.5) / count * BUMPS
    t = np.abs(places[:, None] - np.arange(-1, BUMPS + 2))
    basis = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.maximum(2 - t, 0) ** 3 / 6)
    return np.asarray(basis / np.linalg.norm(basis, axis=1, keepdims=True), np.float32)


def _resized(plane: Array, size: tuple[int, int]) -> Array:
    """By Pillow's antialiased bilinear, as slices are prepared."""
    if plane.shape == size:
        return plane
    image = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR), np.float32)


def _volume(
    stored: NDArray[np.int16],
    affine: Affine,
    spacing: tuple[float, float, float],
    geometry: Geometry,
    oriented: bool,
) -> Volume:
    return Volume(
        array=stored.astype(np.float32),
        valid=None,
        affine=affine,
        geometry=geometry,
        oriented=oriented,
        spacing=spacing,
        positions=tuple(number * spacing[0] for number in range(len(stored))),
        digests=tuple(plane_digest(plane, *plane.shape) for plane in stored),
        constant=tuple(bool(plane.min() == plane.max()) for plane in stored),
    )
