"""Why there are duplicates: what was judged a copy in a span of time, of what, and from where.

First judgements only, as the duplicate rate counts them; a replay under another policy changes
nothing here. A copy of a copy stands with that copy: never by transitivity.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, exists, select

from diptych.audit.schema import case, event, membership, series, verdict
from diptych.audit.work import MICROSECONDS

DUPLICATES = ("exact", "near-duplicate", "partial")
NOT_SCREENABLE = ("not-screenable", "not-an-image")

OLD_SECONDS = 86_400
"""A series that comes again from elsewhere after more than a day was fetched, not routed twice."""


class Story(StrEnum):
    """What a duplicate is, besides its relation."""

    TWO_ROUTES = "two-routes"
    MIGRATION = "migration"
    NEW_UIDS = "new-uids"
    PROCESSED = "processed"
    PART = "part"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True)
class Duplicate:
    """One series judged a copy. matched_case_id: of what; matched_source and after_seconds (between
    the two arrivals): None when that case was forgotten."""

    source: str
    modality: str | None
    relation: str
    story: Story
    case_id: int | None
    matched_case_id: int | None
    matched_source: str | None
    after_seconds: float | None


@dataclass(frozen=True)
class OfSource:
    """One source: series judged for the first time that could be a duplicate, those that are, and
    re-sends beside them."""

    source: str
    screenable: int
    duplicates: tuple[Duplicate, ...]
    resends: int

    @property
    def ratio(self) -> float | None:
        """The duplicate rate; None without any series."""
        return len(self.duplicates) / self.screenable if self.screenable else None

    def stories(self) -> list[tuple[Story, int]]:
        """The commonest first."""
        return Counter(one.story for one in self.duplicates).most_common()


def since(connection: Connection, start: int) -> list[OfSource]:
    """By source, the one with most duplicates first; ``start`` in UTC microseconds."""
    rows = connection.execute(
        select(
            verdict.c.source,
            verdict.c.modality,
            verdict.c.relation,
            verdict.c.case_id,
            verdict.c.matched_case_id,
            verdict.c.series_instance_uid,
            verdict.c.matched_series_instance_uid,
            series.c.created_at,
            _original.c.source.label("matched_source"),
            _original.c.created_at.label("matched_at"),
        )
        .join(series, series.c.id == verdict.c.series_id)
        .outerjoin(case, case.c.id == verdict.c.matched_case_id)
        .outerjoin(_original, _original.c.id == case.c.series_id)
        .where(
            verdict.c.created_at >= start,
            verdict.c.revision == 0,
            verdict.c.principal,
            verdict.c.relation.not_in(NOT_SCREENABLE),
            # What was accepted of a delivery was not received.
            ~exists().where(membership.c.case_id == verdict.c.case_id),
        )
        .order_by(verdict.c.id)
    ).all()
    screenable = Counter(row.source for row in rows)
    found: dict[str, list[Duplicate]] = {}
    for row in rows:
        if row.relation in DUPLICATES:
            after = None if row.matched_at is None else row.created_at - row.matched_at
            uids = (row.series_instance_uid, row.matched_series_instance_uid)
            found.setdefault(row.source, []).append(
                Duplicate(
                    row.source,
                    row.modality,
                    row.relation,
                    _story(row.relation, uids, after),
                    row.case_id,
                    row.matched_case_id,
                    row.matched_source,
                    None if after is None else after / MICROSECONDS,
                )
            )
    resends = _resends(connection, start)
    by_source = [
        OfSource(name, screenable[name], tuple(found.get(name, ())), resends[name])
        for name in screenable.keys() | resends.keys()
    ]
    return sorted(by_source, key=lambda s: (-len(s.duplicates), -s.resends, s.source))


def groups(duplicates: Iterable[Duplicate]) -> list[tuple[int, list[Duplicate]]]:
    """Case → its copies, the most copied first. Without those whose original was forgotten."""
    found: dict[int, list[Duplicate]] = {}
    for one in duplicates:
        if one.matched_case_id is not None:
            found.setdefault(one.matched_case_id, []).append(one)
    return sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))


def median(values: Sequence[float]) -> float | None:
    """The middle one, the earlier of two; None of nothing."""
    return sorted(values)[(len(values) - 1) // 2] if values else None


def _story(relation: str, uids: tuple[str | None, str | None], after: int | None) -> Story:
    if relation == "partial":
        return Story.PART
    if relation == "near-duplicate":
        return Story.PROCESSED
    if None in uids:
        return Story.FORGOTTEN
    if uids[0] != uids[1]:
        return Story.NEW_UIDS
    old = after is not None and after > OLD_SECONDS * MICROSECONDS
    return Story.MIGRATION if old else Story.TWO_ROUTES


def _resends(connection: Connection, start: int) -> Counter[str]:
    rows = connection.execute(
        select(event.c.payload).where(event.c.kind == "resend", event.c.at >= start)
    )
    return Counter(str(json.loads(payload)["source"]) for payload in rows.scalars())


_original = series.alias("original")
