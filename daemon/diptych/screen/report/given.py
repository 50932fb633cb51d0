"""All that a report is made of: what others found, and where the pictures come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.screen.dismissals import Dismissed
from diptych.screen.findings import Ref, Screening
from diptych.screen.groups import Group
from diptych.screen.keep import Kept
from diptych.screen.limits import Decision
from diptych.screen.report.pairs import Pair
from diptych.screen.since import Since


@dataclass(frozen=True)
class Pictures:
    """Where pixels come from. proxy_of: as ``judge.proxy.encode`` wrote it; vectors_of: float32
    (slice, dimension) of the informative slices, in order. None: not kept."""

    proxy_of: Callable[[Ref], bytes | None]
    vectors_of: Callable[[Ref], NDArray[np.float32] | None]


@dataclass(frozen=True)
class Report:
    """fingerprint: of the key that signs it. since: None where no earlier delivery was named.
    dismissed: copies that somebody took out of the count."""

    screening: Screening
    decision: Decision
    groups: Sequence[Group]
    kept: Sequence[Kept]
    pictures: Pictures
    pairs: Sequence[Pair]
    fingerprint: str
    vendor_copy: bool
    since: Since | None = None
    dismissed: Sequence[Dismissed] = ()

    @property
    def excluded(self) -> frozenset[int]:
        """Numbers of series that the policy leaves out of the count."""
        return frozenset(each.series for each in self.decision.excluded)
