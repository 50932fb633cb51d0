"""Does the audit table still say what was decided? Every column against its hashed payload.

Whoever changes the tables may write anything into them, so nothing here trusts a type or a
payload: what cannot be read is reported, never raised.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Boolean, Connection, Row, Table, select, type_coerce
from sqlalchemy.types import NullType

from diptych.audit import chain, deliveries, models, policies, reverdicts, schema
from diptych.audit.policies import Use
from diptych.audit.schema import (
    case,
    digest,
    event,
    evidence,
    match,
    policy,
    reverdict,
    revision,
    verdict,
)
from diptych.audit.verdicts import COMMITTED, evidence_hash, payload


@dataclass(frozen=True)
class Verified:
    """``problems`` in words; empty: everything agrees. ``head``: hash of the last event, to be
    kept where others can compare it."""

    problems: tuple[str, ...]
    events: int
    verdicts: int
    head: str


@dataclass
class _Said:
    """What the events say that are no verdicts. ``forgotten``: verdict id → its lost commitments;
    ``resends``: series id → how many; ``policies``: sha256 → name; ``used``: event → the policy it
    puts in use."""

    forgotten: dict[int, set[str]] = field(default_factory=dict)
    cases: set[int] = field(default_factory=set)
    series: set[int] = field(default_factory=set)
    resends: Counter[int] = field(default_factory=Counter)
    policies: dict[str, str] = field(default_factory=dict)
    used: dict[int, Use] = field(default_factory=dict)


def verify(connection: Connection, head_file: Path) -> Verified:
    """Walk the chain, then hold every verdict, its matches and its evidence against it.

    ``connection`` has read nothing yet, so that what others write meanwhile is not seen at all.
    """
    with _any_text(connection):
        return _verify(connection, head_file)


def _verify(connection: Connection, head_file: Path) -> Verified:
    written = chain.written(head_file)
    problems, events, head = chain.walk(connection)
    problems += chain.check_head(connection, head_file, written)
    said = _Said()
    problems += _read(connection, said)
    problems += _policies(connection, said)
    verdicts = 0
    statement = (
        select(*_untyped(verdict), *_EVENT)
        .outerjoin_from(verdict, event, event.c.seq == verdict.c.id)
        .order_by(verdict.c.id)
    )
    for row in connection.execute(statement, execution_options=chain.STREAMED):
        verdicts += 1
        problems += _compare(connection, row, said.forgotten.get(row.id, set()))
    problems += _reverdicts(connection)
    problems += _missing(connection, said)
    return Verified(tuple(problems), events, verdicts, head)


def _read(connection: Connection, said: _Said) -> Iterator[str]:
    """Take in every event that is no verdict."""
    of_rows = ("verdict", reverdicts.EVENT)
    statement = select(event.c.seq, event.c.kind, event.c.payload).where(
        event.c.kind.not_in(of_rows)
    )
    ordered = statement.order_by(event.c.seq)
    for row in connection.execute(ordered, execution_options=chain.STREAMED):
        try:
            read = json.loads(row.payload)
            if row.kind == "forget":
                for key in COMMITTED:
                    for verdict_id in read[key]:
                        said.forgotten.setdefault(verdict_id, set()).add(key)
                said.cases |= set(read["cases"])
                said.series.add(read["series"])
            elif row.kind == "resend":
                said.resends[read["series"]] += 1
            elif row.kind == policies.ROW:
                said.policies[read["sha256"]] = read["name"]
            elif row.kind == policies.USE:
                said.used[row.seq] = policies.read(row.payload)
            elif row.kind in models.EVENTS:
                models.read(row.payload)
            elif row.kind == deliveries.EVENT:
                _ = read["act"], read["delivery"]
            else:
                yield f"event {row.seq}: is of no known kind"
        except (ValueError, KeyError, TypeError):
            yield f"event {row.seq}: its payload cannot be read"


def _compare(connection: Connection, row: Row[Any], forgotten: set[str]) -> Iterator[str]:
    name = f"verdict {row.id}"
    if row.event_kind != "verdict":
        yield f"{name}: no event says so"
        return
    try:
        said: Mapping[str, Any] = json.loads(row.event_payload)
        if not isinstance(said, dict):
            raise ValueError
    except (ValueError, TypeError):
        yield f"{name}: its event cannot be read"
        return
    values = _values(verdict, row)
    matches = [
        _values(match, m)
        for m in connection.execute(
            select(*_untyped(match)).where(match.c.verdict_id == row.id).order_by(match.c.rank)
        )
    ]
    if [m["rank"] for m in matches] != list(range(len(matches))):
        yield f"{name}: the ranks of its matches are not what was decided"
    found = payload(values, [(m["case_id"], m["h"], m["within"], m["exact"]) for m in matches])
    for key in sorted({*said, *found}):
        if key in forgotten and key not in found:
            continue
        # As text: to Python true is 1 and 1 is 1.0.
        if chain.canonical({key: said.get(key)}) != chain.canonical({key: found.get(key)}):
            what = f"{' or '.join(COMMITTED[key][1])}, or its salt," if key in COMMITTED else key
            yield f"{name}: {what} is not what was decided"
    for key in sorted(forgotten):
        salt, names = COMMITTED[key]
        back = [column for column in (salt, *names) if values[column] is not None]
        if back:
            yield f"{name}: {' and '.join(back)} was forgotten and is there again"
    yield from _evidence(connection, name, values, "identifiers" in forgotten)


def _evidence(
    connection: Connection, name: str, values: Mapping[str, Any], forgotten: bool
) -> Iterator[str]:
    row = connection.execute(
        select(*_untyped(evidence)).where(evidence.c.verdict_id == values["id"])
    ).one_or_none()
    if forgotten:
        if row is not None:
            yield f"{name}: its evidence was forgotten and is there again"
        return
    actual = None
    if row is not None:
        actual = evidence_hash(row.version, _bytes(row.data))
    if actual != values["evidence_sha256"]:
        yield f"{name}: its evidence is not what was decided on"
    if values["case_digest"] is not None:
        stored = connection.execute(
            select(type_coerce(digest.c.case_digest, NullType())).where(
                digest.c.case_id == values["case_id"],
                digest.c.revision_id == values["revision_id"],
            )
        ).scalar_one_or_none()
        if stored is None or _bytes(stored).hex() != values["case_digest"]:
            yield f"{name}: its case digest is not what was decided on"


def _policies(connection: Connection, said: _Said) -> Iterator[str]:
    rows = connection.execute(select(policy)).all()
    for row in rows:
        actual = hashlib.sha256(_bytes(row.payload)).hexdigest()
        if row.sha256 != actual or said.policies.get(row.sha256) != row.name:
            yield f"policy {row.name}: is not what was registered"
    for sha256 in sorted(said.policies.keys() - {row.sha256 for row in rows}):
        yield f"policy {said.policies[sha256]}: its row is gone"
    for seq, use in said.used.items():
        if said.policies.get(use.sha256) != use.label:
            yield f"event {seq}: policy {use.label} was put in use and never registered"


def _reverdicts(connection: Connection) -> Iterator[str]:
    """What was judged again: each row against its event, and each event against its row."""
    statement = (
        select(*_untyped(reverdict), *_EVENT, verdict.c.id.label("first"))
        .outerjoin_from(reverdict, event, event.c.seq == reverdict.c.id)
        .outerjoin(verdict, verdict.c.id == reverdict.c.verdict_id)
        .order_by(reverdict.c.id)
    )
    for row in connection.execute(statement, execution_options=chain.STREAMED):
        name = f"reverdict {row.id}"
        if row.event_kind != reverdicts.EVENT:
            yield f"{name}: no event says so"
            continue
        values = _values(reverdict, row)
        if chain.canonical({key: values[key] for key in reverdicts.SAID}) != row.event_payload:
            yield f"{name}: is not what was decided"
        if row.first is None:
            yield f"{name}: there is no verdict {row.verdict_id}"
    has_row = select(reverdict.c.id).where(reverdict.c.id == event.c.seq).exists()
    for seq in connection.execute(
        select(event.c.seq).where(event.c.kind == reverdicts.EVENT, ~has_row).order_by(event.c.seq)
    ).scalars():
        yield f"reverdict {seq}: its row is gone"


def _missing(connection: Connection, said: _Said) -> Iterator[str]:
    """What should have a counterpart and has none: rows deleted, or events cut off with them."""
    has_row = select(verdict.c.id).where(verdict.c.id == event.c.seq).exists()
    for seq in connection.execute(
        select(event.c.seq).where(event.c.kind == "verdict", ~has_row).order_by(event.c.seq)
    ).scalars():
        yield f"verdict {seq}: its row is gone"
    has_verdict = select(verdict.c.id).where(verdict.c.revision_id == revision.c.id).exists()
    for row in connection.execute(
        select(revision).where(revision.c.status == "judged", ~has_verdict).order_by(revision.c.id)
    ):
        if row.series_id not in said.series:
            yield f"series {row.series_id} revision {row.number}: judged, but no verdict says so"
    for table, what in ((match, "matches"), (evidence, "evidence")):
        owner = select(verdict.c.id).where(verdict.c.id == table.c.verdict_id).exists()
        for verdict_id in connection.execute(
            select(table.c.verdict_id).where(~owner).distinct()
        ).scalars():
            yield f"verdict {verdict_id}: there are {what} without it"
    for row in connection.execute(select(schema.series.c.id, schema.series.c.resends)):
        if row.resends != said.resends[row.id]:
            yield f"series {row.id}: {row.resends} re-sends, events say {said.resends[row.id]}"
    forgotten = set(
        connection.execute(select(case.c.id).where(case.c.forgotten_at.is_not(None))).scalars()
    )
    for case_id in sorted(forgotten ^ said.cases):
        what = "forgotten, but no event says so"
        yield f"case {case_id}: {what if case_id in forgotten else 'was forgotten and is back'}"


@contextmanager
def _any_text(connection: Connection) -> Iterator[None]:
    """SQLite keeps whatever is written: let bytes that are no UTF-8 pass as escapes."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        yield
        return
    driver.text_factory = lambda text: text.decode(errors="surrogateescape")
    try:
        yield
    finally:
        driver.text_factory = str


def _untyped(table: Table) -> list[Any]:
    """Every column as the driver returns it: a foreign type must not stop the reading."""
    return [type_coerce(column, NullType()).label(column.name) for column in table.c]


def _values(table: Table, row: Row[Any]) -> dict[str, Any]:
    """A row by column name, in types that canonical JSON can say."""
    values: dict[str, Any] = {}
    for column in table.c:
        value = row._mapping[column.name]
        if isinstance(column.type, Boolean) and value in (0, 1):
            value = bool(value)
        elif isinstance(value, float) and not math.isfinite(value):
            value = repr(value)
        elif column.name in _SALTS:
            value = None if value is None else _bytes(value)
        elif isinstance(value, (bytes, memoryview)):
            value = repr(bytes(value))
        values[column.name] = value
    return values


_EVENT = (event.c.kind.label("event_kind"), event.c.payload.label("event_payload"))
_SALTS = {salt for salt, _ in COMMITTED.values()}


def _bytes(value: Any) -> bytes:
    return value.encode(errors="surrogateescape") if isinstance(value, str) else bytes(value)
