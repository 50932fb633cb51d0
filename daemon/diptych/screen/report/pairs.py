"""The pairs of a screening: each series of the delivery beside the case it was found to be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

from diptych.screen.copies import STRONGEST, counted
from diptych.screen.findings import Kind, Match, Screening, Series, Stack

MOST_SHOWN = 50
"""Pairs with pictures in the page; the tables hold all of them."""

_KINDS = (Kind.TEST_SET, Kind.OWNED, Kind.DELIVERY)


@dataclass(frozen=True)
class Pair:
    """One match that names another case. counted: it makes its series a copy, and the series is
    not excluded."""

    series: Series
    stack: Stack
    match: Match
    counted: bool


def pairs(screening: Screening, excluded: Collection[int]) -> list[Pair]:
    """All of them, in the catalogue's order, those that are no duplicates among them."""
    count = {
        _place(stack, match)
        for series in screening.series
        if series.number not in excluded
        for stack, match in counted(series)
    }
    return [
        Pair(series, stack, match, _place(stack, match) in count)
        for series in screening.series
        for stack in series.stacks
        for match in stack.matches
        if match.other is not None
    ]


def worst(found: list[Pair], most: int = MOST_SHOWN) -> list[Pair]:
    """The duplicates to show. Of every kind of finding (where × relation) the surest one first,
    then the second of every kind, and so on: a thousand exact copies do not hide the one leak into
    a test set."""
    kinds: defaultdict[tuple[int, int], list[Pair]] = defaultdict(list)
    for pair in found:
        if pair.counted:
            place = _KINDS.index(pair.match.kind), STRONGEST.index(pair.match.relation)
            kinds[place].append(pair)
    ranked = [
        (rank, place, pair)
        for place, members in kinds.items()
        for rank, pair in enumerate(sorted(members, key=_surest))
    ]
    return [pair for _, _, pair in sorted(ranked, key=lambda each: each[:2])[:most]]


def _surest(pair: Pair) -> tuple[float, int, int, str]:
    check = pair.match.check
    sure = 0.0 if check is None or check.impossible is not None else check.correlation
    return -sure, pair.series.number, pair.stack.ref.case, pair.match.collection


def _place(stack: Stack, match: Match) -> tuple[int, Kind, str]:
    return stack.ref.case, match.kind, match.collection
