"""Whether a delivery is accepted: a screening held against the terms. Pure.

Counted are series that were judged, are images that could be judged, and are not excluded by the
terms; a series is a copy as :mod:`diptych.screen.copies` says. As long as some series have no
verdict, only a limit that is exceeded whatever follows decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum, StrEnum

from diptych.errors import Reason
from diptych.judge.ladder import Relation, Verified
from diptych.log import printable

from .copies import STRONGEST, copy_of, counted
from .exclude import Excluded, excluded
from .findings import Kind, Match, Screening, Series
from .money import Money, money
from .rates import NOT_SCREENABLE, UNREADABLE, Lost, Rate
from .terms import Kinds, Terms

MOST_NAMED = 3
"""Limits in the sentence; further ones are counted."""
NOT_JUDGED = frozenset({Relation.NOT_SCREENABLE, Relation.NOT_AN_IMAGE})


class Exit(IntEnum):
    """What the commands that vet end with. Of several the first that holds in this order: 130, 4
    and 2 (nothing was decided), 1, 3, 0."""

    CLEAN = 0
    EXCEEDED = 1
    USAGE = 2
    UNREADABLE = 3
    ENVIRONMENT = 4
    INTERRUPTED = 130


class Ruling(StrEnum):
    """Of all of it. Undecided: not everything was judged, or nothing could be."""

    ACCEPT = "ACCEPT"
    REJECT = "REJECT"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True)
class Decision:
    """exceeded: those of ``rates`` and ``lost`` that are, in their order. rates: all of the
    delivery by kind and relation, then by vendor and by modality, then of the terms' scopes.
    unchecked: kinds of collections with a limit that the delivery was not compared with. money:
    None where no price is known. judged: series with a verdict, of ``series``."""

    ruling: Ruling
    sentence: str
    exceeded: tuple[Rate | Lost, ...]
    rates: tuple[Rate, ...]
    lost: tuple[Lost, ...]
    unchecked: tuple[Kind, ...]
    excluded: tuple[Excluded, ...]
    money: Money | None
    judged: int
    series: int
    complete: bool
    terms: str

    @property
    def accepted(self) -> bool:
        """Whether no limit is exceeded, and everything was judged."""
        return self.ruling is Ruling.ACCEPT


def decide(screening: Screening, terms: Terms, each: Decimal | None = None) -> Decision:
    """``each``: the price of a series that has none of its own."""
    left = 0 if screening.complete else sum(not one.judged for one in screening.series)
    found = _Found(screening, terms, left)
    rates, lost = tuple(found.rates()), found.lost()
    exceeded = _exceeded((*rates, *lost))
    judged = sum(one.judged for one in screening.series)
    if exceeded:
        ruling, words = Ruling.REJECT, _list(exceeded)
        if not screening.complete:
            words += f" (after {judged:,} of {len(screening.series):,} series)"
    elif not screening.complete:
        ruling = Ruling.UNDECIDED
        words = f"{judged:,} of {len(screening.series):,} series are judged, no limit is exceeded"
        words += f" ({printable(screening.stopped, 200)})" if screening.stopped else ""
    elif not found.series:
        ruling = Ruling.UNDECIDED
        words = f"no series to count: {len(screening.series):,} in the delivery"
        words += f", {len(found.excluded):,} of them excluded" if found.excluded else ""
    else:
        ruling = Ruling.ACCEPT
        words = _list([r for r in rates if not (r.relation or r.modality or r.vendor)])
    return Decision(
        ruling=ruling,
        sentence=f"{words[0].upper()}{words[1:]}: {ruling}",
        exceeded=exceeded,
        rates=rates,
        lost=lost,
        unchecked=found.unchecked(),
        excluded=found.excluded,
        money=money(screening.series, {one.series for one in found.excluded}, each),
        judged=judged,
        series=len(screening.series),
        complete=screening.complete,
        terms=terms.name,
    )


def exceeded_already(screening: Screening, terms: Terms, total: int) -> bool:
    """Whether a limit is exceeded whatever the series are that have no verdict yet, of ``total``
    in the delivery. All files are known by then, so that a share of unreadable ones only grows."""
    found = _Found(screening, terms, max(0, total - sum(one.judged for one in screening.series)))
    return bool(_exceeded((*found.rates(), *found.lost())))


def exit_status(decision: Decision) -> Exit:
    """A delivery that is refused is that, whatever could not be read of it."""
    if decision.ruling is Ruling.REJECT:
        return Exit.EXCEEDED
    if not decision.complete:
        return Exit.INTERRUPTED
    lost = any(one.count for one in decision.lost if one.what == UNREADABLE)
    if lost or decision.ruling is Ruling.UNDECIDED:
        return Exit.UNREADABLE
    return Exit.CLEAN


class _Found:
    """What is counted. ``left``: series that may still come."""

    def __init__(self, screening: Screening, terms: Terms, left: int) -> None:
        self.screening, self.terms, self.left = screening, terms, left
        judged = [one for one in screening.series if one.judged or screening.complete]
        images = [one for one in judged if _relation(one) is not Relation.NOT_AN_IMAGE]
        left_out = {one.number: excluded(one, terms.exclude) for one in images}
        self.excluded = tuple(found for found in left_out.values() if found is not None)
        self.images = [one for one in images if left_out[one.number] is None]
        self.series = [s for s in self.images if _relation(s) not in NOT_JUDGED or counted(s)]
        self._parts: dict[tuple[str, str], list[dict[Kind, Match | None]]] = defaultdict(list)
        for one in self.series:
            vendor = one.vendor or screening.vendor
            copies = {kind: copy_of(one, kind) for kind in Kind}
            for part in {("", ""), (one.modality, ""), ("", vendor), (one.modality, vendor)}:
                self._parts[part].append(copies)

    def rates(self) -> Iterator[Rate]:
        """As a decision lists them."""
        scopes: dict[tuple[str, str], Kinds] = {
            (scope.modality, scope.vendor): scope for scope in self.terms.scope
        }
        vendors = [part for part in sorted(self._parts) if not part[0] and part[1]]
        modalities = [part for part in sorted(self._parts) if part[0] and not part[1]]
        for kind in self._kinds():
            yield from self._of(kind, ("", ""), self.terms, (None, *STRONGEST))
        for part in dict.fromkeys((*vendors, *modalities, *scopes)):
            limits = scopes.get(part, Kinds())
            for kind in self._kinds():
                demanded = [r for r in STRONGEST if limits.at(kind).of(r).set]
                yield from self._of(kind, part, limits, (None, *demanded))

    def lost(self) -> tuple[Lost, ...]:
        """Files, then series."""
        outcomes, terms = self.screening.outcomes, self.terms.unjudged
        files = sum(one.count for one in outcomes if one.status in ("unreadable", "refused"))
        files += len(self.screening.absent)
        said = [reason for one in self.screening.series for _, reason in one.refused]
        files += sum(reason != Reason.NOT_AN_IMAGE for reason in said)
        entries = self.screening.entries + len(self.screening.absent)
        failed, images = len(self.images) - len(self.series), len(self.images)
        over = terms.not_screenable.exceeded(failed, images + self.left)
        return (
            Lost(
                UNREADABLE,
                files,
                entries,
                terms.unreadable,
                terms.unreadable.exceeded(files, entries),
            ),
            Lost(NOT_SCREENABLE, failed, images, terms.not_screenable, over),
        )

    def unchecked(self) -> tuple[Kind, ...]:
        """Kinds with a limit and without a collection."""
        tables = (self.terms, *self.terms.scope)
        limited = [
            kind
            for kind in Kind
            if any(table.at(kind).of(r).set for table in tables for r in (None, *STRONGEST))
        ]
        return tuple(kind for kind in limited if kind not in self._kinds())

    def _kinds(self) -> list[Kind]:
        there = {one.kind for one in self.screening.collections} | {Kind.DELIVERY}
        return [kind for kind in Kind if kind in there]

    def _of(
        self,
        kind: Kind,
        part: tuple[str, str],
        limits: Kinds,
        relations: Iterable[Relation | None],
    ) -> Iterator[Rate]:
        among = self._parts.get(part, [])
        copies = [match for row in among if (match := row[kind]) is not None]
        for relation in relations:
            found = [match for match in copies if relation in (None, match.relation)]
            unverified = sum(match.verified != Verified.YES for match in found)
            limit = limits.at(kind).of(relation)
            over = limit.exceeded(len(found), len(among) + self.left)
            yield Rate(kind, relation, *part, len(found), unverified, len(among), limit, over)


def _relation(series: Series) -> Relation:
    """What its principal stack is; a series without one could not be judged."""
    return series.principal.relation if series.principal else Relation.NOT_SCREENABLE


def _exceeded(some: Iterable[Rate | Lost]) -> tuple[Rate | Lost, ...]:
    return tuple(one for one in some if one.exceeded)


def _list(some: Sequence[Rate | Lost]) -> str:
    words = "; ".join(one.sentence for one in some[:MOST_NAMED])
    more = len(some) - MOST_NAMED
    return words + (f"; and {more} more" if more > 0 else "")
