"""The catalogue: one SQLite file in the output folder, written by one process.

A file is ``done`` in the same transaction that holds its last row, so a kill at any moment leaves
files that are done and files that are not, and going on ends where an undisturbed run would have.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from diptych.errors import ConfigError

from .entry import Entry, Name, Status

_SCHEMA_VERSION = 2
VERSION = "2"
"""Of the reading: a catalogue of another version is read again from the beginning."""

_COLUMNS = tuple(field.name for field in fields(Entry))
_LACKS = f"""entry.status = '{Status.READABLE}' AND EXISTS (SELECT 1 FROM lacking
  WHERE lacking.file = entry.file AND lacking.at = entry.at AND lacking.role = 'data')"""  # noqa: S608
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- An outermost file, or what stands in a folder in its place. where_: an absolute path or a URL,
-- as bytes. stamp: changes when the file does; '' when that cannot be known.
CREATE TABLE IF NOT EXISTS file (
  id INTEGER PRIMARY KEY, where_ BLOB NOT NULL UNIQUE, size INTEGER, stamp TEXT NOT NULL,
  done INTEGER NOT NULL, seen INTEGER NOT NULL, vendor TEXT, split TEXT, price TEXT);
CREATE INDEX IF NOT EXISTS file_waiting ON file (id) WHERE NOT done;
CREATE TABLE IF NOT EXISTS entry (
  file INTEGER NOT NULL REFERENCES file, {", ".join(_COLUMNS)}, PRIMARY KEY (file, at)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS name (
  file INTEGER NOT NULL, at TEXT NOT NULL, number INTEGER NOT NULL, role TEXT NOT NULL,
  name TEXT NOT NULL, PRIMARY KEY (file, at, number)) WITHOUT ROWID;
-- What an input names and is not there.
CREATE TABLE IF NOT EXISTS absent (
  named_by TEXT NOT NULL, name TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (named_by, name)
) WITHOUT ROWID;
-- Written by relate.py, wholly, from the above.
CREATE TABLE IF NOT EXISTS part (
  file INTEGER NOT NULL, at TEXT NOT NULL, of_file INTEGER NOT NULL, of_at TEXT NOT NULL,
  role TEXT NOT NULL, PRIMARY KEY (file, at)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS part_of ON part (of_file, of_at);
CREATE TABLE IF NOT EXISTS lacking (
  file INTEGER NOT NULL, at TEXT NOT NULL, number INTEGER NOT NULL, role TEXT NOT NULL,
  name TEXT NOT NULL, PRIMARY KEY (file, at, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS series (
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, study TEXT NOT NULL, series TEXT NOT NULL,
  place TEXT NOT NULL, modality TEXT NOT NULL, transfer_syntax TEXT NOT NULL,
  files INTEGER NOT NULL, planes INTEGER NOT NULL, bytes INTEGER NOT NULL,
  packed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS series_entry (
  series INTEGER NOT NULL REFERENCES series, file INTEGER NOT NULL, at TEXT NOT NULL,
  PRIMARY KEY (series, file, at)) WITHOUT ROWID;
-- Series that could not be laid down to be judged: by their key (diptych.screen.run).
CREATE TABLE IF NOT EXISTS unjudged (
  key TEXT PRIMARY KEY, reason TEXT NOT NULL, detail TEXT NOT NULL) WITHOUT ROWID;
-- What became of every entry, with what only the others could tell.
CREATE VIEW IF NOT EXISTS outcome AS
SELECT entry.file, entry.at, entry.whole, entry.size, entry.kind,
  CASE WHEN part.role IS NOT NULL THEN '{Status.NOT_AN_IMAGE}'
       WHEN {_LACKS} THEN '{Status.UNREADABLE}' ELSE entry.status END AS status,
  CASE WHEN part.role IS NOT NULL THEN part.role
       WHEN {_LACKS} THEN 'data-file-missing' ELSE entry.reason END AS reason,
  entry.detail
FROM entry LEFT JOIN part ON part.file = entry.file AND part.at = entry.at;
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Found:
    """What a listing found. ``refused``: what stands there is no file that could be read."""

    where: bytes
    size: int | None
    stamp: str
    vendor: str | None = None
    split: str | None = None
    price: str | None = None
    refused: Entry | None = None


@dataclass(frozen=True, slots=True)
class Absent:
    """What a manifest names and is not there, or may not be read."""

    named_by: str
    name: str
    reason: str


Listed = Found | Absent


class Catalogue:
    """Of the output folder ``out``; a context manager. Raises ConfigError when another process has
    it, or when it is no folder to write to."""

    def __init__(self, out: Path) -> None:
        self.path, self.scratch = out / "catalogue.sqlite3", out / "scratch"
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(
                out / "catalogue.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise ConfigError(f"{out} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.scratch, ignore_errors=True)  # of a run that was killed
            self.scratch.mkdir()
            self.db = self._opened()
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, BlockingIOError):
                raise ConfigError(f"{out} is in use by another `diptych screen`") from error
            if isinstance(error, sqlite3.Error):
                raise ConfigError(f"{self.path} cannot be used: {error}; remove it") from error
            raise

    def _opened(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version not in (0, _SCHEMA_VERSION):
            raise ConfigError(f"{self.path} is of another version of diptych: remove it")
        db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; {_SCHEMA}")
        db.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")
        return db

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        """Raises ConfigError where its file cannot be used, as when the disk is full."""
        self.close()
        if isinstance(error, sqlite3.Error):
            raise ConfigError(f"{self.path}: {error}") from error

    def close(self) -> None:
        """Once; what lay in the scratch folder goes."""
        self.db.close()
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.close(self._lock)

    def begin(self, setting: str) -> None:
        """Before listing. ``setting``: what the outcome depends on besides the files."""
        said = f"{VERSION} {setting}"
        with self.db:
            self.db.execute("BEGIN")
            known = self.db.execute("SELECT value FROM about WHERE key = 'setting'").fetchone()
            self.db.execute("INSERT OR REPLACE INTO about VALUES ('setting', ?)", (said,))
            if known is not None and known[0] != said:
                self.db.execute("UPDATE file SET done = 0")
            self.db.execute("UPDATE file SET seen = 0")
            self.db.execute("DELETE FROM about WHERE key = 'related'")
            self.db.execute("DELETE FROM absent")

    @property
    def whole(self) -> bool:
        """Whether it was brought up to date to the end; else its series are not what is there."""
        found = self.db.execute("SELECT 1 FROM about WHERE key = 'related'").fetchone()
        return found is not None

    def listed(self, some: Iterable[Listed]) -> None:
        """In one transaction; a file that is unchanged and done stays done."""
        with self.db:
            self.db.execute("BEGIN")
            for each in some:
                if isinstance(each, Found):
                    self._list(each)
                else:
                    row = (each.named_by, each.name, each.reason)
                    self.db.execute("INSERT OR REPLACE INTO absent VALUES (?, ?, ?)", row)

    def _list(self, each: Found) -> None:
        (number,) = self.db.execute(
            """INSERT INTO file (where_, size, stamp, done, seen, vendor, split, price)
            VALUES (?, ?, ?, 0, 1, ?, ?, ?) ON CONFLICT (where_) DO UPDATE SET
            done = done AND excluded.stamp != '' AND size IS excluded.size
              AND stamp = excluded.stamp OR seen AND done,
            size = excluded.size, stamp = excluded.stamp,
            vendor = CASE WHEN seen THEN COALESCE(excluded.vendor, vendor) ELSE excluded.vendor END,
            split = CASE WHEN seen THEN COALESCE(excluded.split, split) ELSE excluded.split END,
            price = CASE WHEN seen THEN COALESCE(excluded.price, price) ELSE excluded.price END,
            seen = 1 RETURNING id""",
            (each.where, each.size, each.stamp, each.vendor, each.split, each.price),
        ).fetchone()
        if each.refused is not None:
            self._forget(number)
            self._add(number, [each.refused])
            self.db.execute("UPDATE file SET done = 1 WHERE id = ?", (number,))

    def end_of_listing(self) -> int:
        """Forget what is not there any more and what was begun; how many files are to be read."""
        with self.db:
            self.db.execute("BEGIN")
            for table in ("entry", "name"):
                self.db.execute(
                    f"DELETE FROM {table} WHERE file IN "  # noqa: S608 - our own table names
                    "(SELECT id FROM file WHERE NOT seen OR NOT done)"
                )
            self.db.execute("DELETE FROM file WHERE NOT seen")
        return int(self.db.execute("SELECT COUNT(*) FROM file WHERE NOT done").fetchone()[0])

    def waiting(self, after: int, most: int) -> list[tuple[int, bytes, int | None]]:
        """(id, where, size) of files to read, by id."""
        return self.db.execute(
            "SELECT id, where_, size FROM file WHERE NOT done AND id > ? ORDER BY id LIMIT ?",
            (after, most),
        ).fetchall()

    def add(self, number: int, rows: list[Entry | Name], last: bool) -> None:
        """Rows of file ``number``; with the last of them it is done. ``commit`` follows."""
        if not self.db.in_transaction:
            self.db.execute("BEGIN")
        self._add(number, rows)
        if last:
            self.db.execute("UPDATE file SET done = 1 WHERE id = ?", (number,))

    def again(self, number: int) -> None:
        """Its reader died: what is there of it goes."""
        if not self.db.in_transaction:
            self.db.execute("BEGIN")
        self._forget(number)

    def commit(self) -> None:
        """What was added, if anything."""
        if self.db.in_transaction:
            self.db.execute("COMMIT")

    def leave_unjudged(self, key: str, reason: str, detail: str) -> None:
        """A series that cannot be read now, although its headers could."""
        with self.db:
            row = (key, reason, detail)
            self.db.execute("INSERT OR REPLACE INTO unjudged VALUES (?, ?, ?)", row)

    def retry(self) -> None:
        """Before judging: what could not be read may be readable now."""
        with self.db:
            self.db.execute("DELETE FROM unjudged")

    def unjudged(self) -> dict[str, tuple[str, str]]:
        """Key → reason and detail."""
        rows = self.db.execute("SELECT key, reason, detail FROM unjudged")
        return {key: (reason, detail) for key, reason, detail in rows}

    def dump(self) -> Iterator[tuple[object, ...]]:
        """All that was found, in an order of its own: the same for the same inputs."""
        columns = ", ".join(f"entry.{name}" for name in _COLUMNS)
        yield from self.db.execute(
            f"SELECT where_, file.size, stamp, done, vendor, split, price, {columns} "  # noqa: S608
            "FROM file LEFT JOIN entry ON entry.file = file.id ORDER BY where_, at"
        )
        yield from self.db.execute(
            "SELECT where_, at, number, role, name FROM name JOIN file ON file.id = name.file "
            "ORDER BY where_, at, number"
        )
        yield from self.db.execute("SELECT * FROM absent ORDER BY 1, 2")
        yield from self.db.execute(
            "SELECT kind, study, series, place, files, planes, bytes FROM series ORDER BY 1,2,3,4"
        )

    def _add(self, number: int, rows: list[Entry | Name]) -> None:
        marks = ", ".join("?" * (len(_COLUMNS) + 1))
        entries = [(number, *astuple(row)) for row in rows if isinstance(row, Entry)]
        names = [
            (number, row.at, row.number, row.role, row.name)
            for row in rows
            if isinstance(row, Name)
        ]
        self.db.executemany(f"INSERT INTO entry VALUES ({marks})", entries)  # noqa: S608
        self.db.executemany("INSERT INTO name VALUES (?, ?, ?, ?, ?)", names)

    def _forget(self, number: int) -> None:
        for table in ("entry", "name"):
            self.db.execute(f"DELETE FROM {table} WHERE file = ?", (number,))  # noqa: S608
