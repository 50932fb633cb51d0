"""Does the audit table still say what was decided? Every column against its hashed payload."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, select

from diptych.audit import chain
from diptych.audit.schema import digest, event, evidence, match, policy, verdict
from diptych.audit.verdicts import COMMITTED, payload


@dataclass(frozen=True)
class Verified:
    """``problems`` in words; empty: everything agrees. ``head``: hash of the last event, to be
    kept where others can compare it."""

    problems: tuple[str, ...]
    events: int
    verdicts: int
    head: str


def verify(connection: Connection, head_file: Path) -> Verified:
    """Walk the chain, then hold every verdict, its matches and its evidence against it."""
    problems, events, head = chain.walk(connection)
    problems += chain.check_head(connection, head_file)
    problems += _policies(connection)
    rows = connection.execute(select(verdict).order_by(verdict.c.id)).all()
    said = {
        row.seq: row
        for row in connection.execute(select(event).where(event.c.kind.in_(("verdict", "forget"))))
    }
    forgotten: dict[int, set[str]] = {}
    for row in said.values():
        if row.kind == "forget":
            for key in COMMITTED:
                for verdict_id in json.loads(row.payload)[key]:
                    forgotten.setdefault(verdict_id, set()).add(key)
    for row in rows:
        problems += _compare(connection, row, said.get(row.id), forgotten.get(row.id, set()))
    recorded = {row.id for row in rows}
    problems += [
        f"verdict {seq}: its row is gone"
        for seq, row in said.items()
        if row.kind == "verdict" and seq not in recorded
    ]
    return Verified(tuple(problems), events, len(rows), head)


def _compare(
    connection: Connection, row: Row[Any], its_event: Row[Any] | None, forgotten: set[str]
) -> Iterator[str]:
    name = f"verdict {row.id}"
    if its_event is None or its_event.kind != "verdict":
        yield f"{name}: no event says so"
        return
    matches = [
        (m.case_id, m.h, m.within, m.exact)
        for m in connection.execute(
            select(match).where(match.c.verdict_id == row.id).order_by(match.c.rank)
        )
    ]
    try:
        said = json.loads(its_event.payload)
    except ValueError:
        yield f"{name}: its event is not JSON"
        return
    found = json.loads(chain.canonical(payload(dict(row._mapping), matches)))
    for key in forgotten - set(found):
        said.pop(key, None)
    for key in sorted({*said, *found}):
        if said.get(key) != found.get(key) or (key in said) != (key in found):
            what = f"{' or '.join(COMMITTED[key][1])}, or its salt," if key in COMMITTED else key
            yield f"{name}: {what} is not what was decided"
    if "identifiers" in forgotten:
        return
    data = connection.execute(
        select(evidence.c.data).where(evidence.c.verdict_id == row.id)
    ).scalar_one_or_none()
    if (hashlib.sha256(data).hexdigest() if data else None) != row.evidence_sha256:
        yield f"{name}: its evidence is not what was decided on"
    if row.case_digest is not None:
        stored = connection.execute(
            select(digest.c.case_digest).where(
                digest.c.case_id == row.case_id, digest.c.revision_id == row.revision_id
            )
        ).scalar_one_or_none()
        if stored is None or bytes(stored).hex() != row.case_digest:
            yield f"{name}: its case digest is not what was decided on"


def _policies(connection: Connection) -> Iterator[str]:
    said = {
        json.loads(row.payload)["sha256"]: json.loads(row.payload)["name"]
        for row in connection.execute(select(event).where(event.c.kind == "policy"))
    }
    for row in connection.execute(select(policy)):
        actual = hashlib.sha256(row.payload.encode()).hexdigest()
        if row.sha256 != actual or said.get(row.sha256) != row.name:
            yield f"policy {row.name}: is not what was registered"
