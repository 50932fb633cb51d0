"""A case of a delivery's archive → a case of the main archive, as if it had been judged there.

Nothing was received, so nothing is counted and no receipt is written; pixels stay where they are.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Row, and_, insert, select

from diptych.audit import archive, verdicts
from diptych.audit.nodes import Nodes
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
from diptych.audit.verdicts import CaseVerdict, Digests, Judged
from diptych.audit.work import Work

OWNED = "owned"
UNIQUE = "unique"
# Characters of a source.
_SOURCE = 32
NO_RELATION = ("not-screenable", "not-an-image")
Numbers = Callable[[int], int | None]
Renumbered = Callable[[Mapping[str, Any], Numbers], Mapping[str, Any]]
COPIES = ("exact", "near-duplicate", "partial")
CROSS_SOURCE = "cross_source"


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
    sources: Mapping[int, str],
    our_fingerprint: int,
    their_fingerprint: int,
    renumbered: Renumbered,
) -> list[int]:
    """Write the series ``one`` of their archive into ours; returns its cases, none when it is here
    already (a series of the same source and UIDs). sources: as :func:`sources` gives them.
    renumbered: evidence with cases by other numbers."""
    uids, source = _uids(one), sources[one.id]
    if ours.execute(select(series.c.id).where(_named(source, uids))).first() is not None:
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
        item = _case(_Pair(ours, theirs, sources, renumbered), row, their_fingerprint)
        judged = Judged(work, [item], (), row.seconds, {})
        (_, case_id), *_ = verdicts.record_case(ours, judged, item, our_fingerprint)
        if case_id is not None:
            adopted.append(case_id)
    return adopted


def _named(source: str, uids: tuple[str, str]) -> ColumnElement[bool]:
    return and_(
        series.c.source == source,
        series.c.study_instance_uid == uids[0],
        series.c.series_instance_uid == uids[1],
    )


@dataclass(frozen=True)
class _Pair:
    """Both archives. sources: of their series in ours."""

    ours: Connection
    theirs: Connection
    sources: Mapping[int, str]
    renumbered: Renumbered

    def number(self, their_case: int) -> int | None:
        """What their case is called in ours, where it has joined."""
        found = self.theirs.execute(
            select(case.c.signature, series)
            .join(series, series.c.id == case.c.series_id)
            .where(case.c.id == their_case)
        ).one_or_none()
        if found is None or found.id not in self.sources:
            return None
        return self.ours.execute(
            select(case.c.id)
            .join(series, series.c.id == case.c.series_id)
            .where(_named(self.sources[found.id], _uids(found)))
            .where(case.c.signature == found.signature)
        ).scalar_one_or_none()


@dataclass(frozen=True)
class _Said:
    """What a case is to what is owned, by now."""

    relation: str
    matched: archive.Owner | None = None
    c1: float | None = None
    c3: float | None = None
    flags: tuple[str, ...] = ()
    search: str | None = None
    detail: str | None = None
    watermark: int | None = None
    evidence: Mapping[str, Any] | None = None


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


def _case(pair: _Pair, row: Row[Any], their_fingerprint: int) -> CaseVerdict:
    """Its verdict there becomes one here."""
    theirs = pair.theirs
    said = _said(pair, row)
    return CaseVerdict(
        signature=row.signature,
        principal=row.principal,
        relation=said.relation,
        modality=row.modality,
        body_part=row.body_part,
        slices=row.slices,
        informative_slices=row.informative_slices,
        c1=said.c1,
        c3=said.c3,
        count_mode=row.count_mode,
        threshold=row.threshold,
        flags=said.flags,
        matched=said.matched,
        search=said.search,
        reason=row.reason,
        detail=said.detail,
        model=row.model,
        fingerprint=row.fingerprint,
        policy=row.policy,
        watermark=said.watermark,
        digests=_digests(theirs, row),
        proxy=_proxy(theirs, row.digest_id),
        layout=_layout(theirs, row.digest_id),
        nodes=_nodes(theirs, row.case_id, their_fingerprint),
        evidence=said.evidence,
    )


def _said(pair: _Pair, row: Row[Any]) -> _Said:
    """Of what was owned before, or else of what joined with it; of a match that was forgotten since
    nothing is left to say."""
    flags = tuple(flag for flag in json.loads(row.flags) if flag != CROSS_SOURCE)
    if row.relation in NO_RELATION:
        return _Said(row.relation, flags=flags, detail=row.detail)
    inside = json.loads(zlib.decompress(row.data)) if row.data else {}
    owned = inside.pop("beside", {}).get(OWNED)
    found = _Said(UNIQUE, flags=flags)
    if owned is not None:
        of = owned["matched_case"]
        present = of is not None and bool(archive.present(pair.ours, [of]))
        found = _Said(
            owned["relation"] if present else UNIQUE,
            archive.owner_of_case(pair.ours, of) if present else None,
            owned["c1"],
            owned["c3"],
            tuple(owned["flags"]),
            owned["search"],
            owned["detail"],
            owned["watermark"],
            owned["evidence"],
        )
    if found.relation in COPIES or row.relation not in COPIES or row.matched_case_id is None:
        return found
    ours = pair.number(row.matched_case_id)
    if ours is None:
        return found
    return replace(
        found,
        relation=row.relation,
        matched=archive.owner_of_case(pair.ours, ours),
        c1=row.c1,
        c3=row.c3,
        flags=flags,
        search=row.search,
        detail=row.detail,
        evidence=pair.renumbered(inside, pair.number),
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
