"""The archive as a population: which cases there are, and which of them are no strangers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from diptych.audit import reverdicts
from diptych.audit.schema import (
    case,
    digest,
    embedding,
    fingerprint,
    plane,
    series,
    verdict,
)

Keys = NDArray[np.uint64]
Cases = NDArray[np.int64]


@dataclass(frozen=True)
class Member:
    """A case with vectors. revision_id: of its newest ones. digest: None when constant planes make
    it no evidence; patient: the HMAC, None when the header named none."""

    case_id: int
    series_id: int
    study: str | None
    revision_id: int
    modality: str | None
    digest: bytes | None
    patient: bytes | None


@dataclass(frozen=True)
class Link:
    """A verdict that calls one case a copy of another."""

    case_id: int
    matched_case_id: int
    relation: str


def fingerprint_id(connection: Connection, value: str) -> int | None:
    """The row of a fingerprint; None when nothing was embedded under it."""
    return connection.execute(
        select(fingerprint.c.id).where(fingerprint.c.fingerprint == value)
    ).scalar_one_or_none()


def members(connection: Connection, of_fingerprint: int) -> list[Member]:
    """Every case that is not forgotten and has vectors of this fingerprint, the earliest first."""
    newest = (
        select(embedding.c.case_id, func.max(embedding.c.revision_id).label("revision_id"))
        .where(embedding.c.fingerprint_id == of_fingerprint)
        .group_by(embedding.c.case_id)
        .subquery()
    )
    says_something = (
        select(plane.c.ordinal)
        .where(plane.c.digest_id == digest.c.id, plane.c.constant.is_(False))
        .exists()
        .label("says_something")
    )
    modality = (
        select(func.max(verdict.c.modality))
        .where(verdict.c.case_id == case.c.id)
        .scalar_subquery()
        .label("modality")
    )
    rows = connection.execute(
        select(
            case.c.id,
            case.c.series_id,
            series.c.study_instance_uid,
            newest.c.revision_id,
            digest.c.case_digest,
            digest.c.patient_hmac,
            says_something,
            modality,
        )
        .join_from(case, newest, newest.c.case_id == case.c.id)
        .join(series, series.c.id == case.c.series_id)
        .outerjoin(digest, (digest.c.case_id == case.c.id) & digest.c.current)
        .where(case.c.forgotten_at.is_(None))
        .order_by(case.c.id)
    )
    return [
        Member(
            row.id,
            row.series_id,
            row.study_instance_uid,
            row.revision_id,
            row.modality,
            bytes(row.case_digest) if row.case_digest and row.says_something else None,
            bytes(row.patient_hmac) if row.patient_hmac else None,
        )
        for row in rows
    ]


def links(connection: Connection, relations: Sequence[str]) -> list[Link]:
    """Pairs of cases that a verdict, as it stands now, puts into one of these relations."""
    columns = {column.name: column for column in reverdicts.as_it_stands()}
    rows = connection.execute(
        select(columns["case_id"], columns["matched_case_id"], columns["relation"])
        .select_from(reverdicts.joined())
        .where(columns["relation"].in_(relations), verdict.c.case_id.is_not(None))
    )
    return [Link(row[0], row[1], row[2]) for row in rows if row[1] is not None]


def holders(connection: Connection, of_fingerprint: int) -> tuple[Keys, Cases]:
    """Node and case, a row for each case that holds the node in any revision: sorted by node, then
    by case. A node that several cases share stands in as many rows."""
    keys, cases = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    rows = connection.execute(
        select(embedding.c.case_id, embedding.c.slice_keys)
        .join(case, case.c.id == embedding.c.case_id)
        .where(embedding.c.fingerprint_id == of_fingerprint, case.c.forgotten_at.is_(None))
    )
    for case_id, slice_keys in rows:
        distinct = np.unique(np.frombuffer(slice_keys, "<u8")).astype(np.uint64)
        keys.append(distinct)
        cases.append(np.full(len(distinct), case_id, np.int64))
    all_keys, all_cases = np.concatenate(keys), np.concatenate(cases)
    order = np.lexsort((all_cases, all_keys))
    return all_keys[order], all_cases[order]
