"""What the copies of a delivery cost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from diptych.errors import UsageError

from .copies import counted
from .findings import Kind, Series


@dataclass(frozen=True)
class Money:
    """Sums of prices, in whatever the prices are in. total: of all series that have one (``priced``
    of them; ``unpriced`` have none). copies: of series that are a copy of anything, each once.
    by_kind: of copies of each kind of collection; a series that is a copy of two is in both.
    copies_unpriced: copies whose price is not known, so that ``copies`` is too low."""

    total: Decimal
    priced: int
    unpriced: int
    copies: Decimal
    copies_unpriced: int
    by_kind: Mapping[Kind, Decimal]


def money(
    series: Iterable[Series], excluded: Collection[int], each: Decimal | None
) -> Money | None:
    """Prices as the manifest has them, else ``each``; None where no series has one. What is
    excluded is paid for, but is no copy."""
    priced = [(one, one.price if one.price is not None else each) for one in series]
    if not any(price is not None for _, price in priced):
        return None
    copies = [
        (price, {match.kind for _, match in counted(one)})
        for one, price in priced
        if one.number not in excluded
    ]
    known = [(price, kinds) for price, kinds in copies if price is not None and kinds]
    return Money(
        total=sum((price for _, price in priced if price is not None), Decimal()),
        priced=sum(price is not None for _, price in priced),
        unpriced=sum(price is None for _, price in priced),
        copies=sum((price for price, _ in known), Decimal()),
        copies_unpriced=sum(price is None and bool(kinds) for price, kinds in copies),
        by_kind={
            kind: sum((price for price, kinds in known if kind in kinds), Decimal())
            for kind in Kind
        },
    )


def amount(text: str) -> Decimal:
    """A price per series as somebody wrote it. UsageError when it is none."""
    try:
        found = Decimal(text.strip())
    except InvalidOperation:
        found = Decimal("NaN")
    if not found.is_finite() or found < 0 or found.adjusted() > 15:
        raise UsageError(f"{text[:40]!r} is no price: write a number such as 120 or 99.50")
    return found
