"""What the archive knows of earlier cases: digests, index nodes and who owns them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, insert, select

from diptych.audit import schema
from diptych.audit.schema import (
    case,
    digest,
    embedding,
    fingerprint,
    node,
    plane,
    series,
    site,
)
from diptych.audit.store import Store, now

# SQLite's default limit on bound variables is far above; PostgreSQL plans long lists slowly.
_LIST = 500


@dataclass(frozen=True)
class Owner:
    """The case that owns a node, and whose series it is."""

    case_id: int
    series_id: int
    source: str
    study_instance_uid: str
    series_instance_uid: str


def fingerprint_id(store: Store, value: str, model: str, dimension: int) -> int:
    """The row of a fingerprint (hex SHA-256), made at its first use."""
    with store.write() as connection:
        row = connection.execute(
            select(fingerprint.c.id).where(fingerprint.c.fingerprint == value)
        ).scalar_one_or_none()
        if row is not None:
            return int(row)
        result = connection.execute(
            insert(fingerprint).values(
                fingerprint=value, model=model, dimension=dimension, next_key=1, created_at=now()
            )
        )
        assert result.inserted_primary_key is not None
        return int(result.inserted_primary_key[0])


def known_fingerprint(connection: Connection, value: str) -> int | None:
    """The row of a fingerprint (hex SHA-256); None: it was never in use."""
    row = connection.execute(select(fingerprint.c.id).where(fingerprint.c.fingerprint == value))
    return row.scalar_one_or_none()


def next_key(connection: Connection, fingerprint_id: int) -> int:
    """The index watermark: every node has a smaller key."""
    return int(
        connection.execute(
            select(fingerprint.c.next_key).where(fingerprint.c.id == fingerprint_id)
        ).scalar_one()
    )


def earliest_with_digest(
    connection: Connection, case_digest: bytes, digest_version: int, without_series: int
) -> Owner | None:
    """The earliest case of another series whose newest revision has this case digest.

    Constant planes are no evidence (DESIGN: Definitions): a case of nothing else is never found.
    """
    says_something = (
        select(plane.c.ordinal)
        .where(plane.c.digest_id == digest.c.id, plane.c.constant.is_(False))
        .exists()
    )
    row = connection.execute(
        owners_by()
        .join(digest, digest.c.case_id == case.c.id)
        .where(
            digest.c.case_digest == case_digest,
            digest.c.digest_version == digest_version,
            digest.c.current,
            case.c.series_id != without_series,
            case.c.forgotten_at.is_(None),
            says_something,
        )
        .order_by(case.c.id)
        .limit(1)
    ).one_or_none()
    return Owner(*row) if row else None


def owners(connection: Connection, fingerprint_id: int, keys: Sequence[int]) -> dict[int, Owner]:
    """Who owns each of these nodes; keys that are no node are left out."""
    found: dict[int, Owner] = {}
    for part in parts(sorted(set(keys))):
        rows = connection.execute(
            owners_by(node.c.key)
            .join(node, node.c.case_id == case.c.id)
            .where(node.c.fingerprint_id == fingerprint_id, node.c.key.in_(part))
        )
        found.update({int(row[-1]): Owner(*row[:-1]) for row in rows})
    return found


def owner_of_case(connection: Connection, case_id: int) -> Owner | None:
    """The case and its series, by id."""
    row = connection.execute(owners_by().where(case.c.id == case_id)).one_or_none()
    return Owner(*row) if row else None


def nodes_by_digest(
    connection: Connection, fingerprint_id: int, prepared_digests: Sequence[bytes]
) -> dict[bytes, int]:
    """Digest of a prepared slice → key of the node that already stands for it."""
    found: dict[bytes, int] = {}
    for part in parts(list(set(prepared_digests))):
        rows = connection.execute(
            select(node.c.prepared_digest, node.c.key).where(
                node.c.fingerprint_id == fingerprint_id, node.c.prepared_digest.in_(part)
            )
        )
        found.update({bytes(row[0]): int(row[1]) for row in rows})
    return found


def all_present(connection: Connection, fingerprint_id: int, keys: Sequence[int]) -> bool:
    """Whether every one of these keys is a node."""
    wanted = sorted(set(keys))
    found = sum(
        connection.execute(
            select(func.count()).where(
                node.c.fingerprint_id == fingerprint_id, node.c.key.in_(part)
            )
        ).scalar_one()
        for part in parts(wanted)
    )
    return found == len(wanted)


def is_forgotten(connection: Connection, case_id: int) -> bool:
    """Whether this case was forgotten (or never was)."""
    return case_id not in present(connection, [case_id])


def present(connection: Connection, cases: Sequence[int]) -> set[int]:
    """Those of these few that are there and not forgotten."""
    rows = select(case.c.id).where(case.c.id.in_(cases), case.c.forgotten_at.is_(None))
    return set(connection.execute(rows).scalars())


def proxy(connection: Connection, case_id: int) -> bytes | None:
    """The verification proxy of a case's newest revision."""
    found = connection.execute(
        select(schema.proxy.c.data)
        .join_from(schema.proxy, digest, digest.c.id == schema.proxy.c.digest_id)
        .where(digest.c.case_id == case_id)
        .order_by(digest.c.id.desc())
        .limit(1)
    ).scalar_one_or_none()
    return None if found is None else bytes(found)


def slice_keys(connection: Connection, fingerprint_id: int, case_id: int) -> list[int]:
    """The nodes of the informative slices of a case's newest revision, in slice order."""
    row = connection.execute(
        select(embedding.c.slice_keys)
        .where(embedding.c.fingerprint_id == fingerprint_id, embedding.c.case_id == case_id)
        .order_by(embedding.c.revision_id.desc())
        .limit(1)
    ).scalar_one_or_none()
    return [] if row is None else [int(key) for key in np.frombuffer(row, "<u8")]


def held_keys(connection: Connection, fingerprint_id: int) -> dict[int, NDArray[np.uint64]]:
    """Every case that is not forgotten → the nodes of its newest revision's informative slices."""
    rows = connection.execute(
        select(embedding.c.case_id, embedding.c.slice_keys)
        .join(case, case.c.id == embedding.c.case_id)
        .where(embedding.c.fingerprint_id == fingerprint_id, case.c.forgotten_at.is_(None))
        .order_by(embedding.c.revision_id)
    )
    newest = {int(row[0]): np.unique(np.frombuffer(row[1], "<u8")) for row in rows}
    return {case_id: keys.astype(np.uint64) for case_id, keys in newest.items() if len(keys)}


def cases_of_series(connection: Connection, case_id: int) -> list[int]:
    """All cases of the series that a case is of, itself among them; none: it is unknown."""
    own = select(case.c.series_id).where(case.c.id == case_id).scalar_subquery()
    return list(
        connection.execute(
            select(case.c.id).where(case.c.series_id == own).order_by(case.c.id)
        ).scalars()
    )


def digest_of(connection: Connection, case_id: int, digest_version: int) -> bytes | None:
    """The case digest of its newest revision; None where there is none of this version."""
    found = connection.execute(
        select(digest.c.case_digest).where(
            digest.c.case_id == case_id,
            digest.c.digest_version == digest_version,
            digest.c.current,
        )
    ).scalar_one_or_none()
    return None if found is None else bytes(found)


def with_digest(connection: Connection, case_digest: bytes | None, digest_version: int) -> set[int]:
    """The cases whose newest revision has this digest."""
    return set(
        connection.execute(
            select(digest.c.case_id).where(
                digest.c.case_digest == case_digest,
                digest.c.digest_version == digest_version,
                digest.c.current,
            )
        ).scalars()
    )


def vectors(
    connection: Connection, fingerprint_id: int, keys: Sequence[int], dimension: int
) -> NDArray[np.float32]:
    """The vectors of these nodes in the order of ``keys``: float32 (len(keys), dimension)."""
    found: dict[int, bytes] = {}
    for part in parts(sorted(set(keys))):
        rows = connection.execute(
            select(node.c.key, node.c.vector).where(
                node.c.fingerprint_id == fingerprint_id, node.c.key.in_(part)
            )
        )
        found.update({int(row[0]): bytes(row[1]) for row in rows})
    joined = b"".join(found[int(key)] for key in keys)
    return np.frombuffer(joined, "<f2").astype(np.float32).reshape(len(keys), dimension)


def all_nodes(
    store: Store, fingerprint_id: int, dimension: int, from_key: int = 0, batch: int = 10_000
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.float32]]]:
    """Every node from ``from_key`` on in key order: u64 (m,), float32 (m, dimension) batches."""
    while True:
        with store.read() as connection:
            rows = connection.execute(
                select(node.c.key, node.c.vector)
                .where(node.c.fingerprint_id == fingerprint_id, node.c.key >= from_key)
                .order_by(node.c.key)
                .limit(batch)
            ).all()
        if not rows:
            return
        keys = np.array([row[0] for row in rows], np.uint64)
        joined = b"".join(bytes(row[1]) for row in rows)
        values = np.frombuffer(joined, "<f2").astype(np.float32).reshape(len(rows), dimension)
        yield keys, values
        from_key = int(keys[-1]) + 1


def node_keys(connection: Connection, fingerprint_id: int) -> set[int]:
    """The keys an index of this fingerprint must hold, no more and no fewer."""
    return set(
        connection.execute(
            select(node.c.key).where(node.c.fingerprint_id == fingerprint_id)
        ).scalars()
    )


def hmac_key(connection: Connection) -> bytes:
    """The site's key for patient identifiers."""
    return bytes(connection.execute(select(site.c.hmac_key)).scalar_one())


def parts(values: list) -> Iterator[list]:  # type: ignore[type-arg]
    """Pieces of a list that a statement may bind."""
    for start in range(0, len(values), _LIST):
        yield values[start : start + _LIST]


def owners_by(*more: object):  # type: ignore[no-untyped-def]
    return select(
        case.c.id,
        case.c.series_id,
        series.c.source,
        series.c.study_instance_uid,
        series.c.series_instance_uid,
        *more,
    ).join_from(case, series, series.c.id == case.c.series_id)
