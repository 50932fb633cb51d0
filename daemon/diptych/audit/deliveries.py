"""Deliveries: what was screened, and what became of it. Kept in the main archive's database.

candidate ──accept──▶ owned | test-set
    └──────forget───▶ (no row; the chained events stay)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, exists, insert, select, update

from diptych.audit import chain
from diptych.audit.schema import (
    collection,
    delivery,
    instance,
    membership,
    receipt,
    revision,
    series,
)
from diptych.audit.store import Store, now

EVENT = "delivery"


class Standing(StrEnum):
    """What a delivery is to the archive: the kind of its collection."""

    CANDIDATE = "candidate"
    OWNED = "owned"
    TEST_SET = "test-set"


@dataclass(frozen=True)
class Delivery:
    """One row. Times: UTC microseconds; accepted_at None: it is a candidate."""

    id: int
    name: str
    vendor: str
    standing: Standing
    created_at: int
    accepted_at: int | None


def find(connection: Connection, name: str) -> Delivery | None:
    """By name."""
    return next((one for one in everything(connection) if one.name == name), None)


def everything(connection: Connection) -> list[Delivery]:
    """All of them, by name."""
    rows = connection.execute(
        select(delivery, collection.c.kind)
        .join(collection, collection.c.id == delivery.c.collection_id)
        .order_by(delivery.c.name)
    )
    return [
        Delivery(
            row.id, row.name, row.vendor or "", Standing(row.kind), row.created_at, row.accepted_at
        )
        for row in rows
    ]


def register(store: Store, name: str, vendor: str) -> Delivery:
    """A candidate; one that is there is given back as it is, with this vendor if one is named."""
    with store.write() as connection:
        found = find(connection, name)
        if found is None:
            connection.execute(
                insert(delivery).values(
                    collection_id=_collection(connection, Standing.CANDIDATE),
                    name=name,
                    vendor=vendor or None,
                    created_at=now(),
                )
            )
        elif vendor and vendor != found.vendor:
            connection.execute(
                update(delivery).where(delivery.c.id == found.id).values(vendor=vendor)
            )
        found = find(connection, name)
        assert found is not None
        return found


def say(connection: Connection, act: str, name: str, more: Mapping[str, Any]) -> None:
    """One chained event: screened, accepted or forgotten. ``more``: numbers and hashes only."""
    chain.append(connection, EVENT, {"act": act, "delivery": name, **more})


def accept(connection: Connection, found: Delivery, standing: Standing) -> None:
    """candidate → ``standing``; nothing of it is copied here."""
    connection.execute(
        update(delivery)
        .where(delivery.c.id == found.id)
        .values(collection_id=_collection(connection, standing), accepted_at=now())
    )
    say(connection, "accepted", found.name, {"as": standing})


def join(connection: Connection, found: Delivery, cases: list[int]) -> None:
    """These cases of the main archive are of this delivery."""
    owned = _collection(connection, Standing.OWNED)
    rows = [{"case_id": c, "collection_id": owned, "delivery_id": found.id} for c in cases]
    if rows:
        connection.execute(insert(membership), rows)


def cases(connection: Connection, found: Delivery) -> list[int]:
    """Those of the main archive that it brought."""
    rows = select(membership.c.case_id).where(membership.c.delivery_id == found.id)
    return list(connection.execute(rows.order_by(membership.c.case_id)).scalars())


def remove(store: Store, found: Delivery, more: Mapping[str, Any]) -> None:
    """Its row goes; the event that says so stays."""
    with store.write() as connection:
        connection.execute(delete(membership).where(membership.c.delivery_id == found.id))
        connection.execute(delete(delivery).where(delivery.c.id == found.id))
        say(connection, "forgotten", found.name, more)


def judged_sources(store: Store) -> set[str]:
    """In the archive of a delivery every series is a source of its own: those with a verdict."""
    with store.read() as connection:
        return set(connection.execute(select(series.c.source).where(_is_judged())).scalars())


def discard_unjudged(store: Store) -> None:
    """In the archive of a delivery: what was registered and not judged, by a run that was cut off.
    It is registered again."""
    with store.write() as connection:
        half = select(series.c.id).where(~_is_judged()).scalar_subquery()
        for table in (receipt, instance, revision):
            connection.execute(delete(table).where(table.c.series_id.in_(half)))
        connection.execute(delete(series).where(~_is_judged()))


def _is_judged() -> ColumnElement[bool]:
    return exists().where(revision.c.series_id == series.c.id, revision.c.status == "judged")


def _collection(connection: Connection, standing: Standing) -> int:
    known = connection.execute(
        select(collection.c.id).where(collection.c.kind == standing)
    ).scalar_one_or_none()
    if known is not None:
        return int(known)
    made = connection.execute(
        insert(collection).values(name=standing, kind=standing, created_at=now())
    ).inserted_primary_key
    assert made is not None
    return int(made[0])
