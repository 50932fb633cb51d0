"""What is owed to other nodes: a queue that is filled in the transaction of the receipt.

    WAITING ──0x0000 or a warning──▶ SENT, or where commitment is asked for
       │ ▲                           UNCOMMITTED ──the report says so──▶ COMMITTED
       │ ├───────the report says that it is not held──┘
       │ └── the sender sends the instance again: whoever sends it on must do so too
       └──the bytes are gone──▶ LOST

Nothing leaves the queue unsent but by ``drop``, which an operator asks for, and ``forget``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from diptych.audit import counters
from diptych.audit.schema import blob, forward, instance
from diptych.audit.store import Store, now

MICROSECONDS = 1_000_000
# An archive that does not hold what it took gets it again, but not in a tight loop.
_RESEND_SECONDS = 60


class Status(StrEnum):
    """Status of what is owed; each transition is named in this module's docstring."""

    WAITING = "waiting"
    SENT = "sent"
    UNCOMMITTED = "uncommitted"
    COMMITTED = "committed"
    LOST = "lost"


# Pixels are kept for these.
OWED = (Status.WAITING, Status.UNCOMMITTED)


@dataclass(frozen=True)
class Duty:
    """One instance owed to one destination, and where its bytes lie.

    ``locator`` None: they are purged or forgotten.
    """

    forward_id: int
    series_id: int
    sop_class_uid: str
    transfer_syntax_uid: str
    locator: str | None
    attempts: int
    queued_at: int


@dataclass(frozen=True)
class Queue:
    """What one destination is owed: counts, and since when (UTC microseconds) the oldest waits.

    ``refused``: the waiting ones that it did not take when asked; ``answers``: its statuses.
    """

    destination: str
    waiting: int
    refused: int
    lost: int
    uncommitted: int
    sent: int
    oldest: int | None
    answers: tuple[int, ...]


def owe(
    connection: Connection, destinations: Sequence[str], series_id: int, instance_id: int, at: int
) -> None:
    """Queue an instance for each destination, inside the receipt's transaction."""
    for destination in destinations:
        statement = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(
            forward
        )
        again: dict[str, object] = {
            "status": Status.WAITING,
            "queued_at": at,
            "due_at": at,
            "attempts": 0,
            "transaction_uid": None,
            "asked_at": None,
        }
        connection.execute(
            statement.values(
                destination=destination, series_id=series_id, instance_id=instance_id, **again
            ).on_conflict_do_update(
                index_elements=[forward.c.destination, forward.c.instance_id],
                set_=again,
                where=forward.c.status != Status.WAITING,
            )
        )


def due(connection: Connection, destination: str, lane: int, lanes: int, most: int) -> list[Duty]:
    """The oldest that ``destination`` is owed now, in the order they were received.

    Of ``lanes`` senders the ``lane``-th gets every series whose number leaves that remainder: a
    series stays in order without a lease.
    """
    rows = connection.execute(
        select(
            forward.c.id,
            forward.c.series_id,
            instance.c.sop_class_uid,
            blob.c.transfer_syntax_uid,
            blob.c.locator,
            forward.c.attempts,
            forward.c.queued_at,
            blob.c.purged_at,
        )
        .join(instance, instance.c.id == forward.c.instance_id)
        .outerjoin(blob, blob.c.id == instance.c.blob_id)
        .where(
            forward.c.destination == destination,
            forward.c.status == Status.WAITING,
            forward.c.due_at <= now(),
            forward.c.series_id % lanes == lane,
        )
        .order_by(forward.c.id)
        .limit(most)
    )
    return [
        Duty(
            row.id,
            row.series_id,
            row.sop_class_uid,
            row.transfer_syntax_uid or "",
            None if row.purged_at is not None else row.locator,
            row.attempts,
            row.queued_at,
        )
        for row in rows
    ]


def sent(
    store: Store, destination: str, answered: Sequence[tuple[Duty, int]], commit: bool
) -> None:
    """The destination took these. A request that came while one was on its way stays.

    ``commit``: it is to be asked whether it keeps them.
    """
    status = Status.UNCOMMITTED if commit else Status.SENT
    with store.write() as connection:
        for duty, answer in answered:
            connection.execute(
                update(forward)
                .where(forward.c.id == duty.forward_id, forward.c.queued_at == duty.queued_at)
                .values(status=status, sent_at=now(), answer=answer)
            )
        _count(connection, "diptych_forward_sent_total", len(answered), destination=destination)


def put_off(store: Store, duty: Duty, answer: int | None, pause: float) -> None:
    """The destination did not take this one (``answer``: its status, None: it gave none): it is
    offered again after ``pause`` seconds."""
    with store.write() as connection:
        connection.execute(
            update(forward)
            .where(forward.c.id == duty.forward_id)
            .values(
                attempts=duty.attempts + 1,
                answer=answer,
                due_at=now() + int(pause * MICROSECONDS),
            )
        )


def lost(store: Store, destination: str, duty: Duty) -> None:
    """Its bytes are gone: only who sent it can bring it again."""
    with store.write() as connection:
        changed = connection.execute(
            update(forward)
            .where(forward.c.id == duty.forward_id, forward.c.queued_at == duty.queued_at)
            .values(status=Status.LOST)
        ).rowcount
        if changed:  # else it was forgotten, or sent again
            _count(
                connection,
                "diptych_forward_failures_total",
                destination=destination,
                reason="lost",
            )


def failed(store: Store, destination: str, reason: str) -> None:
    """Count a failure, of one instance or of the destination as a whole."""
    with store.write() as connection:
        _count(connection, "diptych_forward_failures_total", destination=destination, reason=reason)


def queues(connection: Connection, configured: Sequence[str] = ()) -> list[Queue]:
    """What every destination is owed, those of ``configured`` even when it is nothing."""
    found = {name: Queue(name, 0, 0, 0, 0, 0, None, ()) for name in configured}
    is_refused = and_(forward.c.status == Status.WAITING, forward.c.attempts > 0)
    for row in connection.execute(
        select(
            forward.c.destination,
            _number(forward.c.status == Status.WAITING),
            _number(is_refused),
            _number(forward.c.status == Status.LOST),
            _number(forward.c.status == Status.UNCOMMITTED),
            _number(forward.c.status.in_([Status.SENT, Status.COMMITTED])),
        ).group_by(forward.c.destination)
    ):
        oldest = connection.execute(
            select(func.min(forward.c.queued_at)).where(
                forward.c.destination == row[0], forward.c.status == Status.WAITING
            )
        ).scalar_one()
        answers = connection.execute(
            select(forward.c.answer)
            .where(forward.c.destination == row[0], is_refused, forward.c.answer.is_not(None))
            .distinct()
            .order_by(forward.c.answer)
        ).scalars()
        name, waits, refusals, gone, unsure, done = row
        found[name] = Queue(name, waits, refusals, gone, unsure, done, oldest, tuple(answers))
    return list(found.values())


def waiting(connection: Connection) -> dict[str, tuple[int, int]]:
    """Destination → how many wait, and since when (UTC microseconds) the oldest."""
    rows = connection.execute(
        select(forward.c.destination, func.count(), func.min(forward.c.queued_at))
        .where(forward.c.status == Status.WAITING)
        .group_by(forward.c.destination)
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def drop(store: Store, destination: str, only_refused: bool) -> int:
    """Owe this destination nothing any more (or nothing it refused); returns how many went."""
    statement = delete(forward).where(
        forward.c.destination == destination,
        forward.c.status.in_([*OWED, Status.LOST]),
    )
    if only_refused:
        statement = statement.where((forward.c.attempts > 0) | (forward.c.status == Status.LOST))
    with store.write() as connection:
        return connection.execute(statement).rowcount


def uncommitted(
    store: Store, destination: str, transaction_uid: str, quiet: float, again: float, most: int
) -> list[tuple[str, str]]:
    """Put what was sent ``quiet`` seconds ago, or asked about in vain ``again`` seconds ago, into
    one transaction; returns its (SOP class UID, SOP instance UID), [] for nothing to ask."""
    at = now()
    with store.write() as connection:
        rows = connection.execute(
            select(forward.c.id, instance.c.sop_class_uid, instance.c.sop_instance_uid)
            .join(instance, instance.c.id == forward.c.instance_id)
            .where(
                forward.c.destination == destination,
                forward.c.status == Status.UNCOMMITTED,
                instance.c.sop_instance_uid.is_not(None),
                forward.c.sent_at <= at - int(quiet * MICROSECONDS),
                forward.c.asked_at.is_(None)
                | (forward.c.asked_at <= at - int(again * MICROSECONDS)),
            )
            .order_by(forward.c.id)
            .limit(most)
        ).all()
        # Before it is asked: the report may overtake the answer.
        connection.execute(
            update(forward)
            .where(forward.c.id.in_([row.id for row in rows]))
            .values(transaction_uid=transaction_uid)
        )
    return list(dict.fromkeys((row.sop_class_uid, row.sop_instance_uid) for row in rows))


def asked(store: Store, transaction_uid: str) -> None:
    """The destination accepted the request; its report is awaited."""
    with store.write() as connection:
        connection.execute(
            update(forward)
            .where(forward.c.transaction_uid == transaction_uid)
            .values(asked_at=now())
        )


def reported(
    store: Store, destination: str, transaction_uid: str, committed: set[str], failed: set[str]
) -> bool:
    """The destination says which SOP instance UIDs it keeps; what it does not is sent again.

    False: it was never asked that.
    """
    with store.write() as connection:
        rows = connection.execute(
            select(forward.c.id, forward.c.attempts, instance.c.sop_instance_uid)
            .join(instance, instance.c.id == forward.c.instance_id)
            .where(
                forward.c.destination == destination,
                forward.c.transaction_uid == transaction_uid,
                forward.c.status.in_([Status.UNCOMMITTED, Status.COMMITTED]),
            )
        ).all()
        for row in rows:
            mine = update(forward).where(forward.c.id == row.id)
            if row.sop_instance_uid in failed:
                connection.execute(
                    mine.values(
                        status=Status.WAITING,
                        attempts=row.attempts + 1,
                        due_at=now() + _RESEND_SECONDS * MICROSECONDS,
                        transaction_uid=None,
                        asked_at=None,
                    )
                )
                _count(
                    connection,
                    "diptych_forward_failures_total",
                    destination=destination,
                    reason="uncommitted",
                )
            elif row.sop_instance_uid in committed:
                connection.execute(mine.values(status=Status.COMMITTED))
    return bool(rows)


def _number(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _count(connection: Connection, name: str, by: int = 1, **labels: str) -> None:
    counters.increment(connection, name, labels, by)
