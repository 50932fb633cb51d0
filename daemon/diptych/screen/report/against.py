"""Rates against their limits, with their intervals; money; the limits as a clause has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diptych.judge.ladder import Relation
from diptych.screen.findings import Kind
from diptych.screen.limits import Decision
from diptych.screen.rates import Rate
from diptych.screen.report import words

MOST_PARTS = 40
_PLOT = 144
"""Units of the width of the drawing of an interval."""


def rates(decision: Decision) -> dict[str, Any]:
    """All of the delivery first, then its parts."""
    whole = [rate for rate in decision.rates if not rate.modality and not rate.vendor]
    parts = [rate for rate in decision.rates if rate.modality or rate.vendor]
    limited = [rate for rate in parts if rate.limit.set]
    parts = [rate for rate in parts if not rate.limit.set and rate.relation is None]
    vendors = {rate.vendor for rate in parts}
    if len(vendors - {""}) < 2:
        parts = [rate for rate in parts if not rate.vendor]  # one vendor is the whole
    limits = [rate for rate in whole if rate.limit.set]
    return {
        "rate_tables": [
            (caption, any(rate.limit.set for rate in some), _scaled(some))
            for caption, some in (
                ("The whole delivery, and what has limits of its own", [*whole, *limited]),
                ("By vendor and by modality", parts[:MOST_PARTS]),
            )
            if some
        ],
        "more_parts": max(0, len(parts) - MOST_PARTS),
        "lost": [
            {
                "what": words.upper(lost.what),
                "count": f"{words.number(lost.count)} of {words.number(lost.of)}",
                "share": words.percent(lost.count / lost.of) if lost.of else "–",
                "limit": lost.limit.text,
                "exceeded": lost.exceeded,
            }
            for lost in decision.lost
        ],
        "money": _money(decision),
        "clause_limits": _clause(limits),
    }


def _scaled(rates: Sequence[Rate]) -> list[dict[str, Any]]:
    """One scale for all of them: from 0 to the largest bound or limit."""
    most = max([0.001, *(rate.high for rate in rates), *(_limit(rate) or 0 for rate in rates)])

    def at(share: float | None) -> str | None:
        return None if share is None else f"{min(1.0, share / most) * (_PLOT - 8) + 4:.1f}"

    return [
        {
            "where": words.upper(words.KINDS[rate.kind])
            + "".join(
                f", {words.short(part, 60)}" for part in (rate.modality, rate.vendor) if part
            ),
            "what": "all copies" if rate.relation is None else rate.relation.value,
            "duplicates": words.number(rate.duplicates),
            "unverified": words.number(rate.unverified) if rate.unverified else "",
            "of": words.number(rate.of),
            "share": words.percent(rate.duplicates / rate.of) if rate.of else "–",
            "low": words.percent(rate.low),
            "high": words.percent(rate.high),
            "limit": rate.limit.text if rate.limit.set else "–",
            "exceeded": rate.exceeded,
            "finding": "within" if rate.limit.set else "",
            "x": at(rate.duplicates / rate.of if rate.of else 0.0),
            "x_low": at(rate.low),
            "x_high": at(rate.high),
            "x_limit": at(_limit(rate)),
        }
        for rate in rates
    ]


def _limit(rate: Rate) -> float | None:
    if rate.limit.count is not None:
        return min(1.0, rate.limit.count / rate.of) if rate.of else None
    return None if rate.limit.share is None else float(rate.limit.share)


def _money(decision: Decision) -> list[tuple[str, str]]:
    money = decision.money
    if money is None:
        return []
    by_kind = [
        (f"of them copies, {words.KINDS[kind]}", words.money(amount))
        for kind, amount in money.by_kind.items()
        if amount
    ]
    rows = [
        (f"All {words.number(money.priced)} series with a price", words.money(money.total)),
        ("Series that are a copy of anything, each once", words.money(money.copies)),
        *by_kind,
    ]
    if money.unpriced:
        rows.append(("Series without a price", words.number(money.unpriced)))
    if money.copies_unpriced:
        rows.append(("Copies without a price, not in these sums", str(money.copies_unpriced)))
    return rows


def _clause(limits: Sequence[Rate]) -> str:
    places = {
        Kind.DELIVERY: "of other Series of the Delivery",
        Kind.OWNED: "of Series that the Buyer owns",
        Kind.TEST_SET: "of Series of the Buyer's test sets",
    }
    kinds = {
        None: "Duplicates",
        Relation.EXACT: "exact copies",
        Relation.NEAR_DUPLICATE: "near-duplicates",
        Relation.PARTIAL: "partial copies",
    }
    said = [
        f"at most {rate.limit.text} may be {kinds[rate.relation]} {places[rate.kind]}"
        for rate in limits
    ]
    if not said:
        said = [f"at most [share] % may be Duplicates {where}" for where in places.values()]
    return "; ".join(said) + "."
