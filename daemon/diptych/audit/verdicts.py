"""Verdicts: recorded in one transaction with their evidence, event, counters and index nodes.

A verdict's columns and its event payload say the same; ``audit.verify`` compares them. UIDs are
in the payload only as a salted commitment, so a case can be forgotten while the chain survives.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, and_, func, insert, select, true, update

from diptych import faults, metrics
from diptych.audit import archive, chain, counters, layouts, reverdicts, schema, work
from diptych.audit.nodes import Nodes, add_nodes
from diptych.audit.schema import case, evidence, match, verdict
from diptych.audit.store import Store, now
from diptych.errors import Reason, StoreError

EVIDENCE_VERSION = 1

# The columns a reader of an event may see; the identifiers are committed to, not shown, and the
# digest of the pixels is one of them: whoever has the pixels could ask whether they were here.
_OPEN = (
    "revision_id",
    "series_id",
    "case_id",
    "principal",
    "revision",
    "source",
    "modality",
    "slices",
    "informative_slices",
    "c1",
    "c3",
    "count_mode",
    "threshold",
    "relation",
    "flags",
    "matched_case_id",
    "search",
    "reason",
    "detail",
    "model",
    "fingerprint",
    "policy",
    "watermark",
    "seconds",
    "created_at",
    "evidence_sha256",
)
# Payload key → (its salt's column, the columns it binds): either side can be forgotten alone.
COMMITTED = {
    "identifiers": ("salt", ("study_instance_uid", "series_instance_uid", "case_digest")),
    "matched_identifiers": ("matched_salt", ("matched_series_instance_uid",)),
}


@dataclass(frozen=True)
class Candidate:
    """One row of the match table."""

    case_id: int
    h: int
    within: int
    exact: bool


@dataclass(frozen=True)
class Digests:
    """Digests of a case: (planes,) of 32 bytes, whether each plane is constant, and of all."""

    version: int
    case_digest: bytes
    planes: Sequence[bytes]
    constant: Sequence[bool]
    patient_hmac: bytes | None


@dataclass(frozen=True)
class CaseVerdict:
    """The outcome of one stack (``signature`` None: a series without a stack). label_audit: label →
    what its neighbours said of it, where they were asked."""

    signature: str | None
    principal: bool
    relation: str
    modality: str | None = None
    body_part: str | None = None
    slices: int = 0
    informative_slices: int = 0
    c1: float | None = None
    c3: float | None = None
    count_mode: str | None = None
    threshold: float | None = None
    flags: tuple[str, ...] = ()
    matched: archive.Owner | None = None
    search: str | None = None
    reason: str | None = None
    detail: str | None = None
    model: str | None = None
    fingerprint: str | None = None
    policy: str | None = None
    watermark: int | None = None
    digests: Digests | None = None
    proxy: tuple[int, bytes] | None = None
    layout: tuple[int, NDArray[np.float32]] | None = None
    nodes: Nodes | None = None
    candidates: Sequence[Candidate] = ()
    evidence: Mapping[str, Any] | None = None
    label_audit: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class InstanceOutcome:
    """What became of one instance: ``image``, ``not-an-image`` or a reason."""

    instance_id: int
    outcome: str
    pixel_hash: bytes | None = None
    identity_hash: bytes | None = None
    private_hash: bytes | None = None
    rest_hash: bytes | None = None


@dataclass(frozen=True)
class Judged:
    """Everything one revision leaves behind. known: the newest verdict that its search could have
    found (``newest``); None: nothing was searched."""

    work: work.Work
    verdicts: Sequence[CaseVerdict]
    instances: Sequence[InstanceOutcome]
    seconds: float
    stages: Mapping[str, float]
    collisions: Mapping[str, int] = field(default_factory=dict)
    known: int | None = None


@dataclass(frozen=True)
class ForIndexes:
    """What is to be added to the indexes, and the chain's head. keys (m,), vectors (m, d): of new
    nodes; layouts: key and vector of each; ids: verdict and case of each that was recorded."""

    keys: NDArray[np.uint64]
    vectors: NDArray[np.float32]
    layouts: Sequence[tuple[int, NDArray[np.float32]]]
    head: tuple[int, str]
    ids: Sequence[tuple[int, int | None]]


def record(store: Store, judged: Judged, fingerprint_id: int) -> ForIndexes:
    """Commit everything at once.

    Raises StoreError, and then nothing of it is kept; also when what a verdict rests on was
    forgotten meanwhile, or another worker judged meanwhile: the revision is then to be judged
    again.
    """
    keys: list[int] = []
    vectors: list[NDArray[np.float32]] = []
    laid_out: list[tuple[int, NDArray[np.float32]]] = []
    ids: list[tuple[int, int | None]] = []
    with store.write() as connection:
        if judged.known is not None and newest(connection) != judged.known:
            raise StoreError("audit database: another worker judged meanwhile")
        work.judged(connection, judged.work.revision_id)
        for item in judged.verdicts:
            _refuse_forgotten(connection, item, fingerprint_id)
            recorded, digest_id, new_keys, new_vectors = record_case(
                connection, judged, item, fingerprint_id
            )
            ids.append(recorded)
            if new_vectors is not None:
                keys += new_keys
                vectors.append(new_vectors)
            if digest_id is not None and item.layout is not None:
                laid_out.append((digest_id, item.layout[1]))
        for outcome in judged.instances:
            connection.execute(
                update(schema.instance)
                .where(
                    schema.instance.c.id == outcome.instance_id,
                    # Pixels purged since an earlier revision: what they were known by stays.
                    schema.instance.c.outcome.is_(None)
                    if outcome.outcome == Reason.SPOOL_FILE_LOST
                    else true(),
                )
                .values(
                    outcome=outcome.outcome,
                    pixel_hash=outcome.pixel_hash,
                    identity_hash=outcome.identity_hash,
                    private_hash=outcome.private_hash,
                    rest_hash=outcome.rest_hash,
                )
            )
        _count(connection, judged)
        head = chain.head(connection)
        faults.point("judge.inside-transaction")
    added = np.concatenate(vectors) if vectors else np.empty((0, 0), np.float32)
    return ForIndexes(np.array(keys, np.uint64), added, laid_out, head, ids)


def newest(connection: Connection) -> int:
    """The id of the newest verdict; 0: none. Verdicts are recorded in the order of their ids."""
    return int(connection.execute(select(func.max(verdict.c.id))).scalar_one() or 0)


def _refuse_forgotten(connection: Connection, item: CaseVerdict, fingerprint_id: int) -> None:
    """``forget`` may come between judging and recording: its UIDs must not come back."""
    if item.matched is not None and archive.is_forgotten(connection, item.matched.case_id):
        raise StoreError(f"audit database: case {item.matched.case_id} was forgotten meanwhile")
    reused = item.nodes.reused if item.nodes is not None else ()
    if not archive.all_present(connection, fingerprint_id, reused):
        raise StoreError("audit database: index nodes to be reused were forgotten meanwhile")


def record_case(
    connection: Connection, judged: Judged, item: CaseVerdict, fingerprint_id: int
) -> tuple[tuple[int, int | None], int | None, list[int], NDArray[np.float32] | None]:
    """Write one verdict inside the caller's transaction, uncounted: (verdict, case), the row of its
    digests, keys and vectors (m, d) of its new nodes."""
    case_id = digest_id = None
    new: tuple[list[int], NDArray[np.float32] | None] = [], None
    if item.signature is not None:
        case_id = _case(connection, judged.work.series_id, item)
    if case_id is not None and item.digests is not None:
        digest_id = _digests(connection, case_id, judged.work.revision_id, item.digests)
        if item.proxy is not None:
            version, data = item.proxy
            connection.execute(
                insert(schema.proxy).values(
                    digest_id=digest_id, version=version, bytes=len(data), data=data
                )
            )
        if item.layout is not None:
            layouts.add(connection, digest_id, *item.layout)
    if case_id is not None and item.nodes is not None:
        new = add_nodes(connection, case_id, judged.work.revision_id, item.nodes, fingerprint_id)
    packed = None
    if item.evidence is not None:
        packed = zlib.compress(chain.canonical(item.evidence).encode())
    row = schema.fitting(verdict, _row(judged, item, case_id, packed))
    row["salt"], row["matched_salt"] = secrets.token_bytes(16), secrets.token_bytes(16)
    matches = [(c.case_id, c.h, c.within, c.exact) for c in item.candidates]
    verdict_id = chain.append(connection, "verdict", payload(row, matches))
    connection.execute(insert(verdict).values(**row, id=verdict_id))
    for rank, (candidate_id, h, within, exact) in enumerate(matches):
        connection.execute(
            insert(match).values(
                verdict_id=verdict_id,
                rank=rank,
                case_id=candidate_id,
                h=h,
                within=within,
                exact=exact,
            )
        )
    if packed is not None:
        connection.execute(
            insert(evidence).values(verdict_id=verdict_id, version=EVIDENCE_VERSION, data=packed)
        )
    return (verdict_id, case_id), digest_id, *new


def payload(
    row: Mapping[str, Any], matches: Sequence[tuple[int, int, int, bool]]
) -> dict[str, Any]:
    """The event payload of a verdict row; without its salt a commitment is left out."""
    said: dict[str, Any] = {name: row[name] for name in _OPEN}
    said["matches"] = [list(m) for m in matches]
    for key, (salt, names) in COMMITTED.items():
        if row[salt] is not None:
            said[key] = chain.commitment(row[salt], {name: row[name] for name in names})
    return said


def evidence_hash(version: int, data: bytes) -> str:
    """What a verdict names its evidence by."""
    return hashlib.sha256(f"{version}\n".encode() + data).hexdigest()


def _row(
    judged: Judged, item: CaseVerdict, case_id: int | None, packed: bytes | None
) -> dict[str, Any]:
    w, matched = judged.work, item.matched
    return {
        "revision_id": w.revision_id,
        "series_id": w.series_id,
        "case_id": case_id,
        "principal": item.principal,
        "revision": w.number,
        "source": w.source,
        "study_instance_uid": w.study_instance_uid,
        "series_instance_uid": w.series_instance_uid,
        "modality": item.modality or None,
        "slices": item.slices,
        "informative_slices": item.informative_slices,
        "c1": item.c1,
        "c3": item.c3,
        "count_mode": item.count_mode,
        "threshold": item.threshold,
        "relation": item.relation,
        "flags": json.dumps(sorted(item.flags)),
        "matched_case_id": matched.case_id if matched else None,
        "matched_series_instance_uid": matched.series_instance_uid if matched else None,
        "search": item.search,
        "reason": item.reason,
        "detail": item.detail,
        "model": item.model,
        "fingerprint": item.fingerprint,
        "policy": item.policy,
        "watermark": item.watermark,
        "seconds": judged.seconds,
        "created_at": now(),
        "case_digest": item.digests.case_digest.hex() if item.digests else None,
        "evidence_sha256": evidence_hash(EVIDENCE_VERSION, packed) if packed else None,
    }


def _case(connection: Connection, series_id: int, item: CaseVerdict) -> int:
    labels = {
        "modality": item.modality or None,
        "body_part": item.body_part or None,
    }
    known = connection.execute(
        select(case.c.id).where(case.c.series_id == series_id, case.c.signature == item.signature)
    ).scalar_one_or_none()
    if known is not None:
        connection.execute(update(case).where(case.c.id == known).values(**labels))
        return int(known)
    inserted = connection.execute(
        insert(case).values(
            series_id=series_id, signature=item.signature, created_at=now(), **labels
        )
    ).inserted_primary_key
    assert inserted is not None
    return int(inserted[0])


def _digests(connection: Connection, case_id: int, revision_id: int, digests: Digests) -> int:
    connection.execute(
        update(schema.digest).where(schema.digest.c.case_id == case_id).values(current=False)
    )
    inserted = connection.execute(
        insert(schema.digest).values(
            case_id=case_id,
            revision_id=revision_id,
            digest_version=digests.version,
            case_digest=digests.case_digest,
            planes=len(digests.planes),
            current=True,
            patient_hmac=digests.patient_hmac,
        )
    ).inserted_primary_key
    assert inserted is not None
    digest_id = int(inserted[0])
    rows = [
        {"digest_id": digest_id, "ordinal": i, "plane_digest": value, "constant": constant}
        for i, (value, constant) in enumerate(zip(digests.planes, digests.constant, strict=True))
    ]
    if rows:
        connection.execute(insert(schema.plane), rows)
    return digest_id


def _count(connection: Connection, judged: Judged) -> None:
    w = judged.work
    for item in judged.verdicts:
        if item.reason is not None and item.relation == "not-screenable":
            counters.increment(
                connection, "diptych_failures_total", {"stage": "judge", "reason": item.reason}
            )
        if not item.principal:
            continue
        labels = {"source": w.source, "relation": item.relation}
        if w.number > 0:
            counters.increment(connection, "diptych_revision_verdicts_total", labels)
            continue
        modality = metrics.modality_label(item.modality)
        counters.increment(connection, "diptych_verdicts_total", {**labels, "modality": modality})
        if "cross_source" in item.flags:
            counters.increment(connection, "diptych_cross_source_total", {"source": w.source})
        for label, heard in item.label_audit.items():
            labels = {"source": w.source, "label": label}
            counters.increment(
                connection, "diptych_label_audits_total", {**labels, "outcome": heard}
            )
            if heard == "disagrees":
                counters.increment(connection, "diptych_label_disagreements_total", labels)
    known = {row.instance_id for row in w.instances if row.judged_before}
    for outcome in judged.instances:
        if outcome.instance_id in known:  # counted with its own revision
            continue
        if outcome.outcome not in ("image", "not-an-image"):
            counters.increment(
                connection,
                "diptych_failures_total",
                {"stage": "decode", "reason": outcome.outcome},
            )
    for part, count in judged.collisions.items():
        counters.increment(
            connection, "diptych_collisions_total", {"source": w.source, "part": part}, count
        )
    for stage, seconds in judged.stages.items():
        counters.observe(connection, "diptych_stage_duration_seconds", seconds, {"stage": stage})
    waited = (now() - w.last_received_at) / work.MICROSECONDS
    counters.observe(connection, "diptych_series_duration_seconds", waited)


def current(
    connection: Connection, relation: str | None = None, since: int | None = None
) -> Sequence[Row[Any]]:
    """One row per judged series: the principal verdict of its newest revision, oldest first; where
    it was judged again from its evidence, what it says since.

    ``since``: UTC microseconds. The rows also hold the series' ``resends``.
    """
    columns = {column.name: column for column in reverdicts.as_it_stands()}
    newest = (
        select(verdict.c.series_id, func.max(verdict.c.revision).label("revision"))
        .group_by(verdict.c.series_id)
        .subquery()
    )
    statement = (
        select(*columns.values(), schema.series.c.resends)
        .select_from(reverdicts.joined())
        .join(
            newest,
            and_(
                newest.c.series_id == verdict.c.series_id,
                newest.c.revision == verdict.c.revision,
            ),
        )
        .join(schema.series, schema.series.c.id == verdict.c.series_id)
        .where(verdict.c.principal)
        .order_by(verdict.c.id)
    )
    if relation is not None:
        statement = statement.where(columns["relation"] == relation)
    if since is not None:
        statement = statement.where(columns["created_at"] >= since)
    return connection.execute(statement).all()
