"""The coarse layouts of cases in SQL. Their key is the row of the digests they were made with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, delete, insert, select

from diptych.audit.archive import Owner, owners_by, parts
from diptych.audit.schema import case, digest, layout, proxy
from diptych.audit.store import Store


def add(connection: Connection, digest_id: int, version: int, vector: NDArray[np.float32]) -> None:
    """Inside the caller's transaction. vector: (d,), rounded to f16."""
    connection.execute(
        insert(layout).values(
            digest_id=digest_id, version=version, vector=vector.astype("<f2").tobytes()
        )
    )


def owners(connection: Connection, keys: Sequence[int]) -> dict[int, Owner]:
    """Whose these layouts are; without those of an earlier revision or of a forgotten case."""
    found: dict[int, Owner] = {}
    for part in parts(sorted(set(keys))):
        rows = connection.execute(
            owners_by(digest.c.id)
            .join(digest, digest.c.case_id == case.c.id)
            .where(digest.c.id.in_(part), digest.c.current, case.c.forgotten_at.is_(None))
        )
        found.update({int(row[-1]): Owner(*row[:-1]) for row in rows})
    return found


def everything(
    store: Store, version: int, after: int = 0, batch: int = 10_000
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Every layout of a newest revision with a key above ``after``, in order of key: keys, float32
    (m, d)."""
    last = after
    while True:
        with store.read() as connection:
            rows = connection.execute(
                select(layout.c.digest_id, layout.c.vector)
                .join(digest, digest.c.id == layout.c.digest_id)
                .where(layout.c.digest_id > last, layout.c.version == version, digest.c.current)
                .order_by(layout.c.digest_id)
                .limit(batch)
            ).all()
        if not rows:
            return
        last = int(rows[-1][0])
        joined = b"".join(bytes(row[1]) for row in rows)
        vectors = np.frombuffer(joined, "<f2").astype(np.float32).reshape(len(rows), -1)
        yield [int(row[0]) for row in rows], vectors


def missing(connection: Connection, version: int, after: int, most: int) -> list[tuple[int, bytes]]:
    """Digests and proxies of newest revisions without a layout of this version."""
    made = (
        select(layout.c.digest_id)
        .where(layout.c.digest_id == digest.c.id, layout.c.version == version)
        .exists()
    )
    rows = connection.execute(
        select(digest.c.id, proxy.c.data)
        .join(proxy, proxy.c.digest_id == digest.c.id)
        .where(digest.c.id > after, digest.c.current, ~made)
        .order_by(digest.c.id)
        .limit(most)
    )
    return [(int(row[0]), bytes(row[1])) for row in rows]


def drop_others(connection: Connection, version: int) -> None:
    """Those that another version made."""
    connection.execute(delete(layout).where(layout.c.version != version))
