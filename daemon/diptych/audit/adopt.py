"""A case of a delivery's archive → a case of the main archive, as if it had been judged there.

Nothing was received, so nothing is counted and no receipt is written; pixels stay where they are.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, Row, insert, select

from diptych.audit import archive, verdicts
from diptych.audit.schema import (
    case,
    digest,
    evidence,
    fingerprint,
    instance,
    layout,
    node,
    plane,
    proxy,
    revision,
    series,
    verdict,
)
from diptych.audit.store import now
from diptych.audit.verdicts import CaseVerdict, Digests, Judged, Nodes
from diptych.audit.work import Work

OWNED = "owned"
UNIQUE = "unique"
# Characters of a source.
_SOURCE = 32
NO_RELATION = ("not-screenable", "not-an-image")


def series_of(theirs: Connection) -> Sequence[Row[Any]]:
    """The judged series of a delivery's archive that something can be recognised by, in its order;
    of the others nothing would be there to be forgotten."""
    is_judged = select(revision.c.series_id).where(revision.c.status == "judged")
    return theirs.execute(
        select(series)
        .where(
            series.c.id.in_(is_judged.scalar_subquery()),
            series.c.id.in_(select(case.c.series_id).scalar_subquery()),
        )
        .order_by(series.c.id)
    ).all()


def sources(theirs: Connection, rows: Sequence[Row[Any]], name: str) -> dict[int, str]:
    """Their series → its source in ours: ``name``, and ``name~2`` and so on of other series that
    have the same UIDs. Without those of the same files, of which one is enough."""
    shared = Counter(map(_uids, rows))
    seen: dict[tuple[str, str], list[frozenset[int]]] = defaultdict(list)
    found = {}
    for row in rows:
        files: frozenset[int] = frozenset()
        if shared[_uids(row)] > 1:
            contents = select(instance.c.blob_id).where(instance.c.series_id == row.id)
            files = frozenset(theirs.execute(contents).scalars())
        known = seen[_uids(row)]
        if files not in known:
            known.append(files)
            suffix = f"~{len(known)}" if len(known) > 1 else ""
            found[row.id] = name[: _SOURCE - len(suffix)] + suffix
    return found


def _uids(one: Row[Any]) -> tuple[str, str]:
    return one.study_instance_uid, one.series_instance_uid


def adopt(
    ours: Connection,
    theirs: Connection,
    one: Row[Any],
    source: str,
    our_fingerprint: int,
    their_fingerprint: int,
) -> list[int]:
    """Write the series ``one`` of their archive into ours; returns its cases, none when it is here
    already (a series of the same ``source`` and UIDs)."""
    uids = _uids(one)
    key = series.c.source == source
    for column, value in zip(
        (series.c.study_instance_uid, series.c.series_instance_uid), uids, strict=True
    ):
        key &= column == value
    if ours.execute(select(series.c.id).where(key)).first() is not None:
        return []
    series_id, revision_id = _series(ours, theirs, one, source)
    work = Work(
        revision_id=revision_id,
        number=0,
        series_id=series_id,
        source=source,
        study_instance_uid=uids[0],
        series_instance_uid=uids[1],
        last_received_at=one.last_received_at,
        sealed_at=one.last_received_at,
        attempts=1,
        instances=(),
    )
    adopted = []
    for row in _verdicts(theirs, one.id):
        item = _case(ours, theirs, row, their_fingerprint)
        judged = Judged(work, [item], (), row.seconds, {})
        (_, case_id), *_ = verdicts.record_case(ours, judged, item, our_fingerprint)
        if case_id is not None:
            adopted.append(case_id)
    return adopted


def _series(ours: Connection, theirs: Connection, one: Row[Any], source: str) -> tuple[int, int]:
    at = now()
    values = {
        **{name: value for name, value in one._mapping.items() if name != "id"},
        "source": source,
        "receiving": False,
        "new_content": False,
        "revisions": 1,
        "resends": 0,
    }
    series_id = _id(ours.execute(insert(series).values(values)).inserted_primary_key)
    rows = [
        {
            **{name: value for name, value in row._mapping.items() if name != "id"},
            "series_id": series_id,
            "blob_id": None,
            "created_at": at,
        }
        for row in theirs.execute(
            select(instance).where(instance.c.series_id == one.id).order_by(instance.c.id)
        )
    ]
    last = 0
    for row in rows:
        last = _id(ours.execute(insert(instance).values(row)).inserted_primary_key)
    made = ours.execute(
        insert(revision).values(
            series_id=series_id,
            number=0,
            status="judged",
            sealed_at=at,
            last_received_at=one.last_received_at,
            last_instance_id=last,
            attempts=1,
            judged_at=at,
        )
    )
    return series_id, _id(made.inserted_primary_key)


def _verdicts(theirs: Connection, series_id: int) -> Sequence[Row[Any]]:
    return theirs.execute(
        select(
            verdict,
            case.c.signature,
            case.c.body_part,
            evidence.c.data,
            digest.c.id.label("digest_id"),
            digest.c.digest_version,
            digest.c.case_digest.label("digest_bytes"),
            digest.c.patient_hmac,
        )
        .outerjoin(case, case.c.id == verdict.c.case_id)
        .outerjoin(evidence, evidence.c.verdict_id == verdict.c.id)
        .outerjoin(digest, (digest.c.case_id == verdict.c.case_id) & digest.c.current)
        .where(verdict.c.series_id == series_id)
        .order_by(verdict.c.id)
    ).all()


def _case(
    ours: Connection, theirs: Connection, row: Row[Any], their_fingerprint: int
) -> CaseVerdict:
    """What it is to what is owned becomes its verdict; of a match that was forgotten since, nothing
    is left to say."""
    said = json.loads(zlib.decompress(row.data)) if row.data else {}
    owned = said.get("beside", {}).get(OWNED)
    relation, matched = row.relation, None
    if owned is not None:
        relation, of = owned["relation"], owned["matched_case"]
        if relation != UNIQUE and of is not None and archive.present(ours, [of]):
            matched = archive.owner_of_case(ours, of)
        relation = UNIQUE if matched is None else relation
    elif relation not in NO_RELATION:
        relation = UNIQUE  # it was not compared with what is owned
    return CaseVerdict(
        signature=row.signature,
        principal=row.principal,
        relation=relation,
        modality=row.modality,
        body_part=row.body_part,
        slices=row.slices,
        informative_slices=row.informative_slices,
        c1=owned["c1"] if owned else None,
        c3=owned["c3"] if owned else None,
        count_mode=row.count_mode,
        threshold=row.threshold,
        flags=tuple(owned["flags"]) if owned else tuple(json.loads(row.flags)),
        matched=matched,
        search=owned["search"] if owned else None,
        reason=row.reason,
        detail=owned["detail"] if owned else row.detail,
        model=row.model,
        fingerprint=row.fingerprint,
        policy=row.policy,
        watermark=owned["watermark"] if owned else None,
        digests=_digests(theirs, row),
        proxy=_proxy(theirs, row.digest_id),
        layout=_layout(theirs, row.digest_id),
        nodes=_nodes(theirs, row.case_id, their_fingerprint),
        evidence=owned["evidence"] if owned else None,
    )


def _digests(theirs: Connection, row: Row[Any]) -> Digests | None:
    if row.digest_id is None:
        return None
    planes = theirs.execute(
        select(plane).where(plane.c.digest_id == row.digest_id).order_by(plane.c.ordinal)
    ).all()
    return Digests(
        row.digest_version,
        row.digest_bytes,
        [one.plane_digest for one in planes],
        [one.constant for one in planes],
        row.patient_hmac,
    )


def _proxy(theirs: Connection, digest_id: int | None) -> tuple[int, bytes] | None:
    found = theirs.execute(select(proxy).where(proxy.c.digest_id == digest_id)).one_or_none()
    return None if found is None else (found.version, found.data)


def _layout(theirs: Connection, digest_id: int | None) -> tuple[int, Any] | None:
    found = theirs.execute(select(layout).where(layout.c.digest_id == digest_id)).one_or_none()
    if found is None:
        return None
    return found.version, np.frombuffer(found.vector, "<f2").astype(np.float32)


def _nodes(theirs: Connection, case_id: int | None, fingerprint_id: int) -> Nodes | None:
    keys = archive.slice_keys(theirs, fingerprint_id, case_id) if case_id is not None else []
    if not keys:
        return None
    dimension = theirs.execute(
        select(fingerprint.c.dimension).where(fingerprint.c.id == fingerprint_id)
    ).scalar_one()
    named: dict[int, bytes] = {}
    for part in archive.parts(sorted(set(keys))):
        rows = theirs.execute(
            select(node.c.key, node.c.prepared_digest).where(
                node.c.fingerprint_id == fingerprint_id, node.c.key.in_(part)
            )
        )
        named |= {int(found[0]): bytes(found[1]) for found in rows}
    return Nodes(
        digests=[named[key] for key in keys],
        vectors=archive.vectors(theirs, fingerprint_id, keys, dimension),
    )


def _id(primary_key: Any) -> int:
    return int(primary_key[0])
