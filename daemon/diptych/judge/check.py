"""What verification finds about a candidate: values only, stored with the verdict.

How it is found is in :mod:`diptych.judge.verify`; whoever judges or judges again needs only this.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from diptych.judge.count import CaseId


class Impossible(StrEnum):
    """Why a candidate could not be verified."""

    NO_PROXY = "no-proxy"
    TOO_SMALL = "too-small"
    NO_OVERLAP = "no-overlap"


@dataclass(frozen=True)
class Band:
    """Of blocks of 2ᵇ voxels. r: correlation; ours, theirs: standard deviations; n: blocks."""

    r: float
    ours: float
    theirs: float
    n: int


@dataclass(frozen=True)
class Interval:
    """Slices first…last (from 1) of ``of``, from_mm…to_mm along the stack from its first face."""

    first: int
    last: int
    of: int
    from_mm: float
    to_mm: float

    @property
    def slices(self) -> int:
        """How many."""
        return max(0, self.last - self.first + 1)


@dataclass(frozen=True)
class Check:
    """What verification found about one candidate; stored with the verdict.

    impossible: the reason, and then nothing else is known. correlation: corrected, 0…1; error: its
    standard error. rotation_degrees: about our slice normal; shift_mm: of our centre in theirs
    along (S, P, L), both measured from the proxies' middles. blur_mm: Gaussian that brought theirs
    to ours; negative: ours to theirs. noise: share of the compared power that was taken for noise,
    0…1. inverted: bright is dark. overlap: share of our and of their foreground. ours, theirs: the
    common slices. spacing_mm: the grid compared on. backwards: one stack, placed by numbers
    alone, was turned round.
    """

    case: CaseId
    impossible: Impossible | None = None
    correlation: float = 0.0
    error: float = 0.0
    rotation_degrees: float = 0.0
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    blur_mm: float = 0.0
    noise: float = 0.0
    inverted: bool = False
    overlap: tuple[float, float] = (0.0, 0.0)
    ours: Interval | None = None
    theirs: Interval | None = None
    spacing_mm: float = 0.0
    bands: tuple[Band, ...] = ()
    backwards: bool = False

    @property
    def shared(self) -> tuple[float, float]:
        """Which share of our and of their slices has a counterpart. Every second slice of a stack
        covers all of it, and half of its slices."""
        if self.ours is None or self.theirs is None:
            return 0.0, 0.0
        common = min(self.ours.slices, self.theirs.slices)
        return common / self.ours.of, common / self.theirs.of
