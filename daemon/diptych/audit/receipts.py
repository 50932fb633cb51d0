"""Receipts: what was acknowledged, from whom, and which series it belongs to.

``record`` is the last step before 0x0000: when it returns, the instance is known for good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, case, insert, select, update

from diptych.audit import commitments, counters, forwards
from diptych.audit.schema import (
    association,
    blob,
    forward,
    instance,
    receipt,
    revision,
    series,
    verdict,
)
from diptych.audit.store import Store, now
from diptych.errors import Reason

# Outcomes that may be better the next time the same content is sent.
_ANOTHER_CHANCE = (
    Reason.SPOOL_FILE_LOST,
    Reason.INTERNAL,
    Reason.DECODER_TIMEOUT,
    Reason.DECODER_CRASHED,
)


@dataclass(frozen=True)
class Identity:
    """What an instance says it is. UIDs are 1 to 64 printable characters; ``synthetic`` when the
    SeriesInstanceUID (0020,000E) was missing and one was made up."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    synthetic: bool = False


@dataclass(frozen=True)
class Stored:
    """Where the bytes lie. ``locator`` is relative to the named store."""

    sha256: str
    transfer_syntax_uid: str
    bytes: int
    locator: str
    store: str = "spool"


@dataclass(frozen=True)
class Recorded:
    """What the receipt changed. ``bytes_known``: the bytes were kept before, the file just
    written is not referenced; ``new_content``: no series of this source held them yet."""

    receipt_id: int
    bytes_known: bool
    new_content: bool


def open_association(
    store: Store, name: str, acceptor: str, source: str, calling_ae_title: str, address: str
) -> int:
    """Write down an association that is about to deliver its first instance."""
    with store.write() as connection:
        result = connection.execute(
            insert(association).values(
                name=name,
                acceptor=acceptor,
                source=source,
                calling_ae_title=calling_ae_title[:16],
                address=address[:45],
                opened_at=now(),
            )
        )
        return _id(result.inserted_primary_key)


def close_association(store: Store, association_id: int) -> None:
    """The association ended; its series may be complete."""
    with store.write() as connection:
        connection.execute(
            update(association).where(association.c.id == association_id).values(closed_at=now())
        )


def close_associations_of(store: Store, acceptor: str | None) -> None:
    """Close what a dead acceptor left open (None: every acceptor)."""
    statement = update(association).where(association.c.closed_at.is_(None)).values(closed_at=now())
    if acceptor is not None:
        statement = statement.where(association.c.acceptor == acceptor)
    with store.write() as connection:
        connection.execute(statement)


def record(
    store: Store,
    source: str,
    association_id: int | None,
    identity: Identity,
    stored: Stored,
    failures: dict[str, int] | None = None,
    exists: Callable[[str], bool] = lambda _: True,
    destinations: Sequence[str] = (),
) -> Recorded:
    """Commit the receipt of one instance; raises StoreError and then nothing is kept.

    ``failures``: C-STORE failures by reason that could not be counted when they happened.
    ``exists``: whether the file at a locator is there; bytes that are known but gone are replaced.
    ``destinations``: where the instance is to be sent on to.
    """
    with store.write() as connection:
        at = now()  # not before the lock is held: receipts of a series must not run backwards
        series_id = _series(connection, source, identity, at)
        blob_id, bytes_known = _blob(connection, stored, at, exists)
        instance_id, new_content = _instance(connection, series_id, source, identity, blob_id, at)
        receipt_id = _id(
            connection.execute(
                insert(receipt).values(
                    association_id=association_id,
                    series_id=series_id,
                    instance_id=instance_id,
                    received_at=at,
                )
            ).inserted_primary_key
        )
        forwards.owe(connection, destinations, series_id, instance_id, at)
        values: dict[str, object] = {
            "last_received_at": at,
            "receiving": True,
            "receiving_since": case((series.c.receiving, series.c.receiving_since), else_=at),
        }
        if not bytes_known and _unjudged_for_loss(connection, series_id):
            new_content = True
        if new_content:
            values["new_content"] = True
        connection.execute(update(series).where(series.c.id == series_id).values(values))
        counters.increment(connection, "diptych_receipts_total", {"source": source})
        counters.increment(
            connection, "diptych_received_bytes_total", {"source": source}, stored.bytes
        )
        for reason, count in (failures or {}).items():
            counters.increment(
                connection, "diptych_store_failures_total", {"reason": reason}, count
            )
    return Recorded(receipt_id, bytes_known, new_content)


def count(store: Store, name: str, labels: dict[str, str], by: int = 1) -> None:
    """Count something that happened at the edge and has no row of its own."""
    with store.write() as connection:
        counters.increment(connection, name, labels, by)


def known_locators(store: Store) -> dict[str, int]:
    """Locator → bytes of every blob the spool should hold."""
    with store.read() as connection:
        return {
            row.locator: row.bytes
            for row in connection.execute(
                select(blob.c.locator, blob.c.bytes).where(
                    blob.c.purged_at.is_(None), blob.c.store == "spool"
                )
            )
        }


def mark_lost(store: Store, locators: list[str]) -> None:
    """These files are gone without having been purged: the next content of the kind is kept."""
    with store.write() as connection:
        for locator in locators:
            connection.execute(
                update(blob)
                .where(blob.c.locator == locator, blob.c.purged_at.is_(None))
                .values(purged_at=now())
            )


def is_kept(store: Store, locator: str) -> bool:
    """Whether a row says that this file is kept."""
    with store.read() as connection:
        return (
            connection.execute(
                select(blob.c.id).where(blob.c.locator == locator, blob.c.purged_at.is_(None))
            ).first()
            is not None
        )


def was_purged(store: Store, locator: str) -> bool:
    """Whether this file's row says that it is purged: only the removal itself was cut off."""
    with store.read() as connection:
        return (
            connection.execute(
                select(blob.c.id).where(blob.c.locator == locator, blob.c.purged_at.is_not(None))
            ).first()
            is not None
        )


def purgeable(
    connection: Connection, older_than: int | None, limit: int
) -> list[tuple[int, str, int]]:
    """(blob id, locator, bytes) of judged content, oldest first; never before the verdict, nor
    while it is owed to a destination, nor where its keeping was promised.

    ``older_than``: UTC microseconds; None: any age.
    """
    unjudged = (
        select(instance.c.id)
        .join(series, series.c.id == instance.c.series_id)
        .outerjoin(
            revision,
            and_(revision.c.series_id == series.c.id, revision.c.status != "judged"),
        )
        .where(instance.c.blob_id == blob.c.id, series.c.receiving | revision.c.id.is_not(None))
        .exists()
    )
    owed = (
        select(forward.c.id)
        .join(instance, instance.c.id == forward.c.instance_id)
        .where(instance.c.blob_id == blob.c.id, forward.c.status.in_(forwards.OWED))
        .exists()
    )
    statement = select(blob.c.id, blob.c.locator, blob.c.bytes).where(
        blob.c.purged_at.is_(None),
        blob.c.store == "spool",
        ~unjudged,
        ~owed,
        ~commitments.promised(),
    )
    if older_than is not None:
        statement = statement.where(blob.c.created_at < older_than)
    rows = connection.execute(statement.order_by(blob.c.created_at).limit(limit))
    return [(int(row[0]), str(row[1]), int(row[2])) for row in rows]


def purge(store: Store, older_than: int | None, limit: int) -> list[str]:
    """Mark content as purged; returns the locators whose files are to be removed now.

    One transaction: a receipt that needs the content again comes before it or after it, and then
    brings its own file.
    """
    with store.write() as connection:
        chosen = purgeable(connection, older_than, limit)
        at = now()
        for blob_id, _, _ in chosen:
            connection.execute(update(blob).where(blob.c.id == blob_id).values(purged_at=at))
        if chosen:
            total = sum(size for _, _, size in chosen)
            counters.increment(connection, "diptych_purged_bytes_total", by=total)
    return [locator for _, locator, _ in chosen]


def _series(connection: Connection, source: str, identity: Identity, at: int) -> int:
    key = (
        series.c.source == source,
        series.c.study_instance_uid == identity.study_instance_uid,
        series.c.series_instance_uid == identity.series_instance_uid,
    )
    known = connection.execute(select(series.c.id).where(*key)).scalar_one_or_none()
    if known is not None:
        return int(known)
    result = connection.execute(
        insert(series).values(
            source=source,
            study_instance_uid=identity.study_instance_uid,
            series_instance_uid=identity.series_instance_uid,
            synthetic=identity.synthetic,
            created_at=at,
            last_received_at=at,
            receiving=True,
            receiving_since=at,
            new_content=False,
            revisions=0,
            resends=0,
        )
    )
    return _id(result.inserted_primary_key)


def _unjudged_for_loss(connection: Connection, series_id: int) -> bool:
    """Whether the series could last not be judged because its files were gone."""
    reason = connection.execute(
        select(verdict.c.reason)
        .where(verdict.c.series_id == series_id, verdict.c.principal)
        .order_by(verdict.c.id.desc())
        .limit(1)
    ).scalar_one_or_none()
    return reason == Reason.SPOOL_FILE_LOST


def _blob(
    connection: Connection, stored: Stored, at: int, exists: Callable[[str], bool]
) -> tuple[int, bool]:
    row = connection.execute(
        select(blob.c.id, blob.c.purged_at, blob.c.locator).where(
            blob.c.sha256 == stored.sha256,
            blob.c.transfer_syntax_uid == stored.transfer_syntax_uid,
        )
    ).one_or_none()
    if row is None:
        result = connection.execute(
            insert(blob).values(
                sha256=stored.sha256,
                transfer_syntax_uid=stored.transfer_syntax_uid,
                bytes=stored.bytes,
                store=stored.store,
                locator=stored.locator,
                created_at=at,
            )
        )
        return _id(result.inserted_primary_key), False
    if row.purged_at is None and exists(row.locator):
        return int(row.id), row.locator != stored.locator
    connection.execute(
        update(blob)
        .where(blob.c.id == row.id)
        .values(locator=stored.locator, store=stored.store, purged_at=None, created_at=at)
    )
    return int(row.id), False


def _instance(
    connection: Connection, series_id: int, source: str, identity: Identity, blob_id: int, at: int
) -> tuple[int, bool]:
    """Its row, and whether the content is new from this source. Only a data set without a
    SeriesInstanceUID can be old in a series that is new: each association makes up its own."""
    known = connection.execute(
        select(instance.c.id, instance.c.outcome).where(
            instance.c.series_id == series_id,
            instance.c.sop_instance_uid == identity.sop_instance_uid,
            instance.c.blob_id == blob_id,
        )
    ).one_or_none()
    if known is not None:
        return int(known.id), known.outcome in _ANOTHER_CHANCE
    result = connection.execute(
        insert(instance).values(
            series_id=series_id,
            sop_instance_uid=identity.sop_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            blob_id=blob_id,
            created_at=at,
        )
    )
    elsewhere = connection.execute(
        select(instance.c.id)
        .join(series, series.c.id == instance.c.series_id)
        .where(
            instance.c.blob_id == blob_id,
            instance.c.series_id != series_id,
            series.c.source == source,
        )
        .limit(1)
    ).first()
    return _id(result.inserted_primary_key), elsewhere is None


def _id(primary_key: object) -> int:
    assert isinstance(primary_key, (tuple, list)) or hasattr(primary_key, "__getitem__")
    return int(primary_key[0])
