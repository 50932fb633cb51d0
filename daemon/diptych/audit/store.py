"""The connection to the audit database: reads anywhere, one writer at a time.

SQLite runs in WAL with synchronous=FULL, so a commit is on disk when it returns; every write
begins with BEGIN IMMEDIATE, so two processes never deadlock on a lock upgrade. PostgreSQL is made
to do the same (``audit.postgres``). Nothing slow happens inside a write transaction.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, TimeoutError

from diptych.audit import postgres
from diptych.errors import StoreError

# Longer than any write transaction here (under 20 ms), short enough that a sender hears 0xA700.
BUSY_SECONDS = 10
_WRITE = "diptych_write"


def now() -> int:
    """UTC in integer microseconds."""
    return time.time_ns() // 1000


class Refused(StoreError):
    """The database refuses the row itself: trying again changes nothing."""


class Store:
    """The audit database of one process. ``patient``: it waits for a statement however long it
    takes. Raises ConfigError when the URL cannot be used."""

    def __init__(self, url: str, patient: bool = False) -> None:
        self.url = url
        parsed = make_url(url)
        self.is_postgresql = parsed.get_backend_name() == "postgresql"
        if self.is_postgresql:
            self.engine = postgres.engine(parsed, BUSY_SECONDS, patient)
            self._sessions = postgres.sessions(parsed)
        else:
            self.engine = _sqlite(parsed)
        event.listen(self.engine, "begin", _begin)
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

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Nobody else judges meanwhile. With SQLite nobody else can: one daemon, one worker."""
        if not self.is_postgresql:
            yield
            return
        with self.session(postgres.JUDGING) as connection:
            assert connection is not None
            yield

    @contextmanager
    def session(self, key: int, wait: bool = True) -> Iterator[Connection | None]:
        """A session of PostgreSQL that holds the advisory lock ``key``; without ``wait`` None when
        another one holds it. Raises StoreError."""
        with _translated(), self._sessions.connect() as connection:
            function = "pg_advisory_lock" if wait else "pg_try_advisory_lock"
            got = connection.execute(text(f"SELECT {function}(:key)"), {"key": key}).scalar_one()
            yield connection if got is not False else None

    def scrub(self) -> None:
        """Fold SQLite's write-ahead log into the database and empty it, so that what was deleted
        is in neither file; as far as other readers allow, else at a later checkpoint. On PostgreSQL
        vacuum: what was deleted can no longer be asked for. Bytes of it may stay in pages until
        they are written over, in the server's log and in its backups: these are the server's."""
        if self.is_postgresql:
            with _translated(), self._sessions.connect() as connection:
                postgres.vacuum(connection)
            return
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
        # The statement, its parameters and the server's DETAIL hold identifiers: only the driver's
        # own words are passed on, and the first line of these.
        orig: BaseException = error.orig or error
        said, busy = postgres.words(orig) or "no words", postgres.is_busy(orig)
        refused = isinstance(error, (DataError, IntegrityError)) or postgres.refuses_the_row(orig)
        _silence(error, said)
        kind = Refused if refused else StoreError
        raise kind(f"audit database: {'busy' if busy else said}") from error
    except TimeoutError as error:
        raise StoreError("audit database: no connection became free") from error


def _silence(error: BaseException | None, said: str) -> None:
    """Leave nothing but ``said`` in an error and in those that it came from."""
    while error is not None:
        if isinstance(error, DBAPIError):
            _silence(error.orig, said)
            error.statement = error.params = None
        if isinstance(error, DBAPIError) or (error.args and isinstance(error.args[0], dict)):
            error.args = (said,)
        error = error.__cause__ or error.__context__


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITE, False)
    if connection.dialect.name == "postgresql":
        postgres.begin(connection, writes)
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _sqlite(url: URL) -> Engine:
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

    return engine
