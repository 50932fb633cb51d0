"""The files of the spool as the database knows them: kept, lost, and purged after the verdict."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, or_, select, update

from diptych.audit import commitments, counters, forwards
from diptych.audit.schema import blob, forward, instance, revision, series
from diptych.audit.store import Store, now

# Parameters of one statement.
_AT_ONCE = 500
# Before the locator of a file that is gone although nobody removed it: should it be there again
# (its disk was not mounted), it is filed anew and not taken for one that is to be removed.
_LOST = "lost/"


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
                .values(purged_at=now(), locator=_LOST + locator)
            )


def kept(store: Store, locators: Sequence[str]) -> set[str]:
    """Those of which a row says that the file is kept."""
    with store.read() as connection:
        return {
            locator
            for begin in range(0, len(locators), _AT_ONCE)
            for locator in connection.execute(
                select(blob.c.locator).where(
                    blob.c.locator.in_(locators[begin : begin + _AT_ONCE]),
                    blob.c.purged_at.is_(None),
                )
            ).scalars()
        }


def was_purged(store: Store, locator: str) -> bool:
    """Whether this file's row says that it is purged, and only the removal itself was cut off; or
    that it was forgotten while it was lost."""
    removed = and_(blob.c.locator == locator, blob.c.purged_at.is_not(None))
    forgotten = and_(blob.c.locator == _LOST + locator, blob.c.sha256.is_(None))
    with store.read() as connection:
        found = connection.execute(select(blob.c.id).where(or_(removed, forgotten)))
        return found.first() is not None


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
