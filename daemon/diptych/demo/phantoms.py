"""Generated scans with the look of anatomy: for the demo and the tests, where real ones lack.

Each seed grows another body: outline, organs, bones, vessels and textures differ in place, size and
brightness, and all of them change along z. Nothing here is a patient.

Shapes are drawn on a grid of at most 192 × 192 a slice and interpolated to the size asked for,
which gives edges the softness of a scanner; noise is added at full size. 200 slices of 512 × 512
take about three seconds on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Modality = Literal["CT", "MR"]
Kind = Literal["chest", "abdomen", "head", "limb"]
Field = NDArray[np.float32]

_BODY_PARTS = {"chest": "CHEST", "abdomen": "ABDOMEN", "head": "HEAD", "limb": "LEG"}

DRAWN = 192
"""Pixels of the drawing grid's longer side; more would only sharpen edges beyond a scanner's."""


@dataclass(frozen=True)
class Phantom:
    """One generated volume.

    pixels: int16 (slice, row, column); Hounsfield units for CT, arbitrary and >= 0 for MR. Slices
    run from feet to head, rows from anterior to posterior, columns from the patient's right to left
    (PS3.3 C.7.6.2.1.1: +S, +P, +L). spacing_mm: of slice, row, column. body_part: a defined term
    of BodyPartExamined (PS3.16 Annex L).
    """

    name: str
    modality: Modality
    pixels: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    body_part: str = ""

    @property
    def affine(self) -> NDArray[np.float64]:
        """4×4: (slice, row, column, 1) → LPS mm; the volume's centre is the origin."""
        affine = np.zeros((4, 4))
        affine[[2, 1, 0], [0, 1, 2]] = self.spacing_mm
        centre = (np.array(self.pixels.shape) - 1) / 2
        affine[:3, 3] = -affine[:3, :3] @ centre
        affine[3, 3] = 1
        return affine


@dataclass(frozen=True)
class Recipe:
    """What to generate; equal recipes give equal pixels. shape: (slices, rows, columns)."""

    name: str
    kind: Kind
    seed: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


DEMO = (
    Recipe("chest-ct-200", "chest", 11, (200, 512, 512), (1.5, 0.74, 0.74)),
    Recipe("abdomen-ct-a", "abdomen", 21, (60, 256, 256), (4.0, 1.5, 1.5)),
    Recipe("abdomen-ct-b", "abdomen", 24, (48, 256, 256), (5.0, 1.45, 1.45)),
    Recipe("chest-ct-b", "chest", 12, (50, 256, 256), (6.0, 1.5, 1.5)),
    Recipe("head-mr-a", "head", 31, (48, 192, 192), (3.5, 1.25, 1.25)),
    Recipe("head-mr-b", "head", 32, (40, 224, 192), (4.0, 1.1, 1.1)),
    Recipe("limb-mr-a", "limb", 41, (40, 160, 160), (4.0, 1.1, 1.1)),
    Recipe("limb-mr-b", "limb", 42, (44, 128, 128), (3.5, 1.3, 1.3)),
)
"""The demo's archive and its strangers: two bodies of each kind, one large."""


def generate(recipe: Recipe) -> Phantom:
    """The volume of a recipe. ValueError: fewer than 2 slices or 32 pixels a side."""
    slices, rows, columns = recipe.shape
    if slices < 2 or min(rows, columns) < 32:
        raise ValueError(f"a phantom of {recipe.shape} is too small to show anatomy")
    rng = np.random.default_rng([recipe.seed, len(recipe.kind)])
    shrink = max(1.0, max(rows, columns) / DRAWN)
    drawn = (slices, round(rows / shrink), round(columns / shrink))
    modality, paint, noise, floor, ceiling = _KINDS[recipe.kind]
    picture = paint(_Canvas(drawn, rng))
    pixels = np.empty(recipe.shape, dtype=np.int16)
    for number, plane in enumerate(picture):
        full = _stretch(_stretch(plane, 0, rows), 1, columns) if shrink > 1 else plane
        full = full + noise * _grain(rng, (rows, columns))
        pixels[number] = np.clip(np.rint(full), floor, ceiling)
    return Phantom(recipe.name, modality, pixels, recipe.spacing_mm, _BODY_PARTS[recipe.kind])


class _Canvas:
    """A volume being painted. Coordinates run from about -1 to 1 on every axis, z upwards.

    Every patient lies a little off the centre, in a field of view of another size.
    """

    def __init__(self, shape: tuple[int, int, int], rng: np.random.Generator) -> None:
        self.rng = rng
        self.shape = shape
        self.values: Field = np.zeros(shape, dtype=np.float32)
        self.limit: Field | None = None  # ellipsoids stay where it is below 0
        axes = [np.linspace(-1, 1, count, dtype=np.float32) for count in shape]
        self.zoom = self.between(1.0, 1.3)
        self.shift = (0.0, self.between(-0.1, 0.1), self.between(-0.1, 0.1))
        self.z = axes[0][:, None, None]
        self.y = (axes[1][None, :, None] - np.float32(self.shift[1])) * np.float32(self.zoom)
        self.x = (axes[2] - np.float32(self.shift[2])) * np.float32(self.zoom)

    def field(self, *cells: int) -> Field:
        """Smooth noise of unit spread with about so many bumps along z, y, x."""
        grid = self.rng.standard_normal([count + 2 for count in cells]).astype(np.float32)
        for axis, size in enumerate(self.shape):
            grid = _stretch(grid, axis, size, smooth=True)
        grid *= 1.6  # interpolation between bumps has flattened them
        return grid

    def wander(self, spread: float, bends: int = 3) -> Field:
        """(slices, 1, 1): a smooth path along z."""
        knots = self.rng.standard_normal(bends + 2).astype(np.float32)
        return spread * _stretch(knots, 0, self.shape[0], smooth=True)[:, None, None]

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def fill(self, distance: Field, value: float | Field, softness: float = 0.03) -> None:
        """Paint where distance < 0, with an edge about `softness` wide (in canvas units)."""
        cover = np.multiply(distance, -1 / softness, dtype=np.float32)
        cover += 0.5
        np.clip(cover, 0, 1, out=cover)
        cover *= value - self.values
        self.values += cover

    def ellipsoid(
        self,
        centre: tuple[float, float, float],
        radii: tuple[float, float, float],
        value: float,
        *,
        bumps: Field | None = None,
        texture: Field | None = None,
    ) -> None:
        """A tilted, lumpy ellipsoid at (z, y, x); painted in its bounding box only."""
        box = tuple(
            slice(*_span(size, middle / zoom + shift, 1.35 * radius / zoom))
            for size, middle, radius, zoom, shift in zip(
                self.shape, centre, radii, (1, self.zoom, self.zoom), self.shift, strict=True
            )
        )
        part = self.values[box]
        if not part.size:
            return
        tilt = self.between(-0.4, 0.4)
        z = (self.z[box[0]] - centre[0]) / radii[0]
        y = (self.y[:, box[1]] - centre[1]) / radii[1]
        x = (self.x[box[2]] - centre[2]) / radii[2]
        distance = np.sqrt(z**2 + (y + tilt * x) ** 2 + (x - tilt * z) ** 2) - 1
        if bumps is not None:
            distance = distance + 0.16 * bumps[box]
        paint = value if texture is None else value + texture[box]
        cover = np.clip(0.5 - distance * min(radii[1:]) / 0.03, 0, 1)
        if self.limit is not None:
            cover = cover * np.clip(0.5 - self.limit[box] / 0.03, 0, 1)
        part += cover * (paint - part)

    def tube(
        self,
        y: float | Field,
        x: float | Field,
        radius: float | Field,
        value: float,
        rim: float = 0,
    ) -> None:
        """A vessel or a long bone along z; rim: the value of its outer third, 0 for none."""
        distance = np.hypot(self.y - y, self.x - x) - radius
        if rim:
            self.fill(distance, rim)
            distance = distance + 0.35 * radius
        self.fill(distance, value)

    def outline(self, width: float, height: float, waves: float = 0.05) -> Field:
        """Signed distance from a closed body outline that changes along z; < 0 inside."""
        angle = np.arctan2(self.y / height, self.x / width)
        edge: Field = np.ones((self.shape[0], 1, 1), np.float32) + self.wander(0.05)
        for order in range(2, 6):
            phase = self.between(0, 6.3) + self.wander(0.5)
            edge = edge + self.between(0.3, 1) * waves / order**0.5 * np.cos(order * angle + phase)
        radius = np.hypot(self.y / height, self.x / width)
        return np.asarray((radius - edge) * min(width, height), dtype=np.float32)


def _torso(canvas: _Canvas, width: float, height: float) -> Field:
    """Air, skin, fat, muscle; returns the distance from the inner wall."""
    canvas.values[:] = -1000
    couch = np.abs(np.hypot(canvas.x, canvas.y + 1.9) - 1.95 - 0.75 * height) - 0.02
    canvas.fill(np.broadcast_to(couch, canvas.shape), -300 + 60 * canvas.between(0, 1))
    body = canvas.outline(width, height)
    fat = canvas.between(0.03, 0.13) + canvas.wander(0.012)
    texture = canvas.field(8, 14, 14)
    canvas.fill(body, -95 + 14 * texture)
    canvas.fill(body + fat * (1 + 0.5 * canvas.y), 48 + 9 * texture)
    return np.asarray(body + fat + canvas.between(0.06, 0.1), dtype=np.float32)


def _spine(canvas: _Canvas, back: float) -> None:
    """Vertebrae with discs between them, the canal, and ribs that descend around the body."""
    level = canvas.z * canvas.between(3.5, 6) + canvas.between(0, 1)
    vertebra = np.cos(2 * np.pi * level).astype(np.float32)
    x, y = canvas.wander(0.03), back + canvas.wander(0.02)
    size = canvas.between(0.1, 0.14)
    bone = np.hypot((canvas.y - y) * 1.15, canvas.x - x) - size - 0.015 * vertebra
    canvas.fill(bone, 420 + 160 * vertebra)
    canvas.fill(bone + 0.03, 190 + 90 * vertebra + 30 * canvas.field(20, 40, 40))
    canvas.fill(np.hypot(canvas.y - y - size * 1.25, canvas.x - x) - 0.045, 20)
    process = np.hypot((canvas.y - y - size * 1.9) / 2.2, canvas.x - x) - 0.035
    canvas.fill(process + 0.02 * (1 - vertebra), 350)


def _ribs(canvas: _Canvas, wall: Field) -> None:
    slope, count = canvas.between(0.5, 0.9), canvas.between(3, 5)
    wave = np.cos(2 * np.pi * count * (canvas.z + slope * (canvas.y - 0.4 * np.abs(canvas.x))))
    ring = np.abs(wall + 0.05) - 0.028
    canvas.fill(np.maximum(ring, (0.35 - wave.astype(np.float32)) * 0.08), 460)


def _chest(canvas: _Canvas) -> Field:
    wall = _torso(canvas, canvas.between(0.84, 0.94), canvas.between(0.6, 0.72))
    _ribs(canvas, wall)
    lung = -850 + 25 * canvas.field(6, 10, 10)
    fine = canvas.field(30, 60, 60)
    bumps = canvas.field(3, 5, 5)
    middle = canvas.between(-0.06, 0.06) + canvas.wander(0.03)
    gap = canvas.between(0.13, 0.2) + 0.08 * (canvas.z < 0.1) * (0.1 - canvas.z) + 0.03 * bumps
    dome = canvas.z + canvas.between(0.45, 0.75) - 0.5 * (canvas.x**2 + canvas.y**2)
    apex = canvas.between(0.5, 0.8) * np.maximum(canvas.z - canvas.between(0.1, 0.4), 0) ** 1.5
    for side in (-1, 1):
        inner = gap - side * (canvas.x - middle) - (0.1 if side > 0 else 0) * canvas.y
        base = -(dome + side * 0.06 + 0.04 * bumps) * 0.5
        canvas.fill(np.maximum(np.maximum(wall + 0.03 + apex, inner), base), lung)
        shoulder = (0.85, canvas.between(-0.05, 0.15), side * canvas.between(0.55, 0.66))
        canvas.ellipsoid(shoulder, (0.22, 0.1, 0.12), 380, bumps=bumps)
        canvas.ellipsoid(shoulder, (0.2, 0.07, 0.09), 170, bumps=bumps)
    inside = np.maximum(wall + 0.05, -dome * 0.5)
    vessels = np.maximum(np.abs(fine) * 0.05 - 0.006 * (1.6 - np.hypot(canvas.x, canvas.y)), inside)
    canvas.fill(np.where(canvas.values < -500, vessels, 1).astype(np.float32), 20, 0.02)
    heart = (canvas.between(-0.5, -0.2), canvas.between(-0.15, 0.0), canvas.between(0.1, 0.25))
    radii = (canvas.between(0.4, 0.55), canvas.between(0.28, 0.36), canvas.between(0.3, 0.4))
    canvas.ellipsoid(heart, radii, canvas.between(60, 150), bumps=bumps)
    canvas.ellipsoid(heart, _scaled(radii, 0.55), canvas.between(160, 260), bumps=bumps)
    contrast = canvas.between(120, 260)
    canvas.tube(0.16 + canvas.wander(0.03), 0.16 + canvas.wander(0.03), 0.06, contrast)
    canvas.tube(-0.02 + canvas.wander(0.04), -0.1 + canvas.wander(0.03), 0.045, contrast)
    canvas.tube(0.06 + canvas.wander(0.03), canvas.wander(0.03), 0.045, -950)
    for _ in range(int(canvas.rng.integers(1, 6))):
        spot = canvas.between(0.02, 0.07)
        place = (canvas.between(-0.6, 0.8), canvas.between(-0.3, 0.3), canvas.between(-0.6, 0.6))
        canvas.ellipsoid(place, (2.5 * spot, spot, spot), 40, bumps=bumps)
    _spine(canvas, canvas.between(0.3, 0.38))
    return canvas.values


def _abdomen(canvas: _Canvas) -> Field:
    wall = _torso(canvas, canvas.between(0.75, 1.0), canvas.between(0.52, 0.8))
    canvas.fill(wall + 0.03, -100 + 12 * canvas.field(6, 12, 12))
    canvas.limit = wall
    bumps, fine = canvas.field(3, 6, 6), 9 * canvas.field(20, 45, 45)
    between = canvas.between
    canvas.ellipsoid(
        (between(0.25, 0.7), between(-0.12, 0.05), between(-0.45, -0.3)),
        (between(0.6, 0.9), between(0.32, 0.42), between(0.36, 0.46)),
        between(80, 130), bumps=bumps, texture=fine,
    )  # fmt: skip
    for _ in range(int(canvas.rng.integers(2, 7))):  # cysts and vessels in the liver
        size = between(0.03, 0.09)
        place = (between(0, 0.9), between(-0.25, 0.15), between(-0.6, -0.2))
        canvas.ellipsoid(place, (2 * size, size, size), between(10, 200))
    canvas.ellipsoid(
        (between(0.3, 0.8), between(0.0, 0.2), between(0.48, 0.6)),
        (between(0.25, 0.45), between(0.14, 0.24), between(0.1, 0.18)),
        between(90, 150), bumps=bumps, texture=fine,
    )  # fmt: skip
    for side in (-1, 1):
        place = (between(-0.35, 0.2), between(0.16, 0.28), side * between(0.34, 0.44))
        radii = (between(0.35, 0.5), between(0.12, 0.17), between(0.1, 0.14))
        canvas.ellipsoid(place, radii, between(140, 220), bumps=bumps, texture=fine)
        canvas.ellipsoid(place, _scaled(radii, 0.45), -60, bumps=bumps)
        psoas = (side * (0.2 + 0.12 * (1 - canvas.z) / 2)).astype(np.float32)
        canvas.tube(0.24 + canvas.wander(0.02), psoas, between(0.05, 0.09), 60)
    for _ in range(int(canvas.rng.integers(9, 16))):  # bowel: fluid, wall and gas
        place = (between(-1, 0.7), between(-0.42, 0.08), between(-0.5, 0.55))
        size = between(0.07, 0.16)
        radii = (between(0.15, 0.4), size, size * between(0.8, 1.6))
        canvas.ellipsoid(place, radii, between(30, 90), bumps=bumps)
        filling = -900 if canvas.rng.random() < 0.4 else between(0, 250)
        canvas.ellipsoid(place, _scaled(radii, 0.72), filling, bumps=bumps)
    contrast = between(120, 300)
    aorta = between(0.045, 0.065)
    canvas.tube(0.2 + canvas.wander(0.02), 0.05 + canvas.wander(0.03), aorta, contrast)
    canvas.tube(0.19 + canvas.wander(0.02), -0.12 + canvas.wander(0.03), 0.055, contrast * 0.7)
    _spine(canvas, between(0.32, 0.4))
    return canvas.values


def _head(canvas: _Canvas) -> Field:
    between = canvas.between
    narrowing = 1 - 0.5 * np.clip(canvas.z - between(-0.2, 0.1), 0, 1) ** 2
    skin = canvas.outline(between(0.64, 0.74), between(0.82, 0.92), 0.025) / 1.0
    skin = skin + (1 - narrowing) * 0.9
    canvas.values[:] = 12
    bumps, mottle = canvas.field(3, 5, 5), canvas.field(6, 12, 12)
    canvas.fill(skin, between(650, 900) + 60 * mottle)  # scalp fat
    canvas.fill(skin + between(0.04, 0.06), 90 + 25 * mottle)  # bone
    canvas.fill(skin + between(0.075, 0.09), between(180, 260))  # fluid
    brain = skin + between(0.11, 0.14)
    fold = canvas.field(12, 22, 22) + 0.5 * canvas.field(20, 36, 36)
    ribbon = np.abs(fold) - 0.18
    white, grey = between(560, 700), between(380, 480)
    canvas.fill(brain + 0.02 * bumps, grey + 25 * mottle)
    depth = brain + 0.1 + 0.05 * bumps
    canvas.fill(depth + 0.06 * fold, white + 25 * mottle)
    sulcus = np.maximum(ribbon * 0.12, np.maximum(brain, -brain - 0.16))
    canvas.fill(sulcus.astype(np.float32), between(200, 260))
    fissure = np.abs(canvas.x - canvas.wander(0.01)) - 0.012
    canvas.fill(np.maximum(fissure, brain).astype(np.float32), 210)
    spread, tall = between(0.09, 0.16), between(0.16, 0.3)
    for side in (-1, 1):
        place = (between(0.05, 0.25), between(-0.1, 0.02), side * spread)
        canvas.ellipsoid(place, (between(0.3, 0.5), tall, between(0.04, 0.09)), 190, bumps=bumps)
        nucleus = (between(-0.15, 0.1), between(-0.02, 0.12), side * (spread + 0.08))
        canvas.ellipsoid(nucleus, (0.25, between(0.1, 0.16), 0.07), grey + 40, bumps=bumps)
        eye = (between(-0.75, -0.6), -0.62, side * between(0.26, 0.32))
        canvas.ellipsoid(eye, (0.22, 0.13, 0.12), 170)
    canvas.ellipsoid(
        (-0.75, between(0.4, 0.5), between(-0.03, 0.03)), (0.35, 0.22, between(0.36, 0.46)),
        grey + 30, bumps=bumps, texture=70 * np.sin(18 * canvas.z + 40 * canvas.y + 3 * bumps),
    )  # fmt: skip
    canvas.tube(0.12 + canvas.wander(0.02), canvas.wander(0.01), 0.09 * (canvas.z < -0.3), white)
    canvas.limit = brain
    if canvas.rng.random() < 0.6:
        place = (between(-0.2, 0.5), between(-0.4, 0.4), between(-0.35, 0.35))
        canvas.ellipsoid(place, (0.2, between(0.06, 0.14), between(0.06, 0.14)), 950, bumps=bumps)
    return _uneven(canvas)


def _limb(canvas: _Canvas) -> Field:
    between = canvas.between
    canvas.values[:] = 10
    skin = canvas.outline(between(0.72, 0.9), between(0.7, 0.9), 0.06)
    bumps, streak = canvas.field(3, 5, 5), canvas.field(5, 26, 26)
    canvas.fill(skin, between(750, 950) + 40 * canvas.field(6, 12, 12))
    fat = between(0.06, 0.16) + canvas.wander(0.02)
    lobes = np.cos(np.arctan2(canvas.y, canvas.x) + between(0, 6)).astype(np.float32)
    muscle: Field = skin + fat * (1 + 0.4 * lobes)
    canvas.fill(muscle, between(230, 320) + 30 * streak)
    walls = np.abs(canvas.field(3, 4, 4) + 0.4 * bumps) - 0.06
    canvas.fill(np.maximum(walls * 0.3, muscle).astype(np.float32), 640)
    thick = 0.12 + 0.16 * np.exp(-(((canvas.z - between(-0.3, 0.3)) / between(0.2, 0.4)) ** 2))
    spread, turn = between(0.0, 0.3), between(0, 6.3)
    marrow = between(600, 850)
    for side in (-1, 1):
        y = side * spread * np.sin(turn) + canvas.wander(0.03)
        x = side * spread * np.cos(turn) + canvas.wander(0.03)
        size = thick * (1 if side > 0 else between(0.5, 0.95)) * (1 + 0.1 * bumps)
        canvas.tube(y, x, size, marrow + 50 * float(canvas.rng.standard_normal()), rim=45)
    for _ in range(int(canvas.rng.integers(3, 7))):
        y, x = between(-0.45, 0.45), between(-0.45, 0.45)
        canvas.tube(y + canvas.wander(0.05), x + canvas.wander(0.05), between(0.02, 0.04), 1100)
    return _uneven(canvas)


def _uneven(canvas: _Canvas) -> Field:
    """A receive coil's shading."""
    return canvas.values * (1 + 0.12 * canvas.field(1, 2, 2))


_Painter = Callable[[_Canvas], Field]
_KINDS: dict[Kind, tuple[Modality, _Painter, float, int, int]] = {
    # modality, painter, noise (standard deviation), lowest and highest value
    "chest": ("CT", _chest, 18.0, -1024, 3071),
    "abdomen": ("CT", _abdomen, 14.0, -1024, 3071),
    "head": ("MR", _head, 16.0, 0, 4095),
    "limb": ("MR", _limb, 14.0, 0, 4095),
}


def _scaled(radii: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    return (radii[0] * factor, radii[1] * factor, radii[2] * factor)


def _span(size: int, middle: float, reach: float) -> tuple[int, int]:
    """Index range of middle ± reach on an axis of -1 … 1."""
    low, high = ((value + 1) / 2 * (size - 1) for value in (middle - reach, middle + reach))
    return max(0, int(np.floor(low))), max(0, min(size, int(np.ceil(high)) + 1))


def _grain(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """White noise averaged over 2 × 2 pixels, of unit spread: a reconstruction kernel's grain."""
    white = rng.standard_normal((shape[0] + 1, shape[1] + 1), dtype=np.float32)
    rows = white[1:] + white[:-1]
    return (rows[:, 1:] + rows[:, :-1]) * np.float32(0.5)


def _stretch(values: Field, axis: int, size: int, *, smooth: bool = False) -> Field:
    """One axis interpolated linearly to `size` samples.

    smooth: without creases at the samples, and ending half-way between the last two, so that no
    border looks different from the middle.
    """
    count = values.shape[axis]
    positions = np.linspace(0.5, count - 1.5, size) if smooth else np.linspace(0, count - 1, size)
    left = np.clip(np.floor(positions).astype(np.intp), 0, count - 2)
    share = (positions - left).astype(np.float32)
    if smooth:
        share = share * share * (3 - 2 * share)
    share = share.reshape([-1 if number == axis else 1 for number in range(values.ndim)])
    result: Field = np.take(values, left + 1, axis=axis)
    start = np.take(values, left, axis=axis)
    result -= start
    result *= share
    result += start
    return result
