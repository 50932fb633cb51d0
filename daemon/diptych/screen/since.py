"""What a corrected delivery changed: a screening beside that of an earlier one, by content.

Names, UIDs and folders may all be new: a series with the same pixels is the same series. Only what
has no counterpart in content is looked for by its UIDs, then by its place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256

from diptych.judge.ladder import Relation

from .copies import counted
from .findings import Kind, Match, Screening, Series, Stack


class What(StrEnum):
    """What became of a series. Unknown: it is there again, but could not be read in full then or
    now, so that nothing is known of its pixels."""

    NEW = "new"
    GONE = "gone"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Change:
    """before, now: the number of the series in either delivery, None where it is not."""

    what: What
    before: int | None
    now: int | None


@dataclass(frozen=True)
class Finding:
    """A copy: series ``series`` of its delivery, in ``collection``. contents: of the two sides,
    sorted; a side without one is named by its collection and case."""

    kind: Kind
    collection: str
    relation: Relation
    series: int
    contents: tuple[str, str]


@dataclass(frozen=True)
class Since:
    """changes: of this delivery's series in their order, then of those that are gone. resolved: of
    the earlier delivery; remaining and new: of this one."""

    earlier: str
    changes: tuple[Change, ...]
    resolved: tuple[Finding, ...]
    remaining: tuple[Finding, ...]
    new: tuple[Finding, ...]

    def count(self, what: What) -> int:
        """Series of which that became."""
        return sum(change.what is what for change in self.changes)


def since(before: Screening, now: Screening) -> Since:
    """A copy remains when both its sides are there again and are still copies of one another, each
    as it was or changed; what it was called and what its relation was do not matter."""
    changes = _changes(before.series, now.series)
    then = {series.number: series for series in before.series}
    today = {series.number: series for series in now.series}
    became: dict[tuple[int | None, str], str] = {}
    for change in changes:
        if change.what is What.CHANGED and change.before is not None and change.now is not None:
            pairs = zip(then[change.before].stacks, today[change.now].stacks, strict=False)
            became |= {(change.before, old.content): new.content for old, new in pairs}
    waiting: dict[Hashable, list[Finding]] = defaultdict(list)
    for key, finding in _findings(before, became):
        waiting[key].append(finding)
    remaining: list[Finding] = []
    new: list[Finding] = []
    for key, finding in _findings(now, {}):
        known = waiting[key]
        (remaining if known else new).append(finding)
        del known[:1]
    left = (finding for some in waiting.values() for finding in some)
    return Since(
        earlier=before.delivery,
        changes=changes,
        resolved=tuple(sorted(left, key=lambda finding: (finding.series, finding.contents))),
        remaining=tuple(remaining),
        new=tuple(new),
    )


def content_of(series: Series) -> str:
    """Its content in hex: of its only stack, or of all of them. "": not known."""
    contents = sorted(stack.content for stack in series.stacks)
    if not contents or not all(contents):
        return ""
    return contents[0] if len(contents) == 1 else sha256("\n".join(contents).encode()).hexdigest()


def contents_of(stack: Stack, match: Match) -> tuple[str, str]:
    """Of a pair, sorted; as of :class:`Finding`."""
    assert match.other is not None
    ref = match.other.ref
    theirs = match.other.content or f"{ref.collection} case {ref.case}"
    ours = stack.content or f"{stack.ref.collection} case {stack.ref.case}"
    return (ours, theirs) if ours <= theirs else (theirs, ours)


def _changes(before: Iterable[Series], now: Iterable[Series]) -> tuple[Change, ...]:
    old, new = list(before), list(now)
    found: dict[int, Change] = {}
    # The surest first: the same pixels under the same name, under any, then the same name.
    for key in (_content_and_name, content_of, _name, _place):
        pairs = list(_paired(old, new, key))
        for ours, theirs in pairs:
            known = content_of(ours), content_of(theirs)
            same = What.UNCHANGED if known[0] == known[1] else What.CHANGED
            found[theirs.number] = Change(
                same if all(known) else What.UNKNOWN, ours.number, theirs.number
            )
        gone, come = {a.number for a, _ in pairs}, {b.number for _, b in pairs}
        old = [series for series in old if series.number not in gone]
        new = [series for series in new if series.number not in come]
    found |= {series.number: Change(What.NEW, None, series.number) for series in new}
    return (
        *(found[number] for number in sorted(found)),
        *(Change(What.GONE, series.number, None) for series in old),
    )


def _paired(
    old: Iterable[Series], new: Iterable[Series], key: Callable[[Series], Hashable]
) -> Iterator[tuple[Series, Series]]:
    """Those with one key, in the order of either side; a false key is none."""
    waiting: dict[Hashable, list[Series]] = defaultdict(list)
    for series in old:
        waiting[key(series)].append(series)
    for series in new:
        if key(series) and (known := waiting[key(series)]):
            yield known.pop(0), series


def _content_and_name(series: Series) -> Hashable:
    content, name = content_of(series), _name(series)
    return (content, name) if content and name else None


def _name(series: Series) -> Hashable:
    uids = (series.study_instance_uid, series.series_instance_uid)
    return uids if series.series_instance_uid else None


def _place(series: Series) -> str:
    return series.place


def _findings(
    screening: Screening, became: Mapping[tuple[int | None, str], str]
) -> Iterator[tuple[Hashable, Finding]]:
    """Each with what it is known by: its sides as they are, or as they ``became``."""
    for series in screening.series:
        for stack, match in counted(series):
            contents = contents_of(stack, match)
            finding = Finding(match.kind, match.collection, match.relation, series.number, contents)
            if match.other is not None and match.kind is Kind.DELIVERY:
                other = match.other.ref.series, match.other.content
                match = replace(
                    match, other=replace(match.other, content=became.get(other, other[1]))
                )
            stack = replace(
                stack, content=became.get((series.number, stack.content), stack.content)
            )
            yield (match.kind, match.collection, *contents_of(stack, match)), finding
