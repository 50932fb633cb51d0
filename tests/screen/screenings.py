"""Screenings made by hand: a delivery of which each line of a test says one series."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from diptych.judge.check import Check, Interval
from diptych.judge.ladder import Relation
from diptych.screen.findings import (
    Collection,
    Kind,
    Known,
    Match,
    Outcome,
    Ref,
    Screening,
    Series,
    Stack,
)

DELIVERY = "delivery"
OWNED = "owned"


def content(name: object) -> str:
    """A case digest."""
    return hashlib.sha256(repr(name).encode()).hexdigest()


def case_of(number: int, stack: int = 0) -> int:
    """The case of a stack of series ``number``."""
    return 10 * number + stack


def copy(
    relation: Relation | str,
    of: int,
    *,
    kind: Kind = Kind.DELIVERY,
    collection: str = "",
    stack: int = 0,
    verified: str = "yes",
    known: str = "",
    shared: tuple[float, float] | None = None,
    **check: Any,
) -> Match:
    """A match with series ``of`` of the delivery, or with case ``of`` of another collection.

    shared: which share of our and of their slices has a counterpart, of 100 each. known: the other
    side's content; of the delivery what ``series`` gives it. check: fields of a Check.
    """
    relation = Relation(relation)
    inside = kind is Kind.DELIVERY
    ref = Ref(
        DELIVERY if inside else collection or kind.value,
        case_of(of, stack) if inside else of,
        of if inside else None,
    )
    found = None
    if shared is not None or check:
        ours, theirs = shared or (1.0, 1.0)
        common = round(100 * min(ours, theirs))
        found = Check(
            ref.case,
            correlation=0.99,
            ours=Interval(1, common, round(common / ours), 0.0, float(common)),
            theirs=Interval(1, common, round(common / theirs), 0.0, float(common)),
            spacing_mm=2.0,
            **check,
        )
    other = Known(ref, f"1.2.{of}", f"1.2.{of}.1", "vendor", "CT", "CHEST", 100, {}, known)
    return Match(kind, ref.collection, relation, other, 1.0, 1.0, 0.77, verified, "said", found)


def stack(number: int, *matches: Match, at: int = 0, **fields: Any) -> Stack:
    """Stack ``at`` of series ``number``. Its relation is that of the match inside the delivery."""
    inside = next((match for match in matches if match.kind is Kind.DELIVERY), None)
    values: dict[str, Any] = {
        "ref": Ref(DELIVERY, case_of(number, at), number),
        "principal": at == 0,
        "relation": inside.relation if inside else Relation.UNIQUE,
        "reason": "",
        "detail": "",
        "modality": "CT",
        "body_part": "CHEST",
        "slices": 100,
        "informative_slices": 90,
        "flags": (),
        "matches": matches,
        "content": content((number, at)),
    }
    return Stack(**(values | fields))


def series(number: int, *matches: Match, **fields: Any) -> Series:
    """Of one stack, unless ``stacks`` are given. An exact copy has the content of its original."""
    modality = fields.get("modality", "CT")
    values: dict[str, Any] = {
        "number": number,
        "place": f"/delivery/{number}",
        "kind": "dicom",
        "study_instance_uid": f"1.2.{number}",
        "series_instance_uid": f"1.2.{number}.1",
        "modality": modality,
        "transfer_syntax": "1.2.840.10008.1.2.1",
        "files": 100,
        "slices": 100,
        "bytes": 10**6,
        "vendor": "",
        "split": "",
        "price": None,
        "stacks": (stack(number, *matches, modality=modality),),
    }
    return Series(**(values | fields))


def not_screenable(number: int, reason: str = "decode-failed", **fields: Any) -> Series:
    failed = stack(number, relation=Relation.NOT_SCREENABLE, reason=reason, content="")
    return series(number, stacks=(failed,), **fields)


def screening(some: Iterable[Series] = (), **fields: Any) -> Screening:
    """Complete unless a series has no stacks. Both sides of a match have one content where it is
    exact, and what the series of the delivery say of each other is filled in."""
    rows = tuple(some)
    values: dict[str, Any] = {
        "delivery": "may",
        "vendor": "acme",
        "inputs": ("/delivery",),
        "began": 1_790_000_000_000_000,
        "ended": 1_790_000_060_000_000,
        "seconds": 60.0,
        "version": "0.1.0",
        "model": "diptych-dino-3",
        "fingerprint": "f" * 64,
        "policy": "bundled/3+0123456789ab",
        "collections": (
            Collection(Kind.OWNED, OWNED, 50),
            Collection(Kind.TEST_SET, "test-set", 9),
        ),
        "files": 100 * len(rows),
        "entries": 100 * len(rows),
        "bytes": 10**6 * len(rows),
        "outcomes": (Outcome("readable", "", 100 * len(rows), 10**6 * len(rows)),),
        "absent": (),
        "series": linked(rows),
        "complete": all(row.judged for row in rows),
    }
    return Screening(**(values | fields))


def linked(rows: tuple[Series, ...]) -> tuple[Series, ...]:
    """With the content of the other side in every match inside the delivery."""
    contents = {stack.ref.case: stack.content for row in rows for stack in row.stacks}
    done = []
    for row in rows:
        stacks = []
        for one in row.stacks:
            matches = []
            for match in one.matches:
                other = match.other
                if other is not None and match.kind is Kind.DELIVERY and not other.content:
                    other = replace(other, content=contents.get(other.ref.case, ""))
                matches.append(replace(match, other=other))
            same = [m for m in matches if m.relation is Relation.EXACT and m.other]
            if same and same[0].other is not None and same[0].other.content:
                one = replace(one, content=same[0].other.content)
                contents[one.ref.case] = one.content
            stacks.append(replace(one, matches=tuple(matches)))
        done.append(replace(row, stacks=tuple(stacks)))
    return tuple(done)


def some(unique: int, *others: Series) -> list[Series]:
    """``unique`` series without a match, after others that are numbered from 1 on."""
    first = len(others) + 1
    return [*others, *(series(number) for number in range(first, first + unique))]
