"""A delivery's catalogue and archive → a ``Screening``: plain values, in the catalogue's order."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, select

from diptych import __version__
from diptych.audit import archive, schema
from diptych.audit.schema import digest, evidence, instance, series, verdict
from diptych.audit.store import Store, now
from diptych.intake.catalogue import Catalogue
from diptych.judge import replay
from diptych.judge.ladder import Relation
from diptych.judge.policy import Policy
from diptych.screen import run
from diptych.screen.delivery import About
from diptych.screen.findings import (
    Collection,
    Kind,
    Known,
    Match,
    Outcome,
    Ref,
    Screening,
    Series,
    Stack,
)
from diptych.screen.headers import NOTHING, Headers, catalogued
from diptych.screen.report.given import Pictures

DELIVERY = "delivery"


@dataclass(frozen=True)
class Side:
    """A collection that the delivery was compared with, and where it is kept."""

    collection: Collection
    store: Store
    fingerprint_id: int


@dataclass(frozen=True)
class Delivery:
    """What is read. rows: the catalogue's series; own: its archive; sides: by name."""

    name: str
    vendor: str
    about: About
    catalogue: Catalogue
    rows: Sequence[run.Row]
    own: Side
    sides: Mapping[str, Side]
    headers: Headers
    policy: Policy
    model: str
    stopped: str = ""


def screening(of: Delivery) -> Screening:
    """All that is known by now; ``complete`` says whether that is all."""
    db = of.catalogue.db
    reader = _Reader(of)
    found = tuple(reader.series(row) for row in of.rows)
    files, size = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM file").fetchone()
    # Counted as they were opened, not as outcomes: the two must agree.
    (members,) = db.execute("SELECT coalesce(sum(members), 0) FROM entry").fetchone()
    outcomes = [
        Outcome(*row)
        for row in db.execute(
            "SELECT status, reason, count(*), coalesce(sum(size), 0) FROM outcome "
            "GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2"
        )
    ]
    absent = db.execute(
        "SELECT named_by, name, reason FROM absent UNION ALL "
        "SELECT whole, name, role FROM lacking JOIN entry USING (file, at) ORDER BY 1, 2"
    ).fetchall()
    return Screening(
        delivery=of.name,
        vendor=of.vendor,
        inputs=of.about.inputs,
        began=of.about.began,
        ended=now(),
        seconds=of.about.seconds,
        version=__version__,
        model=of.model,
        fingerprint=of.about.settings.fingerprint,
        policy=of.about.settings.policy,
        collections=tuple(side.collection for side in of.sides.values()),
        files=files,
        entries=files + members,
        bytes=size,
        outcomes=tuple(outcomes),
        absent=tuple(absent),
        series=found,
        complete=all(one.judged for one in found),
        stopped=of.stopped,
    )


def pictures(of: Delivery, dimension: int) -> Pictures:
    """Proxies and vectors of cases, for the report; while the archives are open."""
    sides = {DELIVERY: of.own, **of.sides}

    def proxy_of(ref: Ref) -> bytes | None:
        with sides[ref.collection].store.read() as connection:
            return archive.proxy(connection, ref.case)

    def vectors_of(ref: Ref) -> NDArray[np.float32] | None:
        side = sides[ref.collection]
        with side.store.read() as connection:
            keys = archive.slice_keys(connection, side.fingerprint_id, ref.case)
            if not keys:
                return None
            return archive.vectors(connection, side.fingerprint_id, keys, dimension)

    return Pictures(proxy_of, vectors_of)


@dataclass
class _Reader:
    of: Delivery
    # Matched cases of each collection are asked for again and again.
    known: dict[tuple[str, int], Known] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers = {row.key: row.number for row in self.of.rows}
        self.lost = self.of.catalogue.unjudged()
        self.facts: dict[int, Mapping[str, str]] = {}

    def series(self, row: run.Row) -> Series:
        db = self.of.catalogue.db
        kind, study, name, place, modality, syntax, files, planes, size = db.execute(
            "SELECT kind, study, series, place, modality, transfer_syntax, files, planes, bytes "
            "FROM series WHERE id = ?",
            (row.number,),
        ).fetchone()
        vendor, split, price = _manifest(db, row.number)
        stacks: tuple[Stack, ...] = ()
        refused: tuple[tuple[str, str], ...] = ()
        patient = ""
        if row.key in self.lost:
            stacks = (_not_laid_down(row, *self.lost[row.key]),)
        else:
            with self.of.own.store.read() as connection:
                verdicts = _verdicts(connection, row.key)
                stacks = tuple(self._stack(row, one) for one in verdicts)
                refused = _refused(connection, row.key)
            patient = next(
                (one.patient_hmac.hex()[:16] for one in verdicts if one.patient_hmac), ""
            )
        return Series(
            number=row.number,
            place=place,
            kind=kind,
            study_instance_uid=study,
            series_instance_uid=name,
            modality=modality or next((one.modality for one in stacks if one.modality), ""),
            transfer_syntax=syntax,
            files=files,
            slices=planes,
            bytes=size,
            vendor=vendor or self.of.vendor,
            split=split,
            price=Decimal(price) if price else None,
            stacks=stacks,
            refused=refused,
            facts=self._facts(row.number),
            patient=patient,
        )

    def _facts(self, number: int) -> Mapping[str, str]:
        if number not in self.facts:
            self.facts[number] = catalogued(self.of.catalogue.db, number)
        return self.facts[number]

    def _stack(self, row: run.Row, one: Row[Any]) -> Stack:
        said = json.loads(zlib.decompress(one.data)) if one.data else None
        relation = Relation(one.relation)
        matches: tuple[Match, ...] = ()
        if said is not None and relation != Relation.NOT_SCREENABLE:
            inside = self._match(DELIVERY, relation, one.matched_case_id, one.c1, one.c3, said)
            beside = [
                self._match(
                    name,
                    Relation(there["relation"]),
                    there["matched_case"],
                    there["c1"],
                    there["c3"],
                    there["evidence"],
                )
                for name, there in said.get("beside", {}).items()
                if name in self.of.sides  # else it was forgotten since
            ]
            matches = (inside, *beside)
        return Stack(
            ref=Ref(DELIVERY, one.case_id or 0, row.number),
            principal=one.principal,
            relation=relation,
            reason=one.reason or "",
            detail=one.detail or "",
            modality=one.modality or "",
            body_part=one.body_part or "",
            slices=one.slices,
            informative_slices=one.informative_slices,
            # Each of its series is a source of its own here.
            flags=tuple(flag for flag in json.loads(one.flags) if flag != "cross_source"),
            matches=matches,
            content=one.case_digest or "",
        )

    def _match(
        self,
        name: str,
        relation: Relation,
        case: int | None,
        c1: float | None,
        c3: float | None,
        said: Mapping[str, Any],
    ) -> Match:
        kind = Kind.DELIVERY if name == DELIVERY else self.of.sides[name].collection.kind
        other = None
        if relation != Relation.UNIQUE and case is not None:
            other = self._known(name, case)
        checks = replay.rebuilt(said, self.of.policy).checks
        return Match(
            kind=kind,
            collection=name,
            relation=relation,
            other=other,
            c1=c1,
            c3=c3,
            threshold=self.of.policy.threshold,
            verified=said["verified"],
            why=said["verified_reason"],
            check=next((check for check in checks if check.case == case), None),
        )

    def _known(self, name: str, case: int) -> Known:
        if (name, case) not in self.known:
            side = self.of.own if name == DELIVERY else self.of.sides[name]
            with side.store.read() as connection:
                self.known[name, case] = self._look_up(connection, name, case)
        return self.known[name, case]

    def _look_up(self, connection: Connection, name: str, case: int) -> Known:
        owner = archive.owner_of_case(connection, case)
        newest = connection.execute(
            select(verdict, schema.case.c.body_part)
            .join(schema.case, schema.case.c.id == verdict.c.case_id)
            .where(verdict.c.case_id == case)
            .order_by(verdict.c.id.desc())
            .limit(1)
        ).one_or_none()
        number, facts = None, NOTHING
        if owner and name == DELIVERY:
            number = self.numbers.get(owner.source)
            facts = self._facts(number) if number is not None else NOTHING
        elif owner:
            facts = self.of.headers.of(connection, name, owner)
        return Known(
            ref=Ref(name, case, number),
            study_instance_uid=owner.study_instance_uid if owner else None,
            series_instance_uid=owner.series_instance_uid if owner else None,
            source=owner.source if owner and name != DELIVERY else "",
            modality=(newest.modality or "") if newest else "",
            body_part=(newest.body_part or "") if newest else "",
            slices=newest.slices if newest else 0,
            facts=facts,
            content=(newest.case_digest or "") if newest else "",
        )


def _verdicts(connection: Connection, key: str) -> Sequence[Row[Any]]:
    return connection.execute(
        select(verdict, evidence.c.data, digest.c.patient_hmac, schema.case.c.body_part)
        .join(series, series.c.id == verdict.c.series_id)
        .outerjoin(schema.case, schema.case.c.id == verdict.c.case_id)
        .outerjoin(evidence, evidence.c.verdict_id == verdict.c.id)
        .outerjoin(
            digest,
            (digest.c.case_id == verdict.c.case_id)
            & (digest.c.revision_id == verdict.c.revision_id),
        )
        .where(series.c.source == key)
        .order_by(verdict.c.id)
    ).all()


def _refused(connection: Connection, key: str) -> tuple[tuple[str, str], ...]:
    """(SOPInstanceUID, outcome) of instances that are no image."""
    rows = connection.execute(
        select(instance.c.sop_instance_uid, instance.c.outcome)
        .join(series, series.c.id == instance.c.series_id)
        .where(series.c.source == key, instance.c.outcome != "image")
        .order_by(instance.c.id)
    )
    return tuple((row[0], row[1]) for row in rows)


def _not_laid_down(row: run.Row, reason: str, detail: str) -> Stack:
    return Stack(
        ref=Ref(DELIVERY, 0, row.number),
        principal=True,
        relation=Relation.NOT_SCREENABLE,
        reason=reason,
        detail=detail,
        modality="",
        body_part="",
        slices=0,
        informative_slices=0,
        flags=(),
        matches=(),
    )


def _manifest(db: sqlite3.Connection, number: int) -> tuple[str, str, str]:
    """vendor, split and price; where its files differ all of them, of prices the first."""
    rows = db.execute(
        "SELECT DISTINCT vendor, split, price FROM series_entry JOIN file "
        "ON file.id = series_entry.file WHERE series_entry.series = ? ORDER BY 1, 2, 3",
        (number,),
    ).fetchall()
    said = [sorted({row[column] for row in rows if row[column]}) for column in range(3)]
    return "; ".join(said[0]), "; ".join(said[1]), said[2][0] if said[2] else ""
