"""The guard of splits: what leaks from one split of a data set into another, and a split without.

A leak is a series that is a copy of one of another split, or has the same pixels as another copy of
it; named apart, a patient with series in more than one. A copy of a copy is no leak by itself: as
everywhere, only what was compared counts. A disjoint split, though, keeps together whatever is
linked at all, over any number of steps: what is in different splits then has neither a patient in
common nor a chain of copies.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from scipy.cluster.hierarchy import DisjointSet

from diptych.judge.ladder import Relation
from diptych.reports import no_formula

from .copies import matched
from .findings import Kind, Match, Screening, Series
from .holding import screened

TOGETHER = "; "
"""Between the splits of a series whose files a manifest puts into several."""


@dataclass(frozen=True)
class Leak:
    """Two series by number, ``series`` the later judged, each with its splits; match: of the first
    with the second, None where one series is itself in two splits (and is both)."""

    series: int
    of: int
    splits: tuple[str, str]
    match: Match | None


@dataclass(frozen=True)
class SamePatient:
    """A patient by key, with series in more than one split: split → their numbers."""

    patient: str
    series: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Guard:
    """leaks: series that are copies across splits. patients: in several splits. sizes: series by
    split, "" without one. nameless: series whose header names nobody; unjudged: those without a
    verdict on their pixels, of which no copy is known."""

    leaks: tuple[Leak, ...]
    patients: tuple[SamePatient, ...]
    sizes: tuple[tuple[str, int], ...]
    nameless: int
    unjudged: int

    @property
    def leaking(self) -> bool:
        """Whether anything is in two splits, a scan or a patient."""
        return bool(self.leaks or self.patients)


@dataclass(frozen=True)
class Assigned:
    """A series, its split so far and the one that does not leak. component: the smallest number of
    the series it must stay together with."""

    series: int
    place: str
    before: str
    split: str
    component: int


def guard(screening: Screening) -> Guard:
    """What leaks. Series without a split leak nowhere."""
    splits = {series.number: _splits(series) for series in screening.series}
    leaks = [
        Leak(number, number, (some[0], some[1]), None)
        for number, some in splits.items()
        if len(some) > 1
    ]
    for series, match, of in (*_copies(screening), *_alike(screening)):
        apart = sorted(set(splits[of]) - set(splits[series.number]))
        if apart and splits[series.number]:
            leaks.append(Leak(series.number, of, (splits[series.number][0], apart[0]), match))
    once = {(leak.series, leak.of): leak for leak in reversed(leaks)}
    return Guard(
        leaks=tuple(once[pair] for pair in sorted(once)),
        patients=tuple(_patients(screening.series)),
        sizes=tuple(sorted(Counter(series.split for series in screening.series).items())),
        nameless=sum(not series.patient for series in screening.series),
        unjudged=sum(not screened(series) for series in screening.series),
    )


def disjoint(screening: Screening) -> tuple[Assigned, ...]:
    """A split without leaks, for every series in its order.

    What is linked and in one split stays there; so does what is in none, which has no share in the
    ratio. The rest, the largest first, goes where the sizes of the splits come closest to what they
    were, counted in series; of equal ones where most of it is already, then to the larger split, as
    what leaked does less harm in training than in a test. Nothing else is moved to mend the ratio:
    it is off by as much as the largest of what leaked. Series of unknown patients without copies
    stay where they are.
    """
    members: dict[int, list[Series]] = defaultdict(list)
    together = _together(screening)
    for series in screening.series:
        members[together[series.number]].append(series)
    wanted: dict[str, Fraction] = defaultdict(Fraction)
    for series in screening.series:
        for split in _splits(series):
            wanted[split] += Fraction(1, len(_splits(series)))
    inside = {
        component: Counter(split for series in some for split in _splits(series))
        for component, some in members.items()
    }
    chosen = {one: next(iter(splits), "") for one, splits in inside.items() if len(splits) < 2}
    got: Counter[str] = Counter()
    for component, split in chosen.items():
        got[split] += _size(members[component])
    mixed = [component for component in members if component not in chosen]
    for component in sorted(mixed, key=lambda one: (-_size(members[one]), one)):
        most = inside[component]
        # Where most is missing: there the sum of (got - wanted)² grows least.
        split = min((got[s] - wanted[s], -most[s], -wanted[s], s) for s in wanted)[-1]
        chosen[component] = split
        got[split] += _size(members[component])
    return tuple(
        Assigned(
            series.number,
            series.place,
            series.split,
            chosen[together[series.number]],
            together[series.number],
        )
        for series in screening.series
    )


def as_csv(assigned: Iterable[Assigned]) -> str:
    """A manifest of it: ``path`` and ``split``, and what they were. Text that a spreadsheet would
    take for a formula has an apostrophe before it; a path has none, for it is read again."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("path", "split", "split_before", "series", "component"))
    for one in assigned:
        splits = no_formula(one.split), no_formula(one.before)
        lines.writerow((one.place, *splits, one.series, one.component))
    return text.getvalue()


def _splits(series: Series) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part for part in series.split.split(TOGETHER) if part))


def _copies(screening: Screening) -> Iterator[tuple[Series, Match, int]]:
    """Of any stack, inside what was screened: the series, its match, and of which series."""
    numbers = {series.number for series in screening.series}
    for series in screening.series:
        for stack in series.stacks:
            for match in matched(series, stack):
                of = match.other.ref.series if match.other else None
                if match.kind is Kind.DELIVERY and of in numbers and of is not None:
                    yield series, match, of


def _alike(screening: Screening) -> Iterator[tuple[Series, Match, int]]:
    """Exact copies of one case, with the first of them of each split: these have its pixels too."""
    known: dict[int, dict[tuple[str, ...], int]] = defaultdict(dict)
    for series, match, _ in _copies(screening):
        if match.relation is Relation.EXACT and match.other is not None:
            same = known[match.other.ref.case]
            yield from ((series, match, number) for number in same.values())
            same.setdefault(_splits(series), series.number)


def _patients(some: Sequence[Series]) -> Iterator[SamePatient]:
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for series in some:
        for split in _splits(series):
            if series.patient:
                found[series.patient][split].append(series.number)
    for patient, splits in sorted(found.items()):
        if len(splits) > 1:
            yield SamePatient(patient, tuple((s, tuple(splits[s])) for s in sorted(splits)))


def _together(screening: Screening) -> dict[int, int]:
    """Each series' component, by the smallest number in it: one patient, or copies."""
    sets = DisjointSet(series.number for series in screening.series)
    first: dict[str, int] = {}
    for series in screening.series:
        if series.patient:
            sets.merge(series.number, first.setdefault(series.patient, series.number))
    for series, _, of in _copies(screening):
        sets.merge(series.number, of)
    return {number: min(subset) for subset in sets.subsets() for number in subset}


def _size(some: Sequence[Series]) -> int:
    """Series that have a split: the others have no share in the ratio."""
    return sum(bool(_splits(series)) for series in some)
