"""Receipts: what was acknowledged, from whom, and which series it belongs to.

``record`` is the last step before 0x0000: when it returns, the instances are known for good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table, bindparam, case, insert, or_, select, update

from diptych.audit import counters, forwards
from diptych.audit.schema import (
    association,
    blob,
    instance,
    receipt,
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


# Parameters of one statement.
_AT_ONCE = 500


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
class Opening:
    """An association that delivers its first instance; ``name``: none has had it before."""

    name: str
    acceptor: str
    source: str
    calling_ae_title: str
    address: str


@dataclass(frozen=True)
class Arrival:
    """One instance that was received. ``association``: its row, None where nobody waits for an
    answer; ``destinations``: where it is to be sent on to."""

    source: str
    association: Opening | int | None
    identity: Identity
    stored: Stored
    destinations: Sequence[str] = ()


@dataclass(frozen=True)
class Recorded:
    """What the receipt changed. ``bytes_known``: the bytes were kept before, the file just
    written is not referenced; ``new_content``: no series of this source held them yet."""

    receipt_id: int
    association_id: int | None
    bytes_known: bool
    new_content: bool


@dataclass(frozen=True)
class _Bytes:
    """``known``: kept already, at another locator; ``is_new``: the row is, so nothing names it."""

    blob_id: int
    known: bool
    is_new: bool


def close_associations(store: Store, association_ids: Sequence[int]) -> None:
    """These associations ended; their series may be complete."""
    with store.write() as connection:
        at = now()
        connection.execute(_CLOSE, [{"of": of, "at": at} for of in association_ids])


def close_associations_of(store: Store, acceptor: str | None) -> None:
    """Close what a dead acceptor left open (None: every acceptor)."""
    statement = update(association).where(association.c.closed_at.is_(None)).values(closed_at=now())
    if acceptor is not None:
        statement = statement.where(association.c.acceptor == acceptor)
    with store.write() as connection:
        connection.execute(statement)


def record(
    store: Store, arrivals: Sequence[Arrival], exists: Callable[[str], bool] = lambda _: True
) -> list[Recorded]:
    """Commit the receipts of instances, as if they came one after the other; raises StoreError and
    then none is kept.

    ``exists``: whether the file at a locator is there; bytes that are known but gone are replaced.
    """
    with store.write() as connection:
        at = now()  # not before the lock is held: receipts of a series must not run backwards
        association_ids = [_association(connection, a.association, at) for a in arrivals]
        series_ids = _series(connection, arrivals, at)
        blobs = _blobs(connection, arrivals, at, exists)
        instances = _instances(connection, arrivals, series_ids, blobs, at)
        receipt_ids = _insert(
            connection,
            receipt,
            [
                {
                    "association_id": association_id,
                    "series_id": series_id,
                    "instance_id": instance_id,
                    "received_at": at,
                }
                for association_id, series_id, (instance_id, _) in zip(
                    association_ids, series_ids, instances, strict=True
                )
            ],
        )
        recorded = []
        for arrival, association_id, series_id, of, (instance_id, is_new), receipt_id in zip(
            arrivals, association_ids, series_ids, blobs, instances, receipt_ids, strict=True
        ):
            forwards.owe(connection, arrival.destinations, series_id, instance_id, at)
            is_new = is_new or (not of.known and _unjudged_for_loss(connection, series_id))
            recorded.append(Recorded(receipt_id, association_id, of.known, is_new))
        new = {s for r, s in zip(recorded, series_ids, strict=True) if r.new_content}
        touched = [{"of": s, "at": at, "new": s in new} for s in dict.fromkeys(series_ids)]
        connection.execute(_TOUCH, touched)
        for source in {arrival.source for arrival in arrivals}:
            sizes = [arrival.stored.bytes for arrival in arrivals if arrival.source == source]
            labels = {"source": source}
            counters.add(
                connection,
                [
                    ("diptych_receipts_total", labels, len(sizes)),
                    ("diptych_received_bytes_total", labels, sum(sizes)),
                ],
            )
    return recorded


def count(store: Store, name: str, labels: dict[str, str], by: int = 1) -> None:
    """Count something that happened at the edge and has no row of its own."""
    with store.write() as connection:
        counters.increment(connection, name, labels, by)


def _association(connection: Connection, said: Opening | int | None, at: int) -> int | None:
    if not isinstance(said, Opening):
        return said
    # A commit may be done although it reported an error.
    known = connection.execute(_ASSOCIATION, {"name": said.name}).scalar_one_or_none()
    if known is not None:
        return int(known)
    result = connection.execute(
        insert(association).values(
            name=said.name,
            acceptor=said.acceptor,
            source=said.source,
            calling_ae_title=said.calling_ae_title[:16],
            address=said.address[:45],
            opened_at=at,
        )
    )
    return _id(result.inserted_primary_key)


def _series(connection: Connection, arrivals: Sequence[Arrival], at: int) -> list[int]:
    ids: dict[tuple[str, str, str], int] = {}
    for arrival in arrivals:
        said = arrival.identity
        key = arrival.source, said.study_instance_uid, said.series_instance_uid
        if key not in ids:
            ids[key] = _one_series(connection, *key, said.synthetic, at)
    return [
        ids[a.source, a.identity.study_instance_uid, a.identity.series_instance_uid]
        for a in arrivals
    ]


def _one_series(
    connection: Connection, source: str, study: str, uid: str, synthetic: bool, at: int
) -> int:
    key = {"source": source, "study": study, "uid": uid}
    known = connection.execute(_SERIES, key).scalar_one_or_none()
    if known is not None:
        return int(known)
    result = connection.execute(
        insert(series).values(
            source=source,
            study_instance_uid=study,
            series_instance_uid=uid,
            synthetic=synthetic,
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


def _blobs(
    connection: Connection, arrivals: Sequence[Arrival], at: int, exists: Callable[[str], bool]
) -> list[_Bytes]:
    rows = connection.execute(_BLOBS, {"sha256": list({a.stored.sha256 for a in arrivals})})
    # None: not kept, or not any more.
    known: dict[tuple[str, str], tuple[int, str | None]] = {
        (row.sha256, row.transfer_syntax_uid): (
            int(row.id),
            row.locator if row.purged_at is None and exists(row.locator) else None,
        )
        for row in rows
    }
    new = {
        key: arrival.stored
        for arrival in reversed(arrivals)
        if (key := (arrival.stored.sha256, arrival.stored.transfer_syntax_uid)) not in known
    }
    inserted = _insert(
        connection,
        blob,
        [
            {
                "sha256": stored.sha256,
                "transfer_syntax_uid": stored.transfer_syntax_uid,
                "bytes": stored.bytes,
                "store": stored.store,
                "locator": stored.locator,
                "created_at": at,
            }
            for stored in new.values()
        ],
    )
    known |= {
        key: (blob_id, stored.locator)
        for (key, stored), blob_id in zip(new.items(), inserted, strict=True)
    }
    found = []
    for arrival in arrivals:
        stored = arrival.stored
        key = stored.sha256, stored.transfer_syntax_uid
        blob_id, locator = known[key]
        if locator is None:
            connection.execute(
                update(blob)
                .where(blob.c.id == blob_id)
                .values(locator=stored.locator, store=stored.store, purged_at=None, created_at=at)
            )
            known[key] = blob_id, locator = blob_id, stored.locator
        found.append(_Bytes(blob_id, locator != stored.locator, key in new))
    return found


def _instances(
    connection: Connection,
    arrivals: Sequence[Arrival],
    series_ids: Sequence[int],
    blobs: Sequence[_Bytes],
    at: int,
) -> list[tuple[int, bool]]:
    """For each its row, and whether the content is new from this source. Only a data set without a
    SeriesInstanceUID can be old in a series that is new: each association makes up its own."""
    keys = [
        (series_id, arrival.identity.sop_instance_uid, of.blob_id)
        for arrival, series_id, of in zip(arrivals, series_ids, blobs, strict=True)
    ]
    old = list({of.blob_id for of in blobs if not of.is_new})
    rows = connection.execute(_INSTANCES, {"blobs": old}).all() if old else []
    ids = {(row.series_id, row.sop_instance_uid, row.blob_id): int(row.id) for row in rows}
    again = {int(row.id) for row in rows if row.outcome in _ANOTHER_CHANCE}
    # In which series a source has sent each content.
    sent = {(row.source, row.blob_id, row.series_id) for row in rows}
    new = {
        key: arrival
        for key, arrival in zip(reversed(keys), reversed(arrivals), strict=True)
        if key not in ids
    }
    inserted = _insert(
        connection,
        instance,
        [
            {
                "series_id": series_id,
                "sop_instance_uid": sop_instance_uid,
                "sop_class_uid": arrival.identity.sop_class_uid,
                "blob_id": blob_id,
                "created_at": at,
            }
            for (series_id, sop_instance_uid, blob_id), arrival in new.items()
        ],
    )
    ids |= dict(zip(new, inserted, strict=True))
    found = []
    for key, arrival in zip(keys, arrivals, strict=True):
        series_id, _, blob_id = key
        if key in new:
            del new[key]
            elsewhere = any(
                source == arrival.source and content == blob_id and of != series_id
                for source, content, of in sent
            )
            sent.add((arrival.source, blob_id, series_id))
            found.append((ids[key], not elsewhere))
        else:
            found.append((ids[key], ids[key] in again))
    return found


def _insert(connection: Connection, table: Table, rows: list[dict[str, object]]) -> list[int]:
    """The new rows' ids, in their order."""
    if not rows:
        return []
    return [int(row) for row in connection.execute(_INSERTS[table.name], rows).scalars()]


def _id(primary_key: object) -> int:
    assert isinstance(primary_key, (tuple, list)) or hasattr(primary_key, "__getitem__")
    return int(primary_key[0])


# Made once: most of what a small statement costs is making it.
_ASSOCIATION = select(association.c.id).where(association.c.name == bindparam("name"))
_SERIES = select(series.c.id).where(
    series.c.source == bindparam("source"),
    series.c.study_instance_uid == bindparam("study"),
    series.c.series_instance_uid == bindparam("uid"),
)
_BLOBS = select(
    blob.c.sha256, blob.c.transfer_syntax_uid, blob.c.id, blob.c.purged_at, blob.c.locator
).where(blob.c.sha256.in_(bindparam("sha256", expanding=True)))
_INSTANCES = (
    select(
        instance.c.series_id,
        instance.c.sop_instance_uid,
        instance.c.blob_id,
        instance.c.id,
        instance.c.outcome,
        series.c.source,
    )
    .join(series, series.c.id == instance.c.series_id)
    .where(instance.c.blob_id.in_(bindparam("blobs", expanding=True)))
)
_INSERTS = {
    table.name: insert(table).returning(table.c.id, sort_by_parameter_order=True)
    for table in (blob, instance, receipt)
}
_CLOSE = (
    update(association).where(association.c.id == bindparam("of")).values(closed_at=bindparam("at"))
)
_TOUCH = (
    update(series)
    .where(series.c.id == bindparam("of"))
    .values(
        last_received_at=bindparam("at"),
        receiving=True,
        receiving_since=case((series.c.receiving, series.c.receiving_since), else_=bindparam("at")),
        new_content=or_(series.c.new_content, bindparam("new")),
    )
)
