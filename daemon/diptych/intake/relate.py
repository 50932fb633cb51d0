"""Rows → what only the others can tell: parts of one another, what is lacking, and series.

Written wholly anew each time, from what was read alone: the same rows give the same series.
"""

from __future__ import annotations

import posixpath
import sqlite3
from collections.abc import Iterator

from .entry import Status

_SIDECARS = (".json", ".bval", ".bvec")
"""BIDS 1.10, section "Magnetic resonance imaging": beside the image, with its stem."""

_IMAGES = f"""
CREATE TEMP TABLE image AS
SELECT entry.file, entry.at, whole, place(whole) AS place, study, series, sop_instance, modality,
  transfer_syntax, coalesce(planes, 1) AS planes, coalesce(size, 0) AS size,
  CASE WHEN kind LIKE 'nifti%' THEN 'nifti' ELSE kind END AS kind
FROM entry JOIN outcome USING (file, at, whole, size, kind)
WHERE outcome.status = '{Status.READABLE}';
CREATE INDEX temp.image_sop ON image (study, series, sop_instance);
-- The same instances in several places are copies of a series, each of which is one.
CREATE TEMP TABLE copied AS SELECT DISTINCT study, series FROM (
  SELECT study, series FROM image WHERE kind = 'dicom' AND series != '' AND sop_instance != ''
  GROUP BY study, series, sop_instance HAVING count(DISTINCT place) > 1);
CREATE UNIQUE INDEX temp.copied_series ON copied (study, series);
ALTER TABLE image ADD COLUMN scope;
UPDATE image SET scope = CASE
  WHEN kind != 'dicom' THEN whole
  WHEN series = '' OR EXISTS (SELECT 1 FROM copied
    WHERE copied.study = image.study AND copied.series = image.series) THEN place
  ELSE '' END;
CREATE INDEX temp.image_scope ON image (kind, study, series, scope);
"""  # noqa: S608

_SERIES = """
INSERT INTO series (kind, study, series, place, modality, transfer_syntax, files, planes, bytes,
  packed)
SELECT kind, study, series, CASE WHEN scope = '' THEN min(place) ELSE scope END, max(modality),
  max(transfer_syntax), count(*), sum(planes), sum(size), sum(at != '')
FROM image GROUP BY kind, study, series, scope ORDER BY min(whole), series, study
"""

_MEMBERS = """
INSERT INTO series_entry
SELECT series.id, image.file, image.at FROM image JOIN (
  SELECT id, kind, study, series, place FROM series) AS series
ON series.kind = image.kind AND series.study = image.study AND series.series = image.series
  AND (image.scope = '' OR series.place = image.scope)
"""


def relate(db: sqlite3.Connection) -> None:
    """In one transaction."""
    db.create_function("place", 1, _place, deterministic=True)
    with db:
        db.execute("BEGIN")
        for table in ("part", "lacking", "series_entry", "series"):
            db.execute(f"DELETE FROM {table}")  # noqa: S608 - our own table names
        db.execute("CREATE INDEX entry_whole ON entry (whole COLLATE NOCASE)")
        _follow(db)
        _sidecars(db)
        for statement in _IMAGES.split(";\n"):
            db.execute(statement)
        db.execute(_SERIES)
        db.execute(_MEMBERS)
        db.execute("DROP INDEX entry_whole")
        db.execute("DROP TABLE temp.image")
        db.execute("DROP TABLE temp.copied")
        db.execute("INSERT OR REPLACE INTO about VALUES ('related', '')")


def _follow(db: sqlite3.Connection) -> None:
    """What is named is a part (the values of a detached header), or there, or lacking."""
    rows = db.execute(
        "SELECT file, at, number, role, name, whole FROM name JOIN entry USING (file, at)"
    )
    for file, at, number, role, name, whole in rows:
        wanted = sibling(whole, name)
        found = _entry(db, wanted, exact=role == "data") if wanted else None
        if found is None:
            lacks = (file, at, number, role, name)
            db.execute("INSERT INTO lacking VALUES (?, ?, ?, ?, ?)", lacks)
        elif role == "data" and found != (file, at):
            part = (*found, file, at, "detached-data")
            db.execute("INSERT OR IGNORE INTO part VALUES (?, ?, ?, ?, ?)", part)


def _sidecars(db: sqlite3.Connection) -> None:
    for file, at, whole in db.execute("SELECT file, at, whole FROM entry WHERE kind LIKE 'nifti%'"):
        stem = whole[: -len(".gz")] if whole.lower().endswith(".gz") else whole
        stem = stem.rpartition(".")[0]
        for suffix in _SIDECARS:
            found = _entry(db, stem + suffix, exact=True)
            if found is not None:
                part = (*found, file, at, "sidecar")
                db.execute("INSERT OR IGNORE INTO part VALUES (?, ?, ?, ?, ?)", part)


def sibling(whole: str, name: str) -> str | None:
    """What ``name``, relative to the folder of ``whole``, is called; None outside its archive."""
    archive, mark, member = whole.rpartition("!/")
    name = name.strip().replace("\\", "/").partition(";")[0]
    if name.startswith("/") or not name:
        return None
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(member), name))
    return None if inside.startswith("..") else archive + mark + inside


def _entry(db: sqlite3.Connection, whole: str, exact: bool) -> tuple[int, str] | None:
    # Media are read with names in lower case by some systems, in upper case by others.
    for file, at, found in _named(db, whole):
        if found == whole or not exact:
            return file, at
    return None


def _named(db: sqlite3.Connection, whole: str) -> Iterator[tuple[int, str, str]]:
    yield from db.execute(
        "SELECT file, at, whole FROM entry WHERE whole = ? COLLATE NOCASE "
        "ORDER BY whole != ?, whole, file, at",
        (whole, whole),
    )


def _place(whole: str) -> str:
    return whole.rpartition("/")[0]
