"""The connection to the audit database: reads anywhere, one writer per process.

SQLite runs in WAL with synchronous=FULL, so a commit is on disk when it returns; every write
begins with BEGIN IMMEDIATE, so two processes never deadlock on a lock upgrade. Nothing slow
happens inside a write transaction.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, TimeoutError

from diptych.errors import StoreError

# Longer than any write transaction here (under 20 ms), short enough that a sender hears 0xA700.
BUSY_SECONDS = 10
_WRITE = "diptych_write"


def now() -> int:
    """UTC in integer microseconds."""
    return time.time_ns() // 1000


class Store:
    """The audit database of one process."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)
        self._writer = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent snapshot. Raises StoreError when the database is away."""
        with _translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, on disk when the block ends. Raises StoreError, then nothing is kept."""
        # Waiters must not add up: each would wait for the one before it, and for the database.
        if not self._writer.acquire(timeout=BUSY_SECONDS):
            raise StoreError("audit database: busy")
        try:
            with (
                _translated(),
                self.engine.connect().execution_options(**{_WRITE: True}) as connection,
                connection.begin(),
            ):
                yield connection
        finally:
            self._writer.release()

    def scrub(self) -> None:
        """Fold SQLite's write-ahead log into the database and empty it, so that what was deleted
        is in neither file; as far as other readers allow, else at a later checkpoint."""
        if self.engine.dialect.name == "sqlite":
            with _translated(), closing(self.engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        # The statement and its parameters hold identifiers: name only the driver's own words, and
        # of these the first line (PostgreSQL quotes the offending values in its DETAIL).
        words = str(error.orig).splitlines()
        raise StoreError(f"audit database: {words[0] if words else 'no words'}") from error
    except TimeoutError as error:
        raise StoreError("audit database: no connection became free") from error


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, hide_parameters=True)
    engine = create_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: DBAPIConnection, _record: Any) -> None:
        # The driver must not begin transactions on its own: see _begin.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        if (cursor.fetchone() or ("",))[0] != "wal":
            raise sqlite3.OperationalError("its file system does not allow a write-ahead log")
        # secure_delete: what is forgotten is overwritten, not only unlinked.
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
