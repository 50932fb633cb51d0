"""One series → groups of planes that can form a stack.

What always separates: rows × columns, colour, value 3 of ImageType (AXIAL, LOCALIZER, M, P …),
having a position or not, orientation, pixel spacing. What separates only where the same positions
occur twice: the rest of ImageType, StackID, echo, acquisition. (GE marks the thin slices of a head
CT with a fourth value, ADD, and counts an acquisition per slice: neither may tear a volume apart.)
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .plane import Plane

ORIENTATION_TOLERANCE = 0.01
"""Largest difference of a direction cosine within a stack (0.6°): header jitter is below 1e-4,
planned changes of orientation above a degree."""

SPACING_TOLERANCE = 0.001
"""Relative difference of PixelSpacing within a stack: text rounding, not another reconstruction."""

POSITION_TOLERANCE_MM = 0.01
"""Positions closer than this are one: scanners write 1e-3 mm jitter, slices are 0.1 mm and more."""

_SHARED_POSITIONS = 0.5
"""Two acquisitions that share this part of the smaller one's positions repeat each other; fewer is
the seam of two neighbouring ones."""

_SAME_POSITIONS = 0.9
"""Acquisitions whose positions agree this far are the time points of one 4D series, not stacks."""

Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Group:
    """Planes that belong together, and the key that says why, in words and without UIDs."""

    key: Key
    planes: tuple[Plane, ...]

    @property
    def signature(self) -> str:
        """16 hexadecimal digits over the key; independent of order, UIDs and further slices."""
        text = "\n".join(f"{name}={value}" for name, value in self.key)
        return hashlib.sha256(f"diptych.stack.1\n{text}".encode()).hexdigest()[:16]


def split(planes: Sequence[Plane]) -> list[Group]:
    """All planes of one series, grouped; every plane is in exactly one group."""
    groups = _split_always(planes)
    groups = _each(groups, "type", lambda plane: plane.ImageType[3:], _repeats)
    groups = _each(groups, "stack", lambda plane: plane.StackID, _repeats)
    groups = _each(groups, "echo", _echo, _repeats)
    groups = _each(groups, "acquisition", lambda plane: plane.AcquisitionNumber, _other_range)
    return _distinct(groups)


def has_position(plane: Plane) -> bool:
    """True when the plane's place in the patient is known (PS3.3 §C.7.6.2.1.1)."""
    return plane.ImagePositionPatient is not None and plane.ImageOrientationPatient is not None


def normal_of(plane: Plane) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Unit slice normal: row direction × column direction, LPS."""
    cosines = np.array(plane.ImageOrientationPatient, float)
    normal = np.cross(cosines[:3], cosines[3:])
    unit: np.ndarray[tuple[int], np.dtype[np.float64]] = normal / np.linalg.norm(normal)
    return unit


def places(planes: Sequence[Plane]) -> list[int] | None:
    """For each plane the ordinal of its position along the normal, equal within the tolerance.

    From ImagePositionPatient, else SliceLocation; None when neither is there for all of them.
    """
    if all(has_position(plane) for plane in planes):
        normal = normal_of(planes[0])
        along = [float(np.dot(normal, np.array(plane.ImagePositionPatient))) for plane in planes]
    else:
        along = [plane.SliceLocation for plane in planes if plane.SliceLocation is not None]
        if len(along) < len(planes):
            return None
    order = np.argsort(along, kind="stable")
    ordinals = [0] * len(planes)
    ordinal, anchor = -1, -np.inf
    for index in order:
        if along[index] - anchor > POSITION_TOLERANCE_MM:
            ordinal, anchor = ordinal + 1, along[index]
        ordinals[int(index)] = ordinal
    return ordinals


def _split_always(planes: Sequence[Plane]) -> list[Group]:
    coarse: dict[tuple[int, int, int, str, bool], list[Plane]] = defaultdict(list)
    for plane in planes:
        kind = plane.ImageType[2] if len(plane.ImageType) > 2 else ""
        coarse[plane.rows, plane.columns, plane.samples, kind, has_position(plane)].append(plane)
    groups = []
    for (rows, columns, samples, kind, placed), members in coarse.items():
        key: Key = (
            ("size", f"{rows}×{columns}×{samples}"),
            ("kind", kind),
            ("position", "yes" if placed else "no"),
        )
        for cosines, turned in _cluster(members, _cosines, ORIENTATION_TOLERANCE, relative=False):
            for spacing, spaced in _cluster(turned, _spacing, SPACING_TOLERANCE, relative=True):
                shape = (
                    ("orientation", _cosines_text(cosines)),
                    ("spacing", _spacing_text(spacing)),
                )
                groups.append(Group(key + shape, tuple(spaced)))
    return groups


def _cosines(plane: Plane) -> tuple[float, ...]:
    return plane.ImageOrientationPatient or ()


def _spacing(plane: Plane) -> tuple[float, ...]:
    return plane.PixelSpacing or ()


def _cosines_text(values: tuple[float, ...]) -> str:
    # Two decimals absorb jitter; + 0.0 turns -0.0 into 0.0.
    return ",".join(f"{round(value, 2) + 0.0:.2f}" for value in values)


def _spacing_text(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:.2g}" for value in values)


def _cluster(
    planes: Sequence[Plane],
    values: Callable[[Plane], tuple[float, ...]],
    tolerance: float,
    relative: bool,
) -> list[tuple[tuple[float, ...], list[Plane]]]:
    """Group by nearly equal vectors; each cluster is named by its smallest member."""
    clusters: list[tuple[tuple[float, ...], list[Plane]]] = []
    for plane in sorted(planes, key=values):
        vector = values(plane)
        for anchor, members in clusters:
            allowed = tolerance * max(map(abs, anchor), default=1.0) if relative else tolerance
            if len(anchor) == len(vector) and all(
                abs(a - b) <= allowed for a, b in zip(anchor, vector, strict=True)
            ):
                members.append(plane)
                break
        else:
            clusters.append((vector, [plane]))
    return clusters


def _echo(plane: Plane) -> Hashable:
    if plane.EchoTime is not None:
        return round(plane.EchoTime, 2)
    return plane.EchoNumbers


def _each(
    groups: list[Group],
    name: str,
    value: Callable[[Plane], Hashable],
    separates: Callable[[list[set[int]]], bool],
) -> list[Group]:
    result = []
    for group in groups:
        parts: dict[str, list[int]] = defaultdict(list)
        for index, plane in enumerate(group.planes):
            parts[str(value(plane))].append(index)
        ordinals = places(group.planes) if len(parts) > 1 else None
        # A value that differs from plane to plane numbers planes; it does not name stacks.
        if ordinals is None or len(parts) * 2 > len(group.planes):
            result.append(group)
            continue
        if not separates([{ordinals[i] for i in part} for part in parts.values()]):
            result.append(group)
            continue
        for rank, (text, part) in enumerate(sorted(parts.items())):
            # The first keeps the plain key, so that a stack keeps its signature when late slices
            # reveal a second one beside it.
            key = group.key + (((name, text),) if rank else ())
            result.append(replace(group, key=key, planes=tuple(group.planes[i] for i in part)))
    return result


def _repeats(positions: list[set[int]]) -> bool:
    return sum(map(len, positions)) > len(set().union(*positions))


def _other_range(positions: list[set[int]]) -> bool:
    pairs = [
        (len(a & b) / min(len(a), len(b)), len(a & b) / len(a | b))
        for i, a in enumerate(positions)
        for b in positions[:i]
    ]
    repeating = [same for shared, same in pairs if shared >= _SHARED_POSITIONS]
    return bool(repeating) and min(repeating) < _SAME_POSITIONS


def _distinct(groups: list[Group]) -> list[Group]:
    """Make signatures unique within the series, and the order of groups reproducible."""
    groups = sorted(groups, key=lambda group: (group.key, sorted(p.digest for p in group.planes)))
    seen: dict[Key, int] = defaultdict(int)
    result = []
    for group in groups:
        seen[group.key] += 1
        number = seen[group.key]
        extra = (("number", str(number)),) if number > 1 else ()
        result.append(replace(group, key=group.key + extra))
    return result
