"""What is still known of headers: of what was delivered its catalogue, of what was received a file.

Nothing of it identifies a person (``intake.entry.Entry.facts``).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, select

from diptych.audit.archive import Owner
from diptych.audit.schema import blob, instance
from diptych.config import Config
from diptych.intake.dicom import describe
from diptych.intake.entry import Entry
from diptych.intake.streams import Forward
from diptych.screen.delivery import OWNED

NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Headers:
    """Of the cases that a delivery is compared with. Empty: nothing is kept of it."""

    config: Config

    def of(self, connection: Connection, collection: str, owner: Owner) -> Mapping[str, str]:
        """connection: to the archive of that collection."""
        if collection != OWNED:
            return self._in_catalogue(collection, owner)
        # What was accepted is named after its delivery, with a suffix where UIDs came twice.
        came_in, _, _ = owner.source.partition("~")
        return self._in_catalogue(came_in, owner) or self._in_spool(connection, owner)

    def _in_catalogue(self, delivery: str, owner: Owner) -> Mapping[str, str]:
        file = self.config.deliveries_folder / delivery / "catalogue.sqlite3"
        if not file.is_file():
            return NOTHING
        try:
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
                uids = owner.study_instance_uid, owner.series_instance_uid
                found = db.execute(
                    "SELECT id FROM series WHERE study = ? AND series = ?", uids
                ).fetchall()
                # Of several with its UIDs it is not known which.
                return catalogued(db, found[0][0]) if len(found) == 1 else NOTHING
        except sqlite3.Error:
            return NOTHING

    def _in_spool(self, connection: Connection, owner: Owner) -> Mapping[str, str]:
        locator = connection.execute(
            select(blob.c.locator)
            .join(instance, instance.c.blob_id == blob.c.id)
            .where(
                instance.c.series_id == owner.series_id,
                blob.c.purged_at.is_(None),
                blob.c.store == "spool",
            )
            .order_by(instance.c.id)
            .limit(1)
        ).scalar_one_or_none()
        return NOTHING if locator is None else _in_file(self.config.spool_folder / locator)


def catalogued(db: sqlite3.Connection, number: int) -> Mapping[str, str]:
    """Of the first file of a series of that catalogue."""
    facts, syntax, rows, columns = db.execute(
        "SELECT facts, transfer_syntax, entry.rows, entry.columns FROM series_entry "
        "JOIN entry USING (file, at) WHERE series_entry.series = ? ORDER BY whole LIMIT 1",
        (number,),
    ).fetchone()
    return _said(facts, syntax, rows, columns)


def _in_file(path: Path) -> Mapping[str, str]:
    entry = Entry("", path.name, None)
    try:
        with path.open("rb") as file:
            describe(entry, Forward(file.read))
    except OSError:  # purged meanwhile
        return NOTHING
    return _said(entry.facts, entry.transfer_syntax, entry.rows, entry.columns)


def _said(
    facts: str | None, syntax: str | None, rows: int | None, columns: int | None
) -> Mapping[str, str]:
    said: dict[str, str] = json.loads(facts) if facts else {}
    more = {"Rows": rows, "Columns": columns, "TransferSyntaxUID": syntax}
    return said | {name: str(value) for name, value in more.items() if value}
