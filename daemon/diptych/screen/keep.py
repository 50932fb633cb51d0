"""Which series of a delivery to keep, and why.

Series with the same pixels are one. Of a group the best is kept: native resolution (original before
derived, sharper as measured, finer voxels), lossless before lossy, the complete range, the richer
header, then the first. Nothing is left out that the kept one does not hold: each series left out
was itself compared with the representative of its group, and that is the one kept or was compared
with it. No chain leads further. An enlarged copy that calls itself ORIGINAL and is as sharp passes
for native.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from diptych.judge.ladder import Relation

from . import facts
from .copies import copy_of, matched
from .findings import Kind, Match, Screening, Series
from .groups import Group, groups
from .holding import Scan, links, scan_of, screened, within

_WORTH = (
    "original",
    "sharper",
    "finer voxels",
    "lossless",
    "more slices",
    "larger slices",
    "richer header",
    "first",
)

_A = {
    Relation.EXACT: "an exact copy",
    Relation.NEAR_DUPLICATE: "a near-duplicate",
    Relation.PARTIAL: "a partial copy",
}


@dataclass(frozen=True)
class Kept:
    """A series by its number; why, in words. group: the number of the group that decided."""

    series: int
    keep: bool
    why: str
    group: int | None = None


def keep(screening: Screening, found: Sequence[Group] | None = None) -> tuple[Kept, ...]:
    """For every series of the delivery, in their order. ``found``: its groups, where at hand."""
    choice = _Choice(screening, groups(screening) if found is None else found)
    return tuple(choice.of(series) for series in screening.series)


@dataclass(frozen=True)
class _Fate:
    keep: bool
    why: str
    group: int | None


class _Choice:
    """What becomes of each scan. ``same``: the series with its pixels, the best first."""

    def __init__(self, screening: Screening, found: Sequence[Group]) -> None:
        self.numbers = {
            (group.representative.collection, group.representative.case): group.number
            for group in found
        }
        self.scans = {s.number: scan for s in screening.series if (scan := scan_of(s))}
        self.same: dict[Scan, list[Series]] = defaultdict(list)
        for series in screening.series:
            if series.number in self.scans:
                self.same[self.scans[series.number]].append(series)
        for alike in self.same.values():
            alike.sort(key=_worth)
        self.links = links([s for alike in self.same.values() for s in alike], self.scans)
        self.gone = self._gone()
        self.fates = dict(self.gone)
        stars: dict[Scan, list[Scan]] = defaultdict(list)
        for ours, theirs in self.links:
            stars[theirs].append(ours)
        for centre in sorted(stars, key=self._judged):
            self._choose(centre, stars[centre])

    def of(self, series: Series) -> Kept:
        """What becomes of a series."""
        if not series.judged:
            return Kept(series.number, False, "not judged")
        scan = self.scans.get(series.number)
        if scan is None:
            first = series.stacks[0]
            return Kept(
                series.number, True, f"could not be judged: {first.reason or first.relation}"
            )
        alike = self.same[scan]
        fate = self.fates.get(scan)
        if fate is not None and (series is alike[0] or scan in self.gone):
            return Kept(series.number, fate.keep, fate.why, fate.group)
        if fate is not None and not fate.keep:
            why = f"the same pixels as series {alike[0].number}, which is not kept: {fate.why}"
            return Kept(series.number, False, why, self._group(series))
        if len(alike) == 1:
            return Kept(series.number, True, "no copy of another")
        group = next((g for one in alike if (g := self._group(one)) is not None), None)
        if series is alike[0]:
            why = f"series {alike[1].number} has the same pixels: {_better(series, alike[1])}"
        else:
            why = f"the same pixels as series {alike[0].number}: {_better(alike[0], series)}"
        return Kept(series.number, series is alike[0], why, group)

    def _gone(self) -> dict[Scan, _Fate]:
        """Owned already, or in a test set; and what was compared with these and is a copy."""
        leaking: dict[Scan, _Fate] = {}
        owned: dict[Scan, _Fate] = {}
        for scan, alike in self.same.items():
            for series in alike:
                leak, own = copy_of(series, Kind.TEST_SET), copy_of(series, Kind.OWNED)
                if leak is not None:
                    leaking.setdefault(scan, self._as(leak, "leaks into the test set"))
                if own is not None and _all_owned(series):
                    owned.setdefault(scan, self._as(own, "owned already"))
        gone = owned | leaking
        for (ours, theirs), link in self.links.items():
            for one, other, held in ((ours, theirs, link.inside), (theirs, ours, link.around)):
                fate = leaking.get(other) or (owned.get(other) if held else None)
                if fate is not None:
                    of = self.same[other][0].number
                    why = f"{_A[link.relation]} of series {of}, which is not kept: {fate.why}"
                    gone.setdefault(one, _Fate(False, why, fate.group))
        return gone

    def _choose(self, centre: Scan, members: Sequence[Scan]) -> None:
        """Among a representative and those that were compared with it."""
        blur = {scan: self.links[scan, centre].blur_mm for scan in members} | {centre: 0.0}
        best = {scan: self.same[scan][0] for scan in blur}
        ranked = sorted(blur, key=lambda scan: _worth(best[scan], blur[scan]))
        group = next((g for s in self.same[centre] if (g := self._represents(s)) is not None), None)
        standing = [scan for scan in ranked if scan in self.fates and self.fates[scan].keep]
        for scan in ranked:
            if scan in self.fates:
                continue
            holder = next((one for one in standing if self._holds(one, scan, centre)), None)
            if holder is None:
                standing.append(scan)
                continue
            better = _better(best[holder], best[scan], blur[holder], blur[scan])
            said = self._said(scan, holder, centre)
            self.fates[scan] = _Fate(False, f"{said}: {better}", group)
            why = f"series {best[scan].number} is a copy of it: {better}"
            self.fates.setdefault(holder, _Fate(True, why, group))
        for scan in standing:
            if scan != centre:
                copy = _A[self.links[scan, centre].relation]
                why = f"{copy} of series {best[centre].number}, which does not hold all of it"
                self.fates.setdefault(scan, _Fate(True, why, group))

    def _holds(self, one: Scan, other: Scan, centre: Scan) -> bool:
        """Whether ``one`` has all of ``other``, by way of the representative at most."""
        inside = other == centre or self.links[other, centre].inside
        return inside and (one == centre or self.links[one, centre].around)

    def _said(self, scan: Scan, holder: Scan, centre: Scan) -> str:
        kept, of = self.same[holder][0].number, self.same[centre][0].number
        if scan == centre:
            return f"series {kept}, {_A[self.links[holder, centre].relation]} of it, is kept"
        words = f"{_A[self.links[scan, centre].relation]} of series {of}"
        return words if holder == centre else f"{words}, and so is series {kept}, which is kept"

    def _judged(self, scan: Scan) -> int:
        return min(stack.ref.case for one in self.same[scan] for stack in screened(one))

    def _as(self, match: Match, what: str) -> _Fate:
        assert match.other is not None
        ref = match.other.ref
        words = f"{what} as case {ref.case} of {ref.collection} ({match.relation})"
        return _Fate(False, words, self.numbers.get((ref.collection, ref.case)))

    def _group(self, series: Series) -> int | None:
        inside = copy_of(series, Kind.DELIVERY)
        if inside is None or inside.other is None:
            return self._represents(series)
        return self.numbers.get((inside.other.ref.collection, inside.other.ref.case))

    def _represents(self, series: Series) -> int | None:
        refs = [(stack.ref.collection, stack.ref.case) for stack in series.stacks]
        return next((self.numbers[ref] for ref in refs if ref in self.numbers), None)


def _all_owned(series: Series) -> bool:
    """Whether nothing in it is new."""
    return all(
        any(match.kind is Kind.OWNED and within(match) for match in matched(series, stack))
        for stack in screened(series)
    )


def _worth(series: Series, blur_mm: float = 0.0) -> tuple[float, ...]:
    """The less, the better; in the order of ``_WORTH``."""
    return (
        facts.derived(series),
        blur_mm,
        facts.voxel(series),
        facts.lossy(series),
        -series.slices,
        -facts.plane(series),
        -facts.elements(series),
        series.number,
    )


def _better(one: Series, other: Series, blur: float = 0.0, than: float = 0.0) -> str:
    """By what ``one`` is the better of two."""
    pairs = zip(_WORTH, _worth(one, blur), _worth(other, than), strict=True)
    return next(word for word, ours, theirs in pairs if ours != theirs)
