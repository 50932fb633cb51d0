"""Decoded instances of one series → the stacks it holds. Pure: no file, no pixel is touched.

A stack is the future *case*. Nothing is dropped: every plane is in exactly one stack and is
digested; of a 4D stack the first complete frame becomes the volume.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from .frames import arrange, instance_order
from .plane import Instance, InstanceHeader, Plane
from .splitting import Group, Key, has_position, normal_of, places, split

GAP_RATIO = 1.5
"""A distance this many times the usual spacing means that slices are missing in between."""

UNEVEN = 0.05
"""Spacing that varies by more than this fraction (and is no gap) is noted as irregular."""

TILT_DEGREES = 0.1
"""A smaller shear between slices is rounding of ImagePositionPatient, not a tilted gantry."""

STEEPEST_TILT_DEGREES = 45.0
"""No gantry tilts further (they stop at 30°): slices that drift more were not acquired as one."""

_SPACING_MM = (1e-4, 1e4)
"""Between microscopy and a whole body in one slice; SliceThickness outside it is garbage."""

DEFAULT_SPACING_MM = 1.0
"""Where no element tells the distance between slices."""

Geometry = Literal["known", "inferred"]


@dataclass(frozen=True)
class Gap:
    """Between slice ``after`` (0-based) and the next: ``mm`` apart, ``missing`` slices absent."""

    after: int
    mm: float
    missing: int


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes that form one case.

    ``signature`` identifies the stack within its series, whatever the order, the UIDs or later
    slices. ``frames`` hold the planes by position, ascending along the normal (row × column
    direction); ``repeats`` are bit-identical planes at a position that is already filled.
    ``positions`` are mm along the normal for the slices of ``frames[chosen]``.
    ``geometry`` is "known" when ImagePositionPatient placed every slice.
    """

    signature: str
    key: Key
    header: InstanceHeader
    frames: tuple[tuple[Plane, ...], ...]
    repeats: tuple[Plane, ...]
    chosen: int
    geometry: Geometry
    oriented: bool
    positions: tuple[float, ...]
    spacing_mm: float
    gaps: tuple[Gap, ...]
    tilt_degrees: float
    completeness: float
    frame_axis: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.frames or not all(self.frames):
            raise ValueError("a stack has at least one frame with one plane")
        if len(self.positions) != len(self.slices):
            raise ValueError(f"{len(self.slices)} slices, {len(self.positions)} positions")

    @property
    def slices(self) -> tuple[Plane, ...]:
        """The planes that become the volume."""
        return self.frames[self.chosen]

    @property
    def planes(self) -> tuple[Plane, ...]:
        """All planes: every frame, then the repeats."""
        return tuple(plane for frame in self.frames for plane in frame) + self.repeats

    @property
    def digests(self) -> tuple[bytes, ...]:
        """Plane digests of all planes, repeats kept: the input of the case digest."""
        return tuple(plane.digest for plane in self.planes)

    @property
    def Modality(self) -> str:
        return self.header.Modality


@dataclass(frozen=True, eq=False)
class Plan:
    """The stacks of one series, in a reproducible order.

    ``collapsed`` counts instances left out because their SOP Instance UID and pixels came twice;
    ``superseded`` are those among them whose header differs, as (older, newer).
    ``collisions`` are SOP Instance UIDs that came with different pixels (both are kept).
    """

    stacks: tuple[Stack, ...]
    collapsed: int
    superseded: tuple[tuple[InstanceHeader, InstanceHeader], ...]
    collisions: tuple[str, ...]


def plan(instances: Sequence[Instance]) -> Plan:
    """Plan the image instances of one series, given oldest first.

    PS3.3 §C.7.6.2.1.1 (position, orientation), §C.7.6.16 (functional groups).
    """
    kept, superseded, collisions = _collapse(instances)
    headers = {id(plane): item.header for item in kept for plane in item.planes}
    planes = sorted((plane for item in kept for plane in item.planes), key=instance_order)
    groups = split(planes)
    notes = tuple(dict.fromkeys(note for instance in kept for note in instance.notes))
    return Plan(
        stacks=tuple(_stack(group, headers, notes) for group in groups),
        collapsed=len(instances) - len(kept),
        superseded=superseded,
        collisions=collisions,
    )


def _collapse(
    instances: Sequence[Instance],
) -> tuple[list[Instance], tuple[tuple[InstanceHeader, InstanceHeader], ...], tuple[str, ...]]:
    newest: dict[object, Instance] = {}
    superseded = []
    contents: dict[str, set[tuple[bytes, ...]]] = defaultdict(set)
    for number, instance in enumerate(instances):
        uid = instance.header.SOPInstanceUID
        content = tuple(plane.digest for plane in instance.planes)
        contents[uid].add(content)
        # Without a UID nothing says that two instances are one.
        key = (uid, content) if uid else number
        older = newest.get(key)
        if older is not None and _content_hashes(older) != _content_hashes(instance):
            superseded.append((older.header, instance.header))
        newest[key] = instance
    collisions = sorted(uid for uid, found in contents.items() if uid and len(found) > 1)
    return list(newest.values()), tuple(superseded), tuple(collisions)


def _content_hashes(instance: Instance) -> tuple[bytes, bytes, bytes]:
    header = instance.header
    return header.identity_hash, header.private_hash, header.rest_hash


def _stack(group: Group, headers: dict[int, InstanceHeader], notes: tuple[str, ...]) -> Stack:
    planes = group.planes
    found = list(notes)
    ordinals = places(planes)
    located = ordinals is not None and (len(set(ordinals)) > 1 or len(planes) == 1)
    if located:
        assert ordinals is not None
        frames, repeats, axis = arrange(planes, ordinals)
    else:
        if ordinals is not None:
            found.append("all planes at one position, taken as a sequence")
        frames, repeats, axis = [sorted(planes, key=instance_order)], [], ""
    chosen = max(range(len(frames)), key=lambda i: (len(frames[i]), -i))
    slices = frames[chosen]
    geometry: Geometry = (
        "known"
        if located and all(map(has_position, slices)) and all(p.PixelSpacing for p in slices)
        else "inferred"
    )
    positions, spacing, gaps = _along(slices, geometry, located)
    if repeats:
        found.append(f"{len(repeats)} bit-identical planes at filled positions")
    if _uneven(positions, spacing, gaps):
        found.append("irregular spacing")
    tilt = _tilt(slices) if geometry == "known" else 0.0
    if abs(tilt) > STEEPEST_TILT_DEGREES:
        tilt = 0.0
        found.append("slices drift in plane")
    total = len(set(ordinals)) if located and ordinals is not None else len(slices)
    expected = max(len(slices) + sum(gap.missing for gap in gaps), total)
    return Stack(
        signature=group.signature,
        key=group.key,
        header=headers[id(slices[0])],
        frames=tuple(map(tuple, frames)),
        repeats=tuple(repeats),
        chosen=chosen,
        geometry=geometry,
        oriented=all(plane.ImageOrientationPatient is not None for plane in slices),
        positions=positions,
        spacing_mm=spacing,
        gaps=gaps,
        tilt_degrees=tilt,
        completeness=len(slices) / expected,
        frame_axis=axis,
        notes=tuple(found),
    )


def _along(
    slices: Sequence[Plane], geometry: Geometry, located: bool
) -> tuple[tuple[float, ...], float, tuple[Gap, ...]]:
    """Positions in mm, the usual spacing in mm, and the gaps."""
    first = slices[0]
    low, high = _SPACING_MM
    told = (abs(mm) for mm in (first.SpacingBetweenSlices, first.SliceThickness) if mm)
    nominal = next((mm for mm in told if low < mm < high), DEFAULT_SPACING_MM)
    if not located or len(slices) == 1:
        return tuple(i * nominal for i in range(len(slices))), nominal, ()
    if geometry == "known" or all(map(has_position, slices)):
        normal = normal_of(first)
        along = [float(np.dot(normal, np.array(p.ImagePositionPatient))) for p in slices]
    else:
        along = [float(plane.SliceLocation or 0.0) for plane in slices]
    steps = np.diff(along)
    spacing = float(np.median(steps))
    if spacing <= 0:
        return tuple(along), nominal, ()
    expected = spacing * _thickness_ratios(slices)
    gaps = tuple(
        Gap(i, float(step), max(1, round(step / usual) - 1))
        for i, (step, usual) in enumerate(zip(steps, expected, strict=True))
        if step > GAP_RATIO * usual
    )
    return tuple(along), spacing, gaps


def _thickness_ratios(slices: Sequence[Plane]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """For each step, how much thicker its slices are than usual, at least 1.

    A head CT is often thin below and thick above: its wider steps are not gaps.
    """
    low, high = _SPACING_MM
    thickness = np.array([abs(plane.SliceThickness or 0.0) for plane in slices])
    if not ((thickness > low) & (thickness < high)).all():
        return np.ones(len(slices) - 1)
    usual = float(np.median(thickness))
    ratios: np.ndarray[tuple[int], np.dtype[np.float64]] = np.maximum(
        1.0, np.maximum(thickness[:-1], thickness[1:]) / usual
    )
    return ratios


def _uneven(positions: Sequence[float], spacing: float, gaps: Sequence[Gap]) -> bool:
    skipped = {gap.after for gap in gaps}
    steps = [b - a for i, (a, b) in enumerate(pairwise(positions)) if i not in skipped]
    return any(abs(step - spacing) > UNEVEN * spacing for step in steps)


def _tilt(slices: Sequence[Plane]) -> float:
    """Angle in degrees between the normal and the line of slice corners, signed along columns."""
    if len(slices) < 2:
        return 0.0
    first, last = slices[0], slices[-1]
    line = np.array(last.ImagePositionPatient) - np.array(first.ImagePositionPatient)
    normal, columns = normal_of(first), np.array(first.ImageOrientationPatient)[3:]
    along = float(np.dot(line, normal))
    aside = float(np.linalg.norm(line - along * normal))
    degrees = math.degrees(math.atan2(aside, along))
    if degrees <= TILT_DEGREES:
        return 0.0
    return math.copysign(degrees, float(np.dot(line, columns)))
