"""Forgetting a case: what identifies it goes, the chain of decisions stays verifiable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, delete, or_, select, update

from diptych.audit import chain
from diptych.audit.schema import (
    blob,
    case,
    digest,
    embedding,
    evidence,
    instance,
    node,
    plane,
    proxy,
    revision,
    series,
    verdict,
)
from diptych.audit.store import Store, now
from diptych.errors import DiptychError


class UnknownCase(DiptychError):
    """There is no such case, or it is forgotten already."""


@dataclass(frozen=True)
class Forgotten:
    """What went: spool files to remove now, index keys, verdicts that lost their identifiers."""

    locators: tuple[str, ...]
    keys: tuple[int, ...]
    verdicts: tuple[int, ...]


def forget(store: Store, case_id: int) -> Forgotten:
    """Remove proxy, digests, vectors, evidence and identifiers of a case, and mark its pixels.

    Its series is forgotten with it when no other case of the series is left. Index nodes that
    another case shares are handed to the earliest of those. Raises UnknownCase.
    """
    with store.write() as connection:
        row = connection.execute(
            select(case).where(case.c.id == case_id, case.c.forgotten_at.is_(None))
        ).one_or_none()
        if row is None:
            raise UnknownCase(f"case {case_id}: unknown or already forgotten")
        connection.execute(update(case).where(case.c.id == case_id).values(forgotten_at=now()))
        keys = _nodes(connection, case_id)
        _content(connection, case_id)
        last_one = (
            connection.execute(
                select(case.c.id).where(
                    case.c.series_id == row.series_id, case.c.forgotten_at.is_(None)
                )
            ).first()
            is None
        )
        verdicts = _identifiers(connection, case_id, row.series_id if last_one else None)
        locators = _series(connection, row.series_id) if last_one else []
        chain.append(connection, "forget", {"case": case_id, **verdicts})
    return Forgotten(tuple(locators), tuple(keys), tuple(verdicts["identifiers"]))


def _nodes(connection: Connection, case_id: int) -> list[int]:
    """Hand shared nodes to the earliest other case that uses them; delete the rest."""
    owned = {
        (row.fingerprint_id, row.key)
        for row in connection.execute(
            select(node.c.fingerprint_id, node.c.key).where(node.c.case_id == case_id)
        )
    }
    heirs: dict[tuple[int, int], int] = {}
    for row in connection.execute(
        select(embedding).where(embedding.c.shared, embedding.c.case_id != case_id)
    ):
        for key in np.frombuffer(row.slice_keys, "<u8").tolist():
            known = heirs.get((row.fingerprint_id, key))
            if (row.fingerprint_id, key) in owned and (known is None or row.case_id < known):
                heirs[(row.fingerprint_id, key)] = row.case_id
    for (fingerprint_id, key), heir in heirs.items():
        connection.execute(
            update(node)
            .where(node.c.fingerprint_id == fingerprint_id, node.c.key == key)
            .values(case_id=heir)
        )
    connection.execute(delete(node).where(node.c.case_id == case_id))
    return sorted(key for fingerprint_id, key in owned - set(heirs))


def _content(connection: Connection, case_id: int) -> None:
    ids = list(connection.execute(select(digest.c.id).where(digest.c.case_id == case_id)).scalars())
    for table in (proxy, plane):
        connection.execute(delete(table).where(table.c.digest_id.in_(ids)))
    connection.execute(delete(digest).where(digest.c.case_id == case_id))
    connection.execute(delete(embedding).where(embedding.c.case_id == case_id))


def _identifiers(
    connection: Connection, case_id: int, series_id: int | None
) -> dict[str, list[int]]:
    """Verdicts about the case lose its names, verdicts that matched it lose the match's name.

    Returns, per commitment of the event payload, the verdicts whose salt is gone.
    """
    own = verdict.c.case_id == case_id
    if series_id is not None:
        own = or_(own, verdict.c.series_id == series_id)
    about = list(connection.execute(select(verdict.c.id).where(own)).scalars())
    matched = list(
        connection.execute(
            select(verdict.c.id).where(or_(own, verdict.c.matched_case_id == case_id))
        ).scalars()
    )
    connection.execute(delete(evidence).where(evidence.c.verdict_id.in_(about)))
    connection.execute(
        update(verdict)
        .where(verdict.c.id.in_(about))
        .values(study_instance_uid=None, series_instance_uid=None, salt=None)
    )
    connection.execute(
        update(verdict)
        .where(verdict.c.id.in_(matched))
        .values(matched_series_instance_uid=None, matched_salt=None)
    )
    return {"identifiers": sorted(about), "matched_identifiers": sorted(matched)}


def _series(connection: Connection, series_id: int) -> list[str]:
    """The series' own names, and the pixels that no other series holds."""
    shared = select(instance.c.blob_id).where(instance.c.series_id != series_id).scalar_subquery()
    blobs = connection.execute(
        select(blob.c.id, blob.c.locator)
        .join(instance, instance.c.blob_id == blob.c.id)
        .where(
            instance.c.series_id == series_id,
            blob.c.purged_at.is_(None),
            blob.c.id.not_in(shared),
        )
        .distinct()
    ).all()
    for row in blobs:
        connection.execute(update(blob).where(blob.c.id == row.id).values(purged_at=now()))
    for row in connection.execute(select(instance.c.id).where(instance.c.series_id == series_id)):
        connection.execute(
            update(instance)
            .where(instance.c.id == row.id)
            .values(
                sop_instance_uid=f"forgotten.{row.id}",
                pixel_hash=None,
                identity_hash=None,
                private_hash=None,
                rest_hash=None,
            )
        )
    connection.execute(
        update(series)
        .where(series.c.id == series_id)
        .values(
            study_instance_uid=f"forgotten.{series_id}",
            series_instance_uid=f"forgotten.{series_id}",
        )
    )
    connection.execute(
        update(revision)
        .where(revision.c.series_id == series_id, revision.c.status != "judged")
        .values(status="judged", judged_at=now())
    )
    return [str(row.locator) for row in blobs]
