"""What a report is made of besides the screening itself: plain values that others find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.judge.ladder import Relation
from diptych.screen.findings import Match, Ref


@dataclass(frozen=True)
class Member:
    """A copy of its group's representative, verified against it and nothing else."""

    ref: Ref
    relation: Relation
    match: Match


@dataclass(frozen=True)
class Group:
    """A representative and its copies."""

    representative: Ref
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Kept:
    """Whether to keep a series (its number), and why. group: from 1, in the order of the groups."""

    series: int
    keep: bool
    why: str
    group: int | None


@dataclass(frozen=True)
class Pictures:
    """Where pixels come from. proxy_of: as ``judge.proxy.encode`` wrote it; vectors_of: float32
    (slice, dimension) of the informative slices, in order. None: not kept."""

    proxy_of: Callable[[Ref], bytes | None]
    vectors_of: Callable[[Ref], NDArray[np.float32] | None]
