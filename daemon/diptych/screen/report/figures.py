"""What is counted: series by vendor, collection and relation; what was not screened and why.

A series counts where ``limits`` counts it: judged, an image that could be judged, not excluded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from diptych.judge.ladder import Relation
from diptych.screen.copies import STRONGEST, counted
from diptych.screen.findings import COPIES, Kind, Screening, Series
from diptych.screen.limits import NOT_JUDGED

PENDING = "not-judged"
"""Of a series that the run did not come to."""


@dataclass(frozen=True)
class Cell:
    """Counted series of one vendor beside one collection, each by its surest relation."""

    vendor: str
    kind: Kind
    collection: str
    series: int
    relations: Counter[Relation]

    @property
    def duplicates(self) -> int:
        """Series whose relation is a copy's."""
        return sum(self.relations[relation] for relation in COPIES)


def collections(screening: Screening) -> list[tuple[Kind, str]]:
    """What every series was compared with: the delivery itself, then the others."""
    named = [(each.kind, each.name) for each in screening.collections]
    matched = [
        (match.kind, match.collection)
        for series in screening.series
        for stack in series.stacks
        for match in stack.matches
    ]
    others = [place for place in (*named, *matched) if place[0] is not Kind.DELIVERY]
    return [(Kind.DELIVERY, "delivery"), *dict.fromkeys(others)]


def vendor_of(series: Series, screening: Screening) -> str:
    """The manifest's vendor of a series, else the delivery's."""
    return series.vendor or screening.vendor


def in_the_count(screening: Screening, excluded: Collection[int]) -> list[Series]:
    """What rates are shares of; excluded: numbers of series."""
    return [
        series
        for series in screening.series
        if series.number not in excluded
        and series.principal is not None
        and series.principal.relation not in NOT_JUDGED
    ]


def matrix(screening: Screening, excluded: Collection[int]) -> list[list[Cell]]:
    """One row per vendor in the order of their names, one cell per collection."""
    wanted = collections(screening)
    rows: dict[str, list[Counter[Relation]]] = {}
    sizes: Counter[str] = Counter()
    for series in in_the_count(screening, excluded):
        vendor = vendor_of(series, screening)
        sizes[vendor] += 1
        row = rows.setdefault(vendor, [Counter() for _ in wanted])
        for place, relations in zip(wanted, row, strict=True):
            relation = relation_to(series, *place)
            if relation is not None:
                relations[relation] += 1
    return [
        [
            Cell(vendor, *place, sizes[vendor], relations)
            for place, relations in zip(wanted, rows[vendor], strict=True)
        ]
        for vendor in sorted(rows)
    ]


def relation_to(series: Series, kind: Kind, collection: str) -> Relation | None:
    """The surest copy of anything there, else what its principal stack is to it; None: not
    compared."""

    def there(match_kind: Kind, name: str) -> bool:
        return match_kind is kind and (kind is Kind.DELIVERY or name == collection)

    copies = [match.relation for _, match in counted(series) if there(match.kind, match.collection)]
    if copies:
        return min(copies, key=STRONGEST.index)
    others = series.principal.matches if series.principal else ()
    found = [m.relation for m in others if there(m.kind, m.collection)]
    return next((relation for relation in found if relation not in COPIES), None)


def duplicates(screening: Screening, excluded: Collection[int]) -> list[Series]:
    """Series that are a copy of something, wherever; each once."""
    return [series for series in in_the_count(screening, excluded) if counted(series)]


def not_screened(screening: Screening) -> list[tuple[str, list[Series]]]:
    """Series without a relation by reason, most first."""
    by_reason: dict[str, list[Series]] = {}
    for series in screening.series:
        principal = series.principal
        if principal is None:
            by_reason.setdefault(PENDING, []).append(series)
        elif principal.relation in NOT_JUDGED:
            by_reason.setdefault(principal.reason or principal.relation, []).append(series)
    return sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
