"""Which model embeds the archive, and what of the archive it has embedded.

The newest ``model-use`` event of the chain names the model in use; without one it is the manifest's
default. Vectors of every model that was ever in use stay beside each other, each under its own
fingerprint, until the model is removed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, ScalarSelect, Select, and_, delete, func, select

from diptych.audit import chain, counters, reverdicts
from diptych.audit.schema import (
    blob,
    case,
    digest,
    embedding,
    event,
    fingerprint,
    gauge,
    instance,
    node,
    revision,
    verdict,
)
from diptych.audit.store import Store, now

USE, REMOVE = "model-use", "model-remove"
EVENTS = (USE, REMOVE)
# Judging waits no longer than this for a command that died while it switched.
HOLD_SECONDS = 120.0
# Rows per transaction when vectors are removed: each stays short.
_ROWS = 2000
_HELD = "judging_held"


@dataclass(frozen=True)
class Use:
    """A ``model-use`` event. ``missing``: cases that were left behind with full knowledge."""

    name: str
    fingerprint: str
    missing: int


@dataclass(frozen=True)
class Coverage:
    """How many cases are embedded under a fingerprint, and how many only under others."""

    embedded: int
    missing: int


@dataclass(frozen=True)
class Wanted:
    """A revision with cases that a fingerprint lacks.

    cases: (case id, the stack's signature, the digest of its planes). locators: of the files that
    are kept; ``purged``: others are not.
    """

    revision_id: int
    cases: tuple[tuple[int, str, bytes], ...]
    locators: tuple[str, ...]
    purged: bool


def read(payload: str) -> Use:
    """The payload of an event of ours; ValueError, KeyError or TypeError when it is none."""
    said = json.loads(payload)
    return Use(str(said["model"]), str(said["fingerprint"]), int(said["missing"]))


def in_use(connection: Connection) -> Use | None:
    """The model that was last switched to."""
    row = connection.execute(
        select(event.c.payload).where(event.c.kind == USE).order_by(event.c.seq.desc()).limit(1)
    ).scalar_one_or_none()
    return None if row is None else read(row)


def coverage(connection: Connection, value: str) -> Coverage:
    """Of the fingerprint ``value`` (hex SHA-256), which need not be known."""
    total = _count(connection, _newest())
    missing = _count(connection, _missing(value))
    return Coverage(total - missing, missing)


def missing(connection: Connection, value: str) -> dict[int, list[int]]:
    """Revision → its cases whose newest vectors this fingerprint lacks, the earliest case first."""
    found: dict[int, list[int]] = {}
    for row in connection.execute(_missing(value).order_by("case_id")):
        found.setdefault(int(row.revision_id), []).append(int(row.case_id))
    return found


def only_here(connection: Connection, value: str) -> int:
    """Cases whose newest vectors are of this fingerprint and of no other."""
    newest = _newest().subquery()
    here = embedding.c.fingerprint_id == _id_of(value)
    same = and_(
        embedding.c.case_id == newest.c.case_id, embedding.c.revision_id == newest.c.revision_id
    )
    return _count(
        connection,
        select(newest.c.case_id)
        .where(select(embedding.c.id).where(same, here).exists())
        .where(~select(embedding.c.id).where(same, ~here).exists()),
    )


def wanted(connection: Connection, revision_id: int, cases: Sequence[int]) -> Wanted:
    """What is needed to embed these cases of a revision again, without those just forgotten."""
    series_id, last = connection.execute(
        select(revision.c.series_id, revision.c.last_instance_id).where(
            revision.c.id == revision_id
        )
    ).one()
    rows = connection.execute(
        select(case.c.id, case.c.signature, digest.c.case_digest)
        .join_from(case, digest, digest.c.case_id == case.c.id)
        .where(case.c.id.in_(cases), digest.c.revision_id == revision_id)
        .order_by(case.c.id)
    )
    files = connection.execute(
        select(blob.c.locator, blob.c.purged_at)
        .join_from(instance, blob, blob.c.id == instance.c.blob_id)
        .where(instance.c.series_id == series_id, instance.c.id <= last)
        .order_by(instance.c.id)
    ).all()
    return Wanted(
        revision_id,
        tuple((int(row[0]), str(row[1]), bytes(row[2])) for row in rows),
        tuple(str(row.locator) for row in files if row.purged_at is None),
        any(row.purged_at is not None for row in files),
    )


def strangers(connection: Connection, limit: int) -> list[Wanted]:
    """One case of each patient, of those judged unique whose pixels are all kept; the newest."""
    columns = {column.name: column for column in reverdicts.as_it_stands()}
    rows = connection.execute(
        select(digest.c.patient_hmac, digest.c.case_id, digest.c.revision_id)
        .select_from(reverdicts.joined().join(digest, digest.c.case_id == verdict.c.case_id))
        .where(
            digest.c.current,
            digest.c.patient_hmac.is_not(None),
            verdict.c.revision_id == digest.c.revision_id,
            columns["relation"] == "unique",
        )
        .order_by(digest.c.case_id.desc())
    ).all()
    found: dict[bytes, Wanted] = {}
    for patient, case_id, revision_id in rows:
        if len(found) == limit:
            break
        if bytes(patient) in found:
            continue
        one = wanted(connection, revision_id, [case_id])
        if one.cases and not one.purged:
            found[bytes(patient)] = one
    return list(found.values())


def use(connection: Connection, name: str, value: str, left_behind: int) -> None:
    """From the end of this transaction on the model is in use."""
    chain.append(connection, USE, {"model": name, "fingerprint": value, "missing": left_behind})


def remove(store: Store, name: str, value: str) -> int:
    """Remove every vector of a fingerprint; returns how many. Its row stays: no key comes back."""
    with store.write() as connection:
        lost = only_here(connection, value)
        chain.append(connection, REMOVE, {"model": name, "fingerprint": value, "missing": lost})
        connection.execute(delete(embedding).where(embedding.c.fingerprint_id == _id_of(value)))
    removed = 0
    while True:
        with store.write() as connection:
            keys = list(
                connection.execute(
                    select(node.c.key).where(node.c.fingerprint_id == _id_of(value)).limit(_ROWS)
                ).scalars()
            )
            if not keys:
                break
            connection.execute(
                delete(node).where(node.c.fingerprint_id == _id_of(value), node.c.key.in_(keys))
            )
            removed += len(keys)
    store.scrub()
    return removed


def hold(store: Store, seconds: float = HOLD_SECONDS) -> None:
    """No series is claimed for so long (0: go on), so that none is judged during the switch."""
    with store.write() as connection:
        counters.set_gauge(connection, _HELD, now() / 1e6 + seconds)


def may_claim(connection: Connection, value: str | None) -> bool:
    """Whether a worker of this fingerprint may claim work (None: any model is right)."""
    if is_held(connection):
        return False
    chosen = None if value is None else in_use(connection)
    return chosen is None or chosen.fingerprint == value


def is_held(connection: Connection) -> bool:
    """Whether a switch holds judging now."""
    until = connection.execute(
        select(gauge.c.value).where(gauge.c.name == _HELD)
    ).scalar_one_or_none()
    return until is not None and until > now() / 1e6


def being_judged(connection: Connection) -> bool:
    """Whether some worker holds a series now."""
    return (
        connection.execute(
            select(revision.c.id)
            .where(revision.c.status == "judging", revision.c.lease_until >= now())
            .limit(1)
        ).first()
        is not None
    )


def _newest() -> Select[tuple[int, int]]:
    """(case_id, revision_id): the newest embedded revision of every case that is not forgotten."""
    return (
        select(embedding.c.case_id, func.max(embedding.c.revision_id).label("revision_id"))
        .join(case, case.c.id == embedding.c.case_id)
        .where(case.c.forgotten_at.is_(None))
        .group_by(embedding.c.case_id)
    )


def _missing(value: str) -> Select[tuple[int, int]]:
    newest = _newest().subquery()
    here = select(embedding.c.id).where(
        embedding.c.fingerprint_id == _id_of(value),
        embedding.c.case_id == newest.c.case_id,
        embedding.c.revision_id == newest.c.revision_id,
    )
    return select(newest.c.case_id, newest.c.revision_id).where(~here.exists())


def _id_of(value: str) -> ScalarSelect[int]:
    return select(fingerprint.c.id).where(fingerprint.c.fingerprint == value).scalar_subquery()


def _count(connection: Connection, rows: Select[tuple[int, int]] | Select[tuple[int]]) -> int:
    return int(connection.execute(select(func.count()).select_from(rows.subquery())).scalar_one())
