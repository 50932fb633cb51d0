"""Which case stands for which: a copy is one of its match's group, and of no other.

Never by transitivity: a copy of a copy belongs to that copy, whatever that one is a copy of.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from diptych.audit import reverdicts
from diptych.audit.archive import Owner, owners_by, parts
from diptych.audit.schema import case, verdict

COPIES = ("exact", "near-duplicate")
"""Relations (:class:`diptych.judge.ladder.Relation`) that make the match stand for the case."""


def representatives(connection: Connection, cases: Sequence[int]) -> dict[int, Owner]:
    """Those of the cases that are copies of another, by their verdict as it stands → of which."""
    columns = {column.name: column for column in reverdicts.as_it_stands()}
    found: dict[int, int] = {}
    for part in parts(sorted(set(cases))):
        rows = connection.execute(
            select(verdict.c.case_id, columns["relation"], columns["matched_case_id"])
            .select_from(reverdicts.joined())
            .where(verdict.c.case_id.in_(part))
            .order_by(verdict.c.id)
        )
        newest = {int(row[0]): (row[1], row[2]) for row in rows}
        found |= {c: of for c, (relation, of) in newest.items() if of and relation in COPIES}
    known: dict[int, Owner] = {}
    for part in parts(sorted(set(found.values()))):
        rows = connection.execute(
            owners_by().where(case.c.id.in_(part), case.c.forgotten_at.is_(None))
        )
        known |= {int(row[0]): Owner(*row) for row in rows}
    return {c: known[of] for c, of in found.items() if of in known}
