"""Which matches count: what makes a series of the delivery a copy.

Inside the delivery and of what is owned, the principal stack speaks for its series, as everywhere.
Into a test set any stack leaks. A match with the series itself never counts.
"""

from __future__ import annotations

from diptych.judge.ladder import Relation

from .findings import COPIES, Kind, Match, Series, Stack

STRONGEST = (Relation.EXACT, Relation.NEAR_DUPLICATE, Relation.PARTIAL)
"""The relations of ``COPIES``, the surest first."""


def counted(series: Series) -> tuple[tuple[Stack, Match], ...]:
    """All that make it a copy, of every collection: the stack, and what it is a copy of."""
    return tuple(
        (stack, match)
        for stack in series.stacks
        for match in matched(series, stack)
        if stack.principal or match.kind is Kind.TEST_SET
    )


def matched(series: Series, stack: Stack) -> tuple[Match, ...]:
    """Of one stack, whether or not it speaks for its series."""
    return tuple(
        match
        for match in stack.matches
        if match.relation in COPIES
        and match.other is not None
        and not (match.kind is Kind.DELIVERY and match.other.ref.series == series.number)
    )


def copy_of(series: Series, kind: Kind) -> Match | None:
    """The surest of ``counted`` among the collections of one kind, the first of equals."""
    found = [match for _, match in counted(series) if match.kind is kind]
    return min(found, key=lambda match: STRONGEST.index(match.relation), default=None)
