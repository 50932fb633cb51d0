"""How many copies there are, and how much was not looked at: counts with their limits, in words."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from scipy.stats import binomtest

from diptych.judge.ladder import Relation
from diptych.log import printable

from .findings import Kind
from .terms import UNLIMITED, Limit

CONFIDENCE = 0.95
UNREADABLE, NOT_SCREENABLE = "unreadable", "not-screenable"
_COPIES = {
    Relation.EXACT: "exact copies",
    Relation.NEAR_DUPLICATE: "near-duplicates",
    Relation.PARTIAL: "partial copies",
}
_WHERE = {
    Kind.DELIVERY: "inside the delivery",
    Kind.OWNED: "of what is owned",
    Kind.TEST_SET: "of a test set",
}


@dataclass(frozen=True)
class Rate:
    """Copies of one kind of collection among the series counted.

    relation: None of all copies together. modality, vendor: of which series; "" any. unverified: of
    ``duplicates``, those that could not be aligned and rest on their slices alone. exceeded: more
    than ``limit``, whatever may follow.
    """

    kind: Kind
    relation: Relation | None
    modality: str
    vendor: str
    duplicates: int
    unverified: int
    of: int
    limit: Limit
    exceeded: bool

    @property
    def low(self) -> float:
        """The lower bound of the share, 0…1: of the exact (Clopper-Pearson) interval at 95 %.

        When the whole delivery was judged, ``duplicates`` of ``of`` is what is in it, without any
        doubt of sampling: a census. The interval is then about the vendor's process, of which this
        delivery is taken for a sample: what share to expect of the next that is made in that way.
        """
        return bounds(self.duplicates, self.of)[0]

    @property
    def high(self) -> float:
        """The upper bound, as ``low``."""
        return bounds(self.duplicates, self.of)[1]

    @property
    def name(self) -> str:
        """What was counted, in words; one line whatever a vendor is called."""
        what = "copies" if self.relation is None else _COPIES[self.relation]
        words = f"{what} {_WHERE[self.kind]}"
        if self.modality:
            words += f", {printable(self.modality)}"
        return f"{words}, from {printable(self.vendor)}" if self.vendor else words

    @property
    def sentence(self) -> str:
        """Such as ``copies inside the delivery: 7 of 1,204 series, 0.58 %, limit 0.5 %``."""
        return _said(self.name, self.duplicates, self.of, "series", self.limit)


@dataclass(frozen=True)
class Lost:
    """What was not looked at. what: ``unreadable`` files and archive members of all of them, or
    ``not-screenable`` series of all series of images."""

    what: str
    count: int
    of: int
    limit: Limit
    exceeded: bool

    @property
    def sentence(self) -> str:
        """As of a rate."""
        unit = "series" if self.what == NOT_SCREENABLE else "files"
        return _said(self.what, self.count, self.of, unit, self.limit)


@lru_cache(maxsize=4096)
def bounds(found: int, of: int) -> tuple[float, float]:
    """The exact (Clopper-Pearson) interval at 95 % for a share; (0, 1) of nothing."""
    if not of:
        return 0.0, 1.0
    interval = binomtest(found, of).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


def percent(found: int, of: int, limit: Limit = UNLIMITED) -> str:
    """Such as ``0.58 %``: two decimals, and more until it is on the same side of the limit as the
    numbers are. Of nothing: ``0 %``."""
    if not of:
        return "0 %"
    share = Decimal(100 * found) / of
    for decimals in range(2, 12):
        text = f"{share:.{decimals}f}"
        if limit.share is None:
            break
        most, rounded = limit.share * 100, Decimal(text)
        if (rounded > most) == limit.exceeded(found, of) and (rounded < most) == (share < most):
            break
    return f"{text} %"


def _said(name: str, found: int, of: int, unit: str, limit: Limit) -> str:
    most = f"limit {limit.text}" if limit.set else limit.text
    return f"{name}: {found:,} of {of:,} {unit}, {percent(found, of, limit)}, {most}"
