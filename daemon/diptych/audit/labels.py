"""What cases say they show, and whose they are: what the label audit and ``similar`` ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, and_, func, select

from diptych.audit import reverdicts
from diptych.audit.archive import parts
from diptych.audit.schema import case, digest, embedding, series, verdict

Label = Literal["modality", "body_part"]

COPIES = ("exact", "near-duplicate", "partial")
"""Relations by which a case is a copy of the one it matched."""

KEY_BYTES = 8
"""Of a node's key in ``embedding.slice_keys``."""


@dataclass(frozen=True)
class Labelled:
    """A case and what it says. subject: its patient, else its study; of a copy, its original's."""

    subject: str
    study_instance_uid: str | None
    modality: str | None
    body_part: str | None


def of_cases(connection: Connection, cases: Sequence[int]) -> dict[int, Labelled]:
    """The labels of these cases; those that were forgotten are left out."""
    rows: dict[int, Row[Any]] = {}
    for part in parts(sorted(set(cases))):
        statement = (
            select(case.c.id, case.c.modality, case.c.body_part, series.c.study_instance_uid)
            .join_from(case, series, series.c.id == case.c.series_id)
            .where(case.c.id.in_(part), case.c.forgotten_at.is_(None))
        )
        rows |= {row.id: row for row in connection.execute(statement)}
    originals = _originals(connection, list(rows))
    subjects = _subjects(connection, list(originals.values()))
    return {
        id_: Labelled(
            subjects.get(originals[id_], f"case {id_}"),
            row.study_instance_uid,
            row.modality,
            row.body_part,
        )
        for id_, row in rows.items()
    }


@dataclass(frozen=True)
class Known:
    """What the archive says of a case. created_at: UTC microseconds; slices: of its newest
    revision."""

    case_id: int
    source: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str | None
    body_part: str | None
    slices: int
    created_at: int


def known(connection: Connection, cases: Sequence[int]) -> dict[int, Known]:
    """These cases as they are to be shown; those that were forgotten are left out."""
    found: dict[int, Known] = {}
    for part in parts(list(cases)):
        statement = (
            select(
                case.c.id,
                series.c.source,
                series.c.study_instance_uid,
                series.c.series_instance_uid,
                case.c.modality,
                case.c.body_part,
                verdict.c.slices,
                case.c.created_at,
            )
            .join_from(case, series, series.c.id == case.c.series_id)
            .join(verdict, verdict.c.case_id == case.c.id)
            .where(case.c.id.in_(part), case.c.forgotten_at.is_(None))
            .order_by(verdict.c.id)
        )
        found |= {row[0]: Known(*row) for row in connection.execute(statement)}
    return found


def subject(patient_hmac: bytes | None, study_instance_uid: str | None, case_id: int) -> str:
    """Whose a case is: the patient's HMAC; without one the study; without both the case's own."""
    if patient_hmac is not None:
        return f"patient {patient_hmac.hex()}"
    return f"study {study_instance_uid}" if study_instance_uid else f"case {case_id}"


def said(
    connection: Connection, fingerprint_id: int, without_series: int, least_slices: int
) -> dict[tuple[str | None, str | None], int]:
    """(modality, body part) → how many other series say both and are embedded by this fingerprint
    with at least so many informative slices: those that could have been neighbours."""
    comparable = (
        select(embedding.c.id)
        .where(
            embedding.c.case_id == case.c.id,
            embedding.c.fingerprint_id == fingerprint_id,
            func.length(embedding.c.slice_keys) >= KEY_BYTES * least_slices,
        )
        .exists()
    )
    statement = (
        select(case.c.modality, case.c.body_part, func.count(case.c.series_id.distinct()))
        .where(case.c.series_id != without_series, case.c.forgotten_at.is_(None), comparable)
        .group_by(case.c.modality, case.c.body_part)
    )
    return {(row[0], row[1]): int(row[2]) for row in connection.execute(statement)}


def _originals(connection: Connection, cases: Sequence[int]) -> dict[int, int]:
    """Each case, or the one that its newest verdict, as it stands now, calls it a copy of."""
    found = {id_: id_ for id_ in cases}
    columns = {column.name: column for column in reverdicts.as_it_stands()}
    for part in parts(list(cases)):
        statement = (
            select(*(columns[name] for name in ("case_id", "relation", "matched_case_id")))
            .select_from(reverdicts.joined())
            .where(verdict.c.case_id.in_(part))
            .order_by(verdict.c.id)
        )
        for row in connection.execute(statement):
            copy = row.relation in COPIES and row.matched_case_id is not None
            found[row.case_id] = row.matched_case_id if copy else row.case_id
    return found


def _subjects(connection: Connection, cases: Sequence[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for part in parts(sorted(set(cases))):
        statement = (
            select(case.c.id, digest.c.patient_hmac, series.c.study_instance_uid)
            .join_from(case, series, series.c.id == case.c.series_id)
            .outerjoin(digest, and_(digest.c.case_id == case.c.id, digest.c.current))
            .where(case.c.id.in_(part))
        )
        for row in connection.execute(statement):
            hmac = None if row.patient_hmac is None else bytes(row.patient_hmac)
            found[row.id] = subject(hmac, row.study_instance_uid, row.id)
    return found
