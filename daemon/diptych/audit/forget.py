"""Forgetting a case: what identifies it goes, the chain of decisions stays verifiable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, delete, or_, select, update

from diptych.audit import chain, commitments
from diptych.audit.schema import (
    blob,
    case,
    digest,
    embedding,
    evidence,
    forward,
    instance,
    layout,
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


class Promised(DiptychError):
    """A modality may have deleted its originals because these pixels are kept here."""


@dataclass(frozen=True)
class Forgotten:
    """What went: the cases of the series, spool files to remove now, index keys, and the verdicts
    that lost their identifiers."""

    cases: tuple[int, ...]
    locators: tuple[str, ...]
    keys: tuple[int, ...]
    verdicts: tuple[int, ...]


def forget(store: Store, case_id: int, promised_too: bool = False) -> Forgotten:
    """Remove proxy, digests, vectors, evidence and identifiers of a case, and mark its pixels.

    Pixels belong to a series, and one file may hold planes of several stacks: the whole series
    goes, with every case of it. Index nodes that cases of other series share are handed to the
    earliest of those; bytes that another series holds stay with it. What is left is that something
    was received and decided.

    Instances that we have committed to keep (storage commitment), or are asked about now, go only
    where ``promised_too``; the event then says how many. Raises UnknownCase, Promised.
    """
    with store.write() as connection:
        series_id = connection.execute(
            select(case.c.series_id).where(case.c.id == case_id, case.c.forgotten_at.is_(None))
        ).scalar_one_or_none()
        if series_id is None:
            raise UnknownCase(f"case {case_id}: unknown or already forgotten")
        promises = commitments.promises(connection, series_id)
        if promises and not promised_too:
            raise Promised(
                f"case {case_id}: {sum(promises.values())} of its instances were committed to "
                f"{', '.join(sorted(promises))} (storage commitment), or are asked about now: the "
                "originals may be deleted there, and these be the last copies"
            )
        cases = sorted(
            connection.execute(select(case.c.id).where(case.c.series_id == series_id)).scalars()
        )
        connection.execute(
            update(case)
            .where(case.c.series_id == series_id)
            .values(forgotten_at=now(), modality=None, body_part=None)
        )
        keys = _nodes(connection, cases)
        _content(connection, cases)
        verdicts = _identifiers(connection, cases, series_id)
        locators = _series(connection, series_id)
        said = {"cases": cases, "series": series_id, **verdicts}
        if promises:
            said["promised"] = sum(promises.values())
        chain.append(connection, "forget", said)
    store.scrub()
    return Forgotten(tuple(cases), tuple(locators), tuple(keys), tuple(verdicts["identifiers"]))


def _nodes(connection: Connection, cases: Sequence[int]) -> list[int]:
    """Hand shared nodes to the earliest other case that uses them; delete the rest."""
    owned = {
        (row.fingerprint_id, row.key)
        for row in connection.execute(
            select(node.c.fingerprint_id, node.c.key).where(node.c.case_id.in_(cases))
        )
    }
    heirs: dict[tuple[int, int], int] = {}
    for row in connection.execute(
        select(embedding).where(embedding.c.shared, embedding.c.case_id.not_in(cases))
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
    connection.execute(delete(node).where(node.c.case_id.in_(cases)))
    return sorted(key for fingerprint_id, key in owned - set(heirs))


def _content(connection: Connection, cases: Sequence[int]) -> None:
    ids = select(digest.c.id).where(digest.c.case_id.in_(cases)).scalar_subquery()
    for table in (layout, proxy, plane):
        connection.execute(delete(table).where(table.c.digest_id.in_(ids)))
    connection.execute(delete(digest).where(digest.c.case_id.in_(cases)))
    connection.execute(delete(embedding).where(embedding.c.case_id.in_(cases)))


def _identifiers(
    connection: Connection, cases: Sequence[int], series_id: int
) -> dict[str, list[int]]:
    """Verdicts about the series lose its names, verdicts that matched it lose the match's name.

    Returns, per commitment of the event payload, the verdicts whose salt is gone.
    """
    own = verdict.c.series_id == series_id
    about = list(connection.execute(select(verdict.c.id).where(own)).scalars())
    matched = list(
        connection.execute(
            select(verdict.c.id).where(or_(own, verdict.c.matched_case_id.in_(cases)))
        ).scalars()
    )
    connection.execute(delete(evidence).where(evidence.c.verdict_id.in_(about)))
    connection.execute(
        update(verdict)
        .where(verdict.c.id.in_(about))
        .values(study_instance_uid=None, series_instance_uid=None, case_digest=None, salt=None)
    )
    connection.execute(
        update(verdict)
        .where(verdict.c.id.in_(matched))
        .values(matched_series_instance_uid=None, matched_salt=None)
    )
    return {"identifiers": sorted(about), "matched_identifiers": sorted(matched)}


def _series(connection: Connection, series_id: int) -> list[str]:
    """The series' own names, and the pixels that no other series holds."""
    own = select(instance.c.blob_id).where(instance.c.series_id == series_id)
    others = select(instance.c.id).where(
        instance.c.series_id != series_id, instance.c.blob_id == blob.c.id
    )
    blobs = connection.execute(
        select(blob.c.id, blob.c.locator, blob.c.purged_at).where(
            blob.c.id.in_(own.scalar_subquery()), ~others.exists()
        )
    ).all()
    ids = [row.id for row in blobs]
    # What is forgotten here is owed to nobody, and its name stands in no request that is over.
    commitments.forget(connection, series_id)
    connection.execute(delete(forward).where(forward.c.series_id == series_id))
    connection.execute(
        update(instance)
        .where(instance.c.series_id == series_id)
        .values(
            sop_instance_uid=None,
            blob_id=None,
            pixel_hash=None,
            identity_hash=None,
            private_hash=None,
            rest_hash=None,
        )
    )
    connection.execute(update(blob).where(blob.c.id.in_(ids)).values(sha256=None))
    connection.execute(
        update(blob).where(blob.c.id.in_(ids), blob.c.purged_at.is_(None)).values(purged_at=now())
    )
    connection.execute(
        update(series)
        .where(series.c.id == series_id)
        .values(
            study_instance_uid=None,
            series_instance_uid=None,
            receiving=False,
            new_content=False,
        )
    )
    connection.execute(
        update(revision)
        .where(revision.c.series_id == series_id, revision.c.status != "judged")
        .values(status="judged", judged_at=now(), lease_owner=None, lease_until=None)
    )
    return [str(row.locator) for row in blobs if row.purged_at is None]
