"""Requests for storage commitment (PS3.4 annex J), from the N-ACTION to the report delivered.

    OPEN ──every instance decided──▶ DECIDED ──N-EVENT-REPORT answered──▶ REPORTED
                                        └──nobody takes it for a week──▶ UNDELIVERED

Who is told that an instance is committed may delete its originals: an instance is committed only
where its bytes were found as they were received, or where an archive has said that it keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from sqlalchemy import ColumnElement, Connection, delete, func, insert, or_, select, update

from diptych.audit import counters
from diptych.audit.schema import blob, commitment, commitment_item, forward, instance, series
from diptych.audit.store import Store, now

MICROSECONDS = 1_000_000
# A modality that is away for longer has asked somebody else, or asks again.
UNDELIVERED_AFTER = 7 * 86_400 * MICROSECONDS


class Status(StrEnum):
    """Status of a request; each transition is named in this module's docstring."""

    OPEN = "open"
    DECIDED = "decided"
    REPORTED = "reported"
    UNDELIVERED = "undelivered"


class FailureReason(IntEnum):
    """Failure Reason (0008,1197), PS3.3 section C.14.1.1."""

    PROCESSING_FAILURE = 0x0110
    NO_SUCH_OBJECT_INSTANCE = 0x0112
    CLASS_INSTANCE_CONFLICT = 0x0119
    REFERENCED_SOP_CLASS_NOT_SUPPORTED = 0x0122
    DUPLICATE_TRANSACTION_UID = 0x0131


MEANINGS = {
    FailureReason.PROCESSING_FAILURE: "not as it was received, or the archive did not commit it",
    FailureReason.NO_SUCH_OBJECT_INSTANCE: "this source never sent it",
    FailureReason.CLASS_INSTANCE_CONFLICT: "it was sent with another SOP class",
    FailureReason.REFERENCED_SOP_CLASS_NOT_SUPPORTED: "a SOP class that is not stored here",
    FailureReason.DUPLICATE_TRANSACTION_UID: "the transaction UID was used for another request",
}


@dataclass(frozen=True)
class Item:
    """An instance that is asked about; ``failure_reason`` None: committed, once decided."""

    ordinal: int
    sop_class_uid: str
    sop_instance_uid: str
    failure_reason: int | None = None


@dataclass(frozen=True)
class Request:
    """One request and what it asks about."""

    commitment_id: int
    transaction_uid: str
    ae_title: str
    source: str
    mode: str
    received_at: int
    attempts: int
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Held:
    """A content that a source delivered under a SOP Instance UID. ``locator`` None: it is gone.

    ``forwards``: destination → status of what it is owed.
    """

    sop_class_uid: str
    sha256: str | None
    locator: str | None
    forwards: Mapping[str, str]


def ask(
    store: Store,
    transaction_uid: str,
    ae_title: str,
    source: str,
    mode: str,
    references: Sequence[tuple[str, str]],
) -> None:
    """Keep a request: (SOP class UID, SOP instance UID) of each instance.

    The same request again while the first is under way changes nothing (its answer was lost). A
    transaction UID used for another request fails every instance of this one.
    """
    with store.write() as connection:
        at = now()
        reason = None
        for earlier in connection.execute(
            select(commitment.c.id, commitment.c.status).where(
                commitment.c.transaction_uid == transaction_uid, commitment.c.ae_title == ae_title
            )
        ).all():
            asked = {(i.sop_class_uid, i.sop_instance_uid) for i in _items(connection, earlier.id)}
            if earlier.status in (Status.OPEN, Status.DECIDED) and asked == set(references):
                return
            reason = FailureReason.DUPLICATE_TRANSACTION_UID
        made = connection.execute(
            insert(commitment).values(
                transaction_uid=transaction_uid,
                ae_title=ae_title,
                source=source,
                mode=mode,
                status=Status.OPEN if reason is None else Status.DECIDED,
                received_at=at,
                due_at=at,
                attempts=0,
            )
        ).inserted_primary_key
        assert made is not None
        connection.execute(
            insert(commitment_item),
            [
                {
                    "commitment_id": made[0],
                    "ordinal": ordinal,
                    "sop_class_uid": sop_class,
                    "sop_instance_uid": sop_instance,
                    "failure_reason": reason,
                }
                for ordinal, (sop_class, sop_instance) in enumerate(references)
            ],
        )


def due(connection: Connection, status: Status, most: int = 20) -> list[Request]:
    """Requests of this status whose time has come, the oldest first."""
    rows = connection.execute(
        select(commitment)
        .where(commitment.c.status == status, commitment.c.due_at <= now())
        .order_by(commitment.c.due_at)
        .limit(most)
    ).all()
    return [
        Request(
            row.id,
            row.transaction_uid,
            row.ae_title,
            row.source,
            row.mode,
            row.received_at,
            row.attempts,
            _items(connection, row.id),
        )
        for row in rows
    ]


def held(connection: Connection, source: str, sop_instance_uid: str) -> list[Held]:
    """Every content that this source delivered under this UID."""
    rows = connection.execute(
        select(instance.c.id, instance.c.sop_class_uid, blob.c.sha256, blob.c.locator)
        .add_columns(blob.c.purged_at)
        .join(series, series.c.id == instance.c.series_id)
        .outerjoin(blob, blob.c.id == instance.c.blob_id)
        .where(instance.c.sop_instance_uid == sop_instance_uid, series.c.source == source)
    ).all()
    return [
        Held(
            row.sop_class_uid,
            row.sha256,
            None if row.purged_at is not None else row.locator,
            {
                owed.destination: owed.status
                for owed in connection.execute(
                    select(forward.c.destination, forward.c.status).where(
                        forward.c.instance_id == row.id
                    )
                )
            },
        )
        for row in rows
    ]


def decide(store: Store, request: Request, reasons: Mapping[int, int]) -> None:
    """Write down the failure reason of each ordinal that failed; the others are committed."""
    with store.write() as connection:
        for ordinal, reason in reasons.items():
            connection.execute(
                update(commitment_item)
                .where(
                    commitment_item.c.commitment_id == request.commitment_id,
                    commitment_item.c.ordinal == ordinal,
                )
                .values(failure_reason=int(reason))
            )
        _set(connection, request, status=Status.DECIDED, due_at=now(), attempts=0)
        failed = len(reasons)
        for outcome, number in (("committed", len(request.items) - failed), ("failed", failed)):
            counters.increment(
                connection, "diptych_commitments_total", {"outcome": outcome}, number
            )


def put_off(store: Store, request: Request, seconds: float) -> None:
    """Look at it again after ``seconds``."""
    with store.write() as connection:
        due_at = now() + int(seconds * MICROSECONDS)
        _set(connection, request, attempts=request.attempts + 1, due_at=due_at)


def reported(store: Store, request: Request) -> None:
    """The requester has the report."""
    with store.write() as connection:
        _set(connection, request, status=Status.REPORTED, reported_at=now())
        _drop_forgotten(connection, request)


def give_up(store: Store, request: Request) -> None:
    """Nobody took the report; what it promised stays promised."""
    with store.write() as connection:
        _set(connection, request, status=Status.UNDELIVERED)
        _drop_forgotten(connection, request)


def pending(connection: Connection) -> tuple[int, int | None]:
    """Requests not yet reported, and when the oldest of them came."""
    number, oldest = connection.execute(
        select(func.count(), func.min(commitment.c.received_at)).where(
            commitment.c.status.in_([Status.OPEN, Status.DECIDED])
        )
    ).one()
    return int(number), oldest


def promised() -> ColumnElement[bool]:
    """Whether the row of ``blob`` must be kept: asked about now, or committed as our own."""
    return (
        select(commitment_item.c.ordinal)
        .join(commitment, commitment.c.id == commitment_item.c.commitment_id)
        .join(instance, instance.c.sop_instance_uid == commitment_item.c.sop_instance_uid)
        .where(
            instance.c.blob_id == blob.c.id,
            commitment_item.c.failure_reason.is_(None),
            or_(commitment.c.status == Status.OPEN, commitment.c.mode == "own"),
        )
        .exists()
    )


def promises(connection: Connection, series_id: int) -> dict[str, int]:
    """AE title of a requester → instances of this series that are committed to it as our own, or
    that it asks about now."""
    rows = connection.execute(
        select(commitment.c.ae_title, func.count(instance.c.id.distinct()))
        .select_from(commitment_item)
        .join(commitment, commitment.c.id == commitment_item.c.commitment_id)
        .join(instance, instance.c.sop_instance_uid == commitment_item.c.sop_instance_uid)
        .join(series, series.c.id == instance.c.series_id)
        .where(
            instance.c.series_id == series_id,
            series.c.source == commitment.c.source,
            commitment_item.c.failure_reason.is_(None),
            or_(commitment.c.status == Status.OPEN, commitment.c.mode == "own"),
        )
        .group_by(commitment.c.ae_title)
    )
    return {row[0]: int(row[1]) for row in rows}


def forget(connection: Connection, series_id: int) -> None:
    """The instances of this series leave every request that is over. Where a report is still to be
    made it says that they are not here (an archive's promise stays), and then they leave it."""
    ours = select(instance.c.sop_instance_uid).where(instance.c.series_id == series_id)
    source = select(series.c.source).where(series.c.id == series_id).scalar_subquery()
    named = commitment_item.c.sop_instance_uid.in_(ours.scalar_subquery())

    def of(*statuses: Status) -> ColumnElement[bool]:
        return commitment_item.c.commitment_id.in_(
            select(commitment.c.id)
            .where(commitment.c.source == source, commitment.c.status.in_(statuses))
            .scalar_subquery()
        )

    connection.execute(
        delete(commitment_item).where(named, of(Status.REPORTED, Status.UNDELIVERED))
    )
    own = select(commitment.c.id).where(commitment.c.mode == "own").scalar_subquery()
    connection.execute(
        update(commitment_item)
        .where(named, of(Status.DECIDED), commitment_item.c.commitment_id.in_(own))
        .values(failure_reason=int(FailureReason.NO_SUCH_OBJECT_INSTANCE))
    )


def _drop_forgotten(connection: Connection, request: Request) -> None:
    """Names that stand nowhere else need not stand here: the report is made."""
    known = select(instance.c.id).where(
        instance.c.sop_instance_uid == commitment_item.c.sop_instance_uid
    )
    connection.execute(
        delete(commitment_item).where(
            commitment_item.c.commitment_id == request.commitment_id, ~known.exists()
        )
    )


def _items(connection: Connection, commitment_id: int) -> tuple[Item, ...]:
    rows = connection.execute(
        select(
            commitment_item.c.ordinal,
            commitment_item.c.sop_class_uid,
            commitment_item.c.sop_instance_uid,
            commitment_item.c.failure_reason,
        )
        .where(commitment_item.c.commitment_id == commitment_id)
        .order_by(commitment_item.c.ordinal)
    )
    return tuple(Item(*row) for row in rows)


def _set(connection: Connection, request: Request, **values: object) -> None:
    connection.execute(
        update(commitment).where(commitment.c.id == request.commitment_id).values(**values)
    )
