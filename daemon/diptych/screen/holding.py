"""Which series of a delivery hold which: by their pixels, and by what was compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from diptych.judge.ladder import Relation

from .copies import matched
from .findings import Kind, Match, Series, Stack

WHOLE = 0.8
"""Share of a stack's slices with a counterpart that makes it a part of the other, as in DESIGN."""

Scan = tuple[str, ...]
"""The contents of the stacks of a series that could be judged: the same for the same pixels. Empty:
none could be."""


@dataclass(frozen=True)
class Link:
    """A series was compared with another and is a copy. relation: of its principal stack, if that
    is one. inside: the other holds all of it; around: it holds all of the other. blur_mm: by how
    much it is the more blurred; negative: the less."""

    relation: Relation
    inside: bool
    around: bool
    blur_mm: float


def scan_of(series: Series) -> Scan:
    """What it is, whatever it is called."""
    return tuple(sorted(_content(stack) for stack in screened(series)))


def screened(series: Series) -> list[Stack]:
    """The stacks that have a verdict on their pixels."""
    without = (Relation.NOT_SCREENABLE, Relation.NOT_AN_IMAGE)
    return [stack for stack in series.stacks if stack.relation not in without]


def within(match: Match) -> bool:
    """Whether all of ours is in theirs."""
    return match.relation is not Relation.PARTIAL or _shared(match)[0] >= WHOLE


def links(some: Iterable[Series], scans: Mapping[int, Scan]) -> dict[tuple[Scan, Scan], Link]:
    """By the scans of the copy and of what it was compared with, two that differ. ``scans``: of the
    series by number, all that have one."""
    contents = {stack.ref.case: _content(stack) for series in some for stack in screened(series)}
    compared: dict[tuple[Scan, Scan], list[tuple[Stack, Match, str]]] = defaultdict(list)
    for series in some:
        for stack in screened(series):
            for match in matched(series, stack):
                if match.kind is not Kind.DELIVERY or match.other is None:
                    continue
                theirs = scans.get(match.other.ref.series or 0)
                if theirs and theirs != scans[series.number]:
                    content = contents.get(match.other.ref.case, "")
                    compared[scans[series.number], theirs].append((stack, match, content))
    return {pair: _link(*pair, found) for pair, found in compared.items()}


def _link(ours: Scan, theirs: Scan, found: list[tuple[Stack, Match, str]]) -> Link:
    inside = {_content(stack) for stack, match, _ in found if within(match)}
    around = {content for _, match, content in found if _around(match)}
    best = min(found, key=lambda each: not each[0].principal)[1]
    check = best.check
    # Less than half a voxel of the grid they were compared on is not measured but guessed.
    seen = check is not None and abs(check.blur_mm) >= check.spacing_mm / 2
    return Link(
        best.relation,
        inside >= set(ours),
        around >= set(theirs),
        check.blur_mm if check is not None and seen else 0.0,
    )


def _around(match: Match) -> bool:
    return match.relation is not Relation.PARTIAL or _shared(match)[1] >= WHOLE


def _shared(match: Match) -> tuple[float, float]:
    return match.check.shared if match.check is not None else (0.0, 0.0)


def _content(stack: Stack) -> str:
    dismissed = any(
        match.kind is Kind.DELIVERY
        and match.relation is Relation.RELATED
        and match.other is not None
        and match.other.content == stack.content
        for match in stack.matches
    )
    # The same pixels and yet no copy: somebody said so, and it stands alone.
    return f"case {stack.ref.case}" if dismissed or not stack.content else stack.content
