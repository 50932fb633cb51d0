"""Planes of one stack → frames: one plane per position each, several when the series is 4D."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from .plane import Plane

_COVERAGE = 0.5
"""A value whose frames hold fewer than half of the positions on average is not a time axis."""

_NEVER = float("inf")


def instance_order(plane: Plane) -> tuple[float, str, int, bytes]:
    """InstanceNumber, then time, then frame; the digest makes it total and reproducible."""
    number = plane.InstanceNumber if plane.InstanceNumber is not None else _NEVER
    return number, plane.AcquisitionTime, plane.frame_number, plane.digest


def arrange(
    planes: Sequence[Plane], ordinals: Sequence[int]
) -> tuple[list[list[Plane]], list[Plane], str]:
    """Distribute planes over frames; returns (frames, repeats, what separates the frames).

    ``ordinals[i]`` is the position of ``planes[i]``. Frames are in order, each ordered by position.
    ``repeats`` are planes set aside because a bit-identical one stands at the same position (PS3.3
    has no rule for these; the header decides nothing here). Every plane is in one of the two.
    """
    placed = sorted(zip(planes, ordinals, strict=True), key=lambda pair: instance_order(pair[0]))
    total = len(set(ordinals))
    if len(placed) == total:
        return [_by_position(placed)], [], ""
    distinct: dict[tuple[int, bytes], tuple[Plane, int]] = {}
    repeats = []
    for plane, ordinal in placed:
        if (ordinal, plane.digest) in distinct:
            repeats.append(plane)
        else:
            distinct[ordinal, plane.digest] = (plane, ordinal)
    left = list(distinct.values())
    if len(left) == total:
        return [_by_position(left)], repeats, ""
    # All planes before the distinct ones: frames of a 4D series may share blank planes.
    if found := _by_header(placed, total):
        return found[0], [], found[1]
    if found := _by_header(left, total):
        return found[0], repeats, found[1]
    return _by_occurrence(left), repeats, "order of instances"


def _by_position(placed: Sequence[tuple[Plane, int]]) -> list[Plane]:
    return [plane for plane, _ in sorted(placed, key=lambda pair: pair[1])]


def _by_header(
    placed: Sequence[tuple[Plane, int]], total: int
) -> tuple[list[list[Plane]], str] | None:
    for name, value in _candidates(placed):
        frames: dict[Hashable, dict[int, Plane]] = defaultdict(dict)
        for plane, ordinal in placed:
            key = value(plane)
            if key is None or ordinal in frames[key]:
                break
            frames[key][ordinal] = plane
        else:
            if len(frames) > 1 and len(placed) >= _COVERAGE * total * len(frames):
                ordered = sorted(frames.items(), key=lambda item: _sortable(item[0]))
                return [[frame[i] for i in sorted(frame)] for _, frame in ordered], name
    return None


def _sortable(key: Hashable) -> Any:
    return key  # every candidate's keys are of one comparable type


def _candidates(
    placed: Sequence[tuple[Plane, int]],
) -> list[tuple[str, Callable[[Plane], Hashable]]]:
    """What may tell time points, weightings or phases apart, the most explicit first."""
    several: dict[str, int] = defaultdict(int)
    for plane, _ in placed:
        several[plane.SOPInstanceUID] += 1
    dimensions = min(len(plane.DimensionIndexValues) for plane, _ in placed)

    def without(column: int) -> Callable[[Plane], Hashable]:
        return lambda plane: tuple(
            value for i, value in enumerate(plane.DimensionIndexValues) if i != column
        )

    found: list[tuple[str, Callable[[Plane], Hashable]]] = [
        ("TemporalPositionIndex", lambda plane: plane.TemporalPosition),
        ("DiffusionBValue", _weighting),
        ("TriggerTime", lambda plane: plane.TriggerTime),
        *((f"DimensionIndexValues but {i + 1}", without(i)) for i in range(dimensions)),
        ("AcquisitionNumber", lambda plane: plane.AcquisitionNumber),
        ("AcquisitionTime", lambda plane: plane.AcquisitionTime or None),
        ("ContentTime", lambda plane: plane.ContentTime or None),
    ]
    if all(count > 1 for count in several.values()):
        # Multi-frame objects and mosaics: each holds whole frames.
        rank: dict[str, int] = {}
        for plane, _ in placed:  # already in instance order
            rank.setdefault(plane.SOPInstanceUID, len(rank))
        found.append(("instance", lambda plane: rank[plane.SOPInstanceUID]))
    return found


def _weighting(plane: Plane) -> Hashable:
    if plane.DiffusionBValue is None:
        return None
    direction = plane.DiffusionGradientOrientation or ()
    time = plane.TemporalPosition or 0
    return plane.DiffusionBValue, tuple(round(part, 4) for part in direction), time


def _by_occurrence(placed: Sequence[tuple[Plane, int]]) -> list[list[Plane]]:
    seen: dict[int, int] = defaultdict(int)
    frames: list[dict[int, Plane]] = []
    for plane, ordinal in placed:
        if seen[ordinal] == len(frames):
            frames.append({})
        frames[seen[ordinal]][ordinal] = plane
        seen[ordinal] += 1
    return [[frame[i] for i in sorted(frame)] for frame in frames]
