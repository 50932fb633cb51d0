"""Groups of copies, each around one case that all its members were themselves compared with.

Never by transitivity: a copy of a copy is a member of that copy's group, whatever that one is a
copy of, so that a case can be a member of one group and the representative of another.
"""

from __future__ import annotations

from dataclasses import dataclass

from diptych.judge.ladder import Relation

from .copies import counted
from .findings import Kind, Match, Ref, Screening

_ORDER = tuple(Kind)


@dataclass(frozen=True)
class Member:
    """A case of the delivery; ``match``: with the representative, the evidence."""

    ref: Ref
    relation: Relation
    match: Match


@dataclass(frozen=True)
class Group:
    """number: from 1. representative: of the delivery, or of the collection of ``kind`` that the
    members were found in. members: in the order of their series."""

    number: int
    kind: Kind
    representative: Ref
    members: tuple[Member, ...]


def groups(screening: Screening) -> tuple[Group, ...]:
    """Of all copies that count: inside the delivery, then of what is owned, then of test sets; by
    collection and representative."""
    found: dict[tuple[int, str, int], list[Member]] = {}
    representatives: dict[tuple[int, str, int], Ref] = {}
    for series in screening.series:
        for stack, match in counted(series):
            if match.other is None:
                continue
            of = match.other.ref
            key = _ORDER.index(match.kind), of.collection, of.case
            representatives[key] = of
            found.setdefault(key, []).append(Member(stack.ref, match.relation, match))
    return tuple(
        Group(
            number,
            _ORDER[key[0]],
            representatives[key],
            tuple(sorted(found[key], key=lambda member: (member.ref.series or 0, member.ref.case))),
        )
        for number, key in enumerate(sorted(found), 1)
    )
