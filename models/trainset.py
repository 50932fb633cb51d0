"""The training slices: read once, blurred once, and drawn into batches with hard negatives."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

import cases
from diptych.demo.phantoms import Kind, Recipe, generate
from diptych.embed.prepare import prepare

SOURCE = 144  # pixels: slices are kept larger than the input so that a zoom has something to show
NEIGHBOURS = 2  # slices on either side that are too alike to be called different
HARD_VOLUMES = 4  # a quarter of a batch comes from so few volumes, a quarter from one anatomy
BLURS = (1.0, 2.0, 4.0, 8.0)  # voxels, in three dimensions, of the native volume
FLATTEST = 0.03  # standard deviation of a prepared slice below which it teaches nothing
PHANTOMS = 48
BODIES: dict[Kind, tuple[int, int]] = {  # generated with the look of anatomy: rows, columns
    "chest": (176, 176), "abdomen": (160, 160), "head": (144, 128), "limb": (112, 112),
}  # fmt: skip
BODIES_EACH = 12
FIRST_BODY = 5000  # seed; neither the demo's nor those of diptych.registry.calibrate
BOXES = 3  # of every large stack


@dataclass
class Slices:
    """Every training slice: ``pixels`` (1 + blurs, n, SOURCE, SOURCE) and what tells them apart.

    ``aspect`` is columns per row, ``native`` the geometric mean of rows and columns.
    """

    pixels: torch.Tensor
    aspect: torch.Tensor
    native: torch.Tensor
    volume: torch.Tensor
    patient: torch.Tensor
    anatomy: torch.Tensor
    place: torch.Tensor

    def __len__(self) -> int:
        return self.pixels.shape[1]


def comparable(slices: Slices, chosen: torch.Tensor) -> torch.Tensor:
    """True where slice j may be held against slice i.

    Not the slice itself, not its neighbours, and nothing of the same patient in another volume:
    other sequences, dates and reslicings show the same thing.
    """
    volume, place, patient = (t[chosen] for t in (slices.volume, slices.place, slices.patient))
    same_volume = volume[:, None] == volume
    near = (place[:, None] - place).abs() <= NEIGHBOURS
    same_patient = patient[:, None] == patient
    return ~(same_volume & near) & ~(same_patient & ~same_volume)


def draw(slices: Slices, batch: int) -> torch.Tensor:
    """A quarter of a batch from few volumes, a quarter from one anatomy, each other's hard
    negatives, and half from all."""
    with torch.device("cpu"):
        volumes = int(slices.volume.max()) + 1
        share = batch // 4
        groups = [(slices.volume == v, share // HARD_VOLUMES) for v in
                  torch.randperm(volumes)[:HARD_VOLUMES]]  # fmt: skip
        one = slices.anatomy[torch.randint(len(slices), (1,))]
        groups.append((slices.anatomy == one, share))
        hard = []
        for members, count in groups:
            members = torch.nonzero(members).flatten()
            hard.append(members[torch.randperm(len(members))[:count]])
        size = torch.bincount(slices.volume, minlength=volumes).float()
        weight = size.rsqrt()[slices.volume]
        rest = torch.multinomial(weight, batch - sum(len(h) for h in hard))
        return torch.cat([*hard, rest])


def read_slices(data: Path, split: Path, without: list[str]) -> Slices:
    """All training slices; brains and CT also cut along the other two axes, for more anatomies."""
    pixels, columns = [], []
    people: dict[str, int] = {}
    anatomies: dict[str, int] = {}
    count = 0
    for person, anatomy, stack in training_stacks(data, split, without):
        sharp = prepare(stack, SOURCE)
        kept = np.flatnonzero(sharp.std(axis=(1, 2)) >= FLATTEST)
        if len(kept) == 0:
            continue
        versions = [sharp, *(prepare(ndimage.gaussian_filter(stack, s), SOURCE) for s in BLURS)]
        pixels.append(torch.from_numpy(np.stack([v[kept] for v in versions])).half())
        rows, across = stack.shape[1:]
        common = (across / rows, math.sqrt(rows * across), count)
        who = people.setdefault(person, len(people))
        what = anatomies.setdefault(anatomy, len(anatomies))
        columns += [(*common, who, what, place) for place in kept.tolist()]
        count += 1
    aspect, native, *rest = (torch.tensor(column) for column in zip(*columns, strict=True))
    slices = Slices(torch.cat(pixels, 1), aspect, native, *rest)
    print(f"{len(slices)} slices, {count} stacks, {len(people)} patients and phantoms", flush=True)
    return slices


def training_stacks(data: Path, split: Path, without: list[str]):
    """(patient, anatomy, stack) of every training case but those whose anatomy begins so."""
    for case in cases.read_split(split):
        if case.set != "train" or case.anatomy.startswith(tuple(without)):
            continue
        stack = cases.load(case, data)
        yield case.patient, case.anatomy, stack
        if case.anatomy in ("brain-t1", "brain-fl", "torso") and min(stack.shape) > 64:
            yield case.patient, "coronal", stack.transpose(1, 0, 2)[:, ::-1][::2].copy()
            yield case.patient, "sagittal", stack.transpose(2, 0, 1)[:, ::-1][::2].copy()
        if min(stack.shape) > 24 and max(stack.shape) > 80:
            for box in boxes(stack, zlib.crc32(case.id.encode())):
                yield case.patient, "box", box
    for number in range(PHANTOMS):
        yield f"phantom-{number}", "phantom", phantom(number)
    for kind, plane in BODIES.items():
        for seed in range(FIRST_BODY, FIRST_BODY + BODIES_EACH):
            recipe = Recipe(f"{kind}-{seed}", kind, seed, (28, *plane), (5.0, 1.5, 1.5))
            yield recipe.name, f"generated-{kind}", generate(recipe).pixels.astype(np.float32)


def boxes(stack: np.ndarray, seed: int):
    """Small boxes out of a large stack: what a study that keeps one organ would hold."""
    random = np.random.default_rng(seed)
    for _ in range(BOXES):
        size = [min(n, int(random.integers(28, 80))) for n in stack.shape]
        start = [int(random.integers(0, n - m + 1)) for n, m in zip(stack.shape, size, strict=True)]
        yield stack[tuple(slice(s, s + m) for s, m in zip(start, size, strict=True))].copy()


def phantom(seed: int) -> np.ndarray:
    """Ellipsoids with texture in an ellipsoid, 24 to 36 planes: shapes no scanner shows."""
    random = np.random.default_rng(seed)
    shape = (int(random.integers(24, 36)), *(int(n) for n in random.integers(36, 144, 2)))
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    wide, high = random.uniform(0.6, 1.2, 2)
    body = (x / wide) ** 2 + (y / high) ** 2 < 1 - 0.2 * z**2
    out = np.where(body, 0.4, 0.0)
    for _ in range(random.integers(6, 24)):
        cx, cy, cz = random.uniform(-0.7, 0.7, 3)
        rx, ry, rz = random.uniform(0.05, 0.4, 3)
        inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / (2 * rz)) ** 2 < 1
        out[inside & body] = random.uniform(0, 1)
    grain = ndimage.gaussian_filter(random.normal(size=shape), random.uniform(1, 4))
    out += grain / grain.std() * random.uniform(0.02, 0.2) * body
    return (out + random.normal(0, 0.02, shape) * body).astype(np.float32)
