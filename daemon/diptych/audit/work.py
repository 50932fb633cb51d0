"""What is to be done next: the life of a series between its receipts and its verdict.

    receiving ──quiet──▶ (nothing new) ──▶ a re-send: counted, no revision
        ▲                (new content) ──▶ revision SEALED ──claim──▶ JUDGING ──record──▶ JUDGED
        └── a late slice, at any time            ▲                      │
                                                 └──── lease lost ◀─────┘

Every transition is one statement or one transaction, so work resumes by status after any crash.
``attempts`` counts claims: a revision that kills its worker again and again ends in a verdict
with the reason ``internal-error`` instead of a loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, and_, func, insert, or_, select, update

from diptych.audit import chain, counters, models
from diptych.audit.schema import association, blob, instance, receipt, revision, series
from diptych.audit.store import Store, now

MICROSECONDS = 1_000_000
# Of a series, by which its events can be followed to those of its associations.
MOST_ASSOCIATIONS = 4
NEWEST_RECEIPTS = 1000


class Status(StrEnum):
    """Status of a revision; each transition is named in this module's docstring."""

    SEALED = "sealed"
    JUDGING = "judging"
    JUDGED = "judged"


@dataclass(frozen=True)
class Quiet:
    """When a series counts as complete (seconds)."""

    quiet_seconds: float
    association_seconds: float
    hard_limit_seconds: float


@dataclass(frozen=True)
class InstanceRow:
    """One instance of a revision and where its bytes lie."""

    instance_id: int
    sop_instance_uid: str
    sha256: str
    transfer_syntax_uid: str
    bytes: int
    locator: str
    purged: bool
    judged_before: bool


@dataclass(frozen=True)
class Work:
    """A claimed revision."""

    revision_id: int
    number: int
    series_id: int
    source: str
    study_instance_uid: str
    series_instance_uid: str
    last_received_at: int
    sealed_at: int
    attempts: int
    instances: tuple[InstanceRow, ...]
    associations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sealed:
    """A series that became complete. revision None: a re-send, nothing to judge. instances:
    received since it was last complete, within ``seconds``. associations: names of the last ones,
    the newest first."""

    series_id: int
    source: str
    study_instance_uid: str | None
    series_instance_uid: str | None
    revision: int | None
    instances: int
    seconds: float
    associations: tuple[str, ...]


def seal_complete(store: Store, rule: Quiet, in_flight: Mapping[str, int]) -> list[Sealed]:
    """Seal every complete series.

    ``in_flight``: association name → when its unfinished transfer began (UTC microseconds).
    """
    at = now()
    overdue = at - int(rule.hard_limit_seconds * MICROSECONDS)
    quiet = or_(
        series.c.last_received_at <= at - int(rule.quiet_seconds * MICROSECONDS),
        # A series that never rests is judged as it stands; what follows is a revision.
        series.c.receiving_since <= overdue,
    )
    with store.read() as connection:
        rows = connection.execute(
            select(series.c.id, series.c.receiving_since).where(series.c.receiving, quiet)
        ).all()
        candidates = [
            row.id
            for row in rows
            if row.receiving_since <= overdue
            or not _may_still_grow(connection, row.id, rule, in_flight, at)
        ]
    made = []
    for series_id in candidates:
        with store.write() as connection:
            sealed = _seal(connection, series_id, quiet)
        if sealed is not None:
            made.append(sealed)
    return made


def _may_still_grow(
    connection: Connection, series_id: int, rule: Quiet, in_flight: Mapping[str, int], at: int
) -> bool:
    """Whether an open association that delivered to the series may deliver to it again."""
    grace = int(rule.association_seconds * MICROSECONDS)
    rows = connection.execute(
        select(association.c.name, func.max(receipt.c.received_at).label("last"))
        .join(receipt, receipt.c.association_id == association.c.id)
        .where(receipt.c.series_id == series_id, association.c.closed_at.is_(None))
        .group_by(association.c.name)
    ).all()
    for name, last in rows:
        if at - last > rule.hard_limit_seconds * MICROSECONDS:
            continue
        # A transfer that began long after the last delivery belongs to another series.
        unfinished = name in in_flight and in_flight[name] <= last + grace
        if unfinished or at - last < grace:
            return True
    return False


def _seal(connection: Connection, series_id: int, quiet: ColumnElement[bool]) -> Sealed | None:
    """receiving → SEALED, or → a counted re-send."""
    row = connection.execute(
        select(series).where(series.c.id == series_id, series.c.receiving, quiet)
    ).one_or_none()
    if row is None:  # a slice arrived in between
        return None
    came = connection.execute(
        select(func.count()).where(
            receipt.c.series_id == series_id, receipt.c.received_at >= row.receiving_since
        )
    ).scalar_one()
    sealed = Sealed(
        series_id,
        row.source,
        row.study_instance_uid,
        row.series_instance_uid,
        row.revisions if row.new_content else None,
        came,
        (row.last_received_at - row.receiving_since) / MICROSECONDS,
        _associations(connection, series_id),
    )
    ended = {"receiving": False, "new_content": False}
    if not row.new_content:
        connection.execute(
            update(series).where(series.c.id == series_id).values(**ended, resends=row.resends + 1)
        )
        counters.increment(connection, "diptych_resends_total", {"source": row.source})
        chain.append(connection, "resend", {"series": series_id, "source": row.source})
        return sealed
    last_instance = connection.execute(
        select(func.max(instance.c.id)).where(instance.c.series_id == series_id)
    ).scalar_one()
    connection.execute(
        insert(revision).values(
            series_id=series_id,
            number=row.revisions,
            status=Status.SEALED,
            sealed_at=now(),
            last_received_at=row.last_received_at,
            last_instance_id=last_instance,
            attempts=0,
        )
    )
    connection.execute(
        update(series).where(series.c.id == series_id).values(**ended, revisions=row.revisions + 1)
    )
    if row.revisions == 0:
        counters.increment(connection, "diptych_series_total", {"source": row.source})
    return sealed


def _associations(connection: Connection, series_id: int) -> tuple[str, ...]:
    """Names of the associations that last delivered to the series, the newest first."""
    newest = (
        select(receipt.c.association_id, receipt.c.received_at)
        .where(receipt.c.series_id == series_id)
        .order_by(receipt.c.received_at.desc())
        .limit(NEWEST_RECEIPTS)
        .subquery()
    )
    names = (
        select(association.c.name)
        .join(newest, newest.c.association_id == association.c.id)
        .group_by(association.c.name)
        .order_by(func.max(newest.c.received_at).desc())
        .limit(MOST_ASSOCIATIONS)
    )
    return tuple(connection.execute(names).scalars())


def claim(
    store: Store, owner: str, lease_seconds: float, fingerprint: str | None = None
) -> Work | None:
    """SEALED (or JUDGING with a lapsed lease) → JUDGING; the oldest first.

    ``fingerprint``: the owner's; while another model is in use it gets nothing (None: any will
    do).
    """
    at = now()
    with store.write() as connection:
        if not models.may_claim(connection, fingerprint):
            return None
        claimable = (revision.c.status == Status.SEALED) | and_(
            revision.c.status == Status.JUDGING, revision.c.lease_until < at
        )
        statement = select(revision).where(claimable).order_by(revision.c.id).limit(1)
        row = connection.execute(statement.with_for_update(skip_locked=True)).one_or_none()
        if row is None:
            return None
        connection.execute(
            update(revision)
            .where(revision.c.id == row.id)
            .values(
                status=Status.JUDGING,
                attempts=row.attempts + 1,
                lease_owner=owner,
                lease_until=at + int(lease_seconds * MICROSECONDS),
            )
        )
        parent = connection.execute(select(series).where(series.c.id == row.series_id)).one()
        instances = connection.execute(
            select(instance, blob)
            .join(blob, blob.c.id == instance.c.blob_id)
            .where(
                instance.c.series_id == row.series_id,
                instance.c.id <= row.last_instance_id,
            )
            .order_by(instance.c.id)
        ).all()
        return Work(
            revision_id=row.id,
            number=row.number,
            series_id=row.series_id,
            source=parent.source,
            study_instance_uid=parent.study_instance_uid,
            series_instance_uid=parent.series_instance_uid,
            last_received_at=row.last_received_at,
            sealed_at=row.sealed_at,
            attempts=row.attempts + 1,
            instances=tuple(
                InstanceRow(
                    i[instance.c.id],
                    i[instance.c.sop_instance_uid],
                    i[blob.c.sha256],
                    i[blob.c.transfer_syntax_uid],
                    i[blob.c.bytes],
                    i[blob.c.locator],
                    i[blob.c.purged_at] is not None,
                    i[instance.c.outcome] is not None,
                )
                for i in (row._mapping for row in instances)
            ),
            associations=_associations(connection, row.series_id),
        )


def upcoming(connection: Connection) -> list[str]:
    """Locators of the oldest SEALED revision, in the order ``claim`` gives its instances.

    What the next claim will most likely be; it promises nothing.
    """
    oldest = (
        select(revision.c.series_id, revision.c.last_instance_id)
        .where(revision.c.status == Status.SEALED)
        .order_by(revision.c.id)
        .limit(1)
        .subquery()
    )
    locators = (
        select(blob.c.locator)
        .join(instance, instance.c.blob_id == blob.c.id)
        .join(oldest, oldest.c.series_id == instance.c.series_id)
        .where(instance.c.id <= oldest.c.last_instance_id, blob.c.purged_at.is_(None))
        .order_by(instance.c.id)
    )
    return list(connection.execute(locators).scalars())


def renew(store: Store, owner: str, lease_seconds: float) -> None:
    """Heartbeat: ``owner`` keeps its claims while its work goes on."""
    with store.write() as connection:
        connection.execute(
            update(revision)
            .where(revision.c.lease_owner == owner, revision.c.status == Status.JUDGING)
            .values(lease_until=now() + int(lease_seconds * MICROSECONDS))
        )


def release(store: Store, owner: str | None, forgive: bool) -> int:
    """JUDGING → SEALED for ``owner`` (None: for all, when no other worker can exist).

    ``forgive``: the attempt does not count (a stop, not a crash).
    """
    statement = update(revision).where(revision.c.status == Status.JUDGING)
    if owner is not None:
        statement = statement.where(revision.c.lease_owner == owner)
    values: dict[str, object] = {
        "status": Status.SEALED,
        "lease_owner": None,
        "lease_until": None,
    }
    if forgive:
        values["attempts"] = revision.c.attempts - 1
    with store.write() as connection:
        return connection.execute(statement.values(values)).rowcount


def judged(connection: Connection, revision_id: int) -> None:
    """JUDGING → JUDGED, inside the verdict's transaction; refuses to happen twice."""
    changed = connection.execute(
        update(revision)
        .where(revision.c.id == revision_id, revision.c.status == Status.JUDGING)
        .values(status=Status.JUDGED, judged_at=now(), lease_owner=None, lease_until=None)
    ).rowcount
    if changed != 1:
        raise RuntimeError(f"revision {revision_id} is not being judged")


def pending(connection: Connection) -> tuple[int, int | None]:
    """Series received and not yet judged, and since when the oldest of them waits."""
    receiving = select(series.c.id, series.c.receiving_since).where(series.c.receiving)
    waiting = select(revision.c.series_id, revision.c.last_received_at).where(
        revision.c.status != Status.JUDGED
    )
    rows = [*connection.execute(receiving), *connection.execute(waiting)]
    return len({row[0] for row in rows}), min((row[1] for row in rows), default=None)


def last_received(connection: Connection, since: int) -> dict[str, int]:
    """Source → when its newest instance came, of those that came at ``since`` or later."""
    rows = connection.execute(
        select(series.c.source, func.max(series.c.last_received_at))
        # Both values, so that the index on (receiving, last_received_at) is used.
        .where(series.c.receiving.in_([False, True]), series.c.last_received_at >= since)
        .group_by(series.c.source)
    )
    return {row[0]: row[1] for row in rows}
