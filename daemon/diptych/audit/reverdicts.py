"""Verdicts judged again from their stored evidence: rows beside the first ones, never over them.

A row says what a verdict is under another policy, also where that is the same: every verdict names
the policy it stands under. An event says what the row says. Counters are of first judgements and do
not move: an alert on the duplicate rate must not fire because somebody changed a policy.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, or_, select
from sqlalchemy import case as either
from sqlalchemy.sql.elements import ColumnElement

from diptych.audit import archive, chain
from diptych.audit.schema import case, evidence, fitting, reverdict, series, verdict
from diptych.audit.store import Store, now

EVENT = "reverdict"
SAID = tuple(column.name for column in reverdict.c if column.name != "id")
"""Columns of a row that its event says as well."""
_OVERRIDES = ("relation", "flags", "matched_case_id", "threshold", "detail", "policy", "created_at")

# Of one verdict, through its index: grouped for all of them, a replay of n would read n² rows.
_newer = reverdict.alias("newer_reverdict")
_newest = select(func.max(_newer.c.id)).where(_newer.c.verdict_id == verdict.c.id).scalar_subquery()
# Of two that say the same, the first is news and the second is not.
_says_otherwise = or_(
    *(
        reverdict.c[name].is_distinct_from(verdict.c[name])
        for name in ("relation", "flags", "matched_case_id")
    )
)
_matched_case, _matched_series = case.alias("rematched"), series.alias("rematched_series")


@dataclass(frozen=True)
class Stack:
    """A verdict as it stands now. last: its newest row here (None: none yet); evidence: its stored
    JSON, None where there is none; modality and source: of its series."""

    verdict_id: int
    case_id: int | None
    principal: bool
    relation: str
    flags: tuple[str, ...]
    matched_case_id: int | None
    policy: str | None
    model: str | None
    fingerprint: str | None
    modality: str | None
    source: str
    last: int | None
    evidence: dict[str, Any] | None


@dataclass(frozen=True)
class Said:
    """What a stack says from now on."""

    stack: Stack
    relation: str
    flags: tuple[str, ...]
    matched_case_id: int | None
    threshold: float
    detail: str
    policy: str

    @property
    def differs(self) -> bool:
        """Whether that is something else than before, but for the numbers behind it."""
        before = self.stack
        return (self.relation, self.matched_case_id, sorted(self.flags)) != (
            before.relation,
            before.matched_case_id,
            sorted(before.flags),
        )

    @property
    def is_new(self) -> bool:
        """Whether there is anything to write down: the policy is another one at least."""
        return self.differs or self.policy != self.stack.policy


def as_it_stands() -> list[ColumnElement[Any]]:
    """The columns of ``verdict``, as the newest row here has them; for :func:`joined`.

    ``created_at`` is the first verdict's where the row says the same: that is no news.
    """
    columns: list[ColumnElement[Any]] = []
    for column in verdict.c:
        replaced: ColumnElement[Any] | None = None
        if column.name in _OVERRIDES:
            replaced = reverdict.c[column.name]
        elif column.name == "matched_series_instance_uid":
            replaced = _matched_series.c.series_instance_uid
        if replaced is None:
            columns.append(column)
            continue
        when: ColumnElement[bool] = reverdict.c.id.is_not(None)
        if column.name == "created_at":
            when &= _says_otherwise
        again = either((when, replaced), else_=column)
        columns.append(again.label(column.name))
    return columns


def joined() -> Any:
    """``verdict`` with its newest row here, if it has one."""
    return (
        verdict.outerjoin(reverdict, reverdict.c.id == _newest)
        .outerjoin(_matched_case, _matched_case.c.id == reverdict.c.matched_case_id)
        .outerjoin(_matched_series, _matched_series.c.id == _matched_case.c.series_id)
    )


def revisions(connection: Connection, since: int, until: int | None) -> list[int]:
    """The newest judged revision of every series, of those first judged in [since, until)."""
    newest = (
        select(verdict.c.series_id, func.max(verdict.c.revision).label("number"))
        .group_by(verdict.c.series_id)
        .subquery()
    )
    statement = (
        select(verdict.c.revision_id)
        .join(
            newest,
            and_(newest.c.series_id == verdict.c.series_id, newest.c.number == verdict.c.revision),
        )
        .where(verdict.c.created_at >= since)
        .distinct()
        .order_by(verdict.c.revision_id)
    )
    if until is not None:
        statement = statement.where(verdict.c.created_at < until)
    return list(connection.execute(statement).scalars())


def stacks(connection: Connection, revision_id: int) -> list[Stack]:
    """Every verdict of a revision, as it stands now, with its evidence."""
    rows = connection.execute(
        select(*as_it_stands(), reverdict.c.id.label("last"), evidence.c.data)
        .select_from(joined().outerjoin(evidence, evidence.c.verdict_id == verdict.c.id))
        .where(verdict.c.revision_id == revision_id)
        .order_by(verdict.c.id)
    )
    return [_stack(row) for row in rows]


def record(store: Store, said: Sequence[Said]) -> int:
    """Write these down in one transaction; returns how many: without those that were forgotten or
    judged again since they were read."""
    with store.write() as connection:
        # Few statements, however many rows: each costs more than what it asks.
        newest = _newest_rows(connection, [one.stack.verdict_id for one in said])
        present = archive.present(connection, [case for one in said for case in _cases(one)])
        rows = [
            fitting(
                reverdict,
                {
                    "verdict_id": one.stack.verdict_id,
                    "relation": one.relation,
                    "flags": json.dumps(sorted(one.flags)),
                    "matched_case_id": one.matched_case_id,
                    "threshold": one.threshold,
                    "detail": one.detail,
                    "policy": one.policy,
                    "created_at": now(),
                },
            )
            for one in said
            if newest.get(one.stack.verdict_id) == one.stack.last
            and present.issuperset(_cases(one))
        ]
        seqs = chain.extend(connection, EVENT, rows)
        if rows:
            connection.execute(
                insert(reverdict),
                [{"id": seq, **row} for seq, row in zip(seqs, rows, strict=True)],
            )
    return len(rows)


def _stack(row: Row[Any]) -> Stack:
    return Stack(
        row.id,
        row.case_id,
        row.principal,
        row.relation,
        tuple(json.loads(row.flags)),
        row.matched_case_id,
        row.policy,
        row.model,
        row.fingerprint,
        row.modality,
        row.source,
        row.last,
        None if row.data is None else json.loads(zlib.decompress(row.data)),
    )


def _newest_rows(connection: Connection, verdicts: Sequence[int]) -> dict[int, int]:
    found = connection.execute(
        select(reverdict.c.verdict_id, func.max(reverdict.c.id))
        .where(reverdict.c.verdict_id.in_(verdicts))
        .group_by(reverdict.c.verdict_id)
    )
    return {row[0]: row[1] for row in found}


def _cases(one: Said) -> list[int]:
    both = (one.stack.case_id, one.matched_case_id)
    return [case for case in both if case is not None]
