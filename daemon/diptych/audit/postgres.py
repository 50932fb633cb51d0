"""PostgreSQL as the audit database: its sessions, its errors, and three locks.

WRITE. SQLite lets one transaction write at a time (BEGIN IMMEDIATE), and much rests on that: ids in
the order of commits, an event chain without a fork, keys of index nodes, a receipt that finds the
series and the bytes that another has just recorded. Here every write transaction begins with the
same advisory lock and means the same: what it reads is committed and stays, so between processes of
ours there is no unique violation to repeat, no deadlock, and no lost update. It is held for
milliseconds; who receives together commits together (``receive.keeper``).

JUDGING. Search → verdict → commit → add is one step per archive, over hosts (``Store.judging``). A
session can be lost while its holder goes on (a restarted server, a cut network), so nothing rests
on this lock alone: the verdict's transaction refuses when another verdict was recorded since its
search began (``verdicts.record``), and every search begins by adding to the index what others
recorded.

DAEMON. One daemon per database (``audit.daemons``): a spool is files of one host, and a series
whose slices came to two of them could be judged by neither.
"""

from __future__ import annotations

import ssl
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext

from diptych.errors import ConfigError

# Advisory locks are of one database, and that holds one archive. Keys: "DIPT" and a number.
WRITE, JUDGING, DAEMON = (0x44495054 << 32 | number for number in range(1, 4))

# Without a word from the server for so long it is gone; longer than any statement of the daemon.
_ANSWER_SECONDS = 30
# A client that hangs inside a transaction must not keep everybody else from writing.
_IDLE_SECONDS = 60
# One series is judged in seconds, the largest in minutes.
_JUDGING_SECONDS = 600
# Class 57P0x: the server is stopped, has crashed, or does not take connections yet.
_GONE = ("57P01", "57P02", "57P03")
# Invalid values and broken constraints: the row's fault, whenever it is written.
_REFUSING_CLASSES = ("22", "23")
_LOCK_NOT_AVAILABLE = "55P03"

_WRITES = text(
    "SELECT set_config('idle_in_transaction_session_timeout', :idle, true),"
    " pg_advisory_xact_lock(:key)"
)
_SESSION = text(
    "SELECT set_config('lock_timeout', :locks, false),"
    # A host that vanished holds no lock for hours.
    " set_config('tcp_keepalives_idle', '30', false),"
    " set_config('tcp_keepalives_interval', '10', false),"
    " set_config('tcp_keepalives_count', '3', false),"
    # What is answered with success is on the server's disk, whatever the database's default is.
    " set_config('synchronous_commit', CASE current_setting('synchronous_commit')"
    " WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)"
)


def engine(url: URL, busy_seconds: float, patient: bool) -> Engine:
    """For short transactions. ``patient``: no bound on how long a statement takes (a migration)."""
    made = create_engine(
        _without_options(url),
        pool_pre_ping=True,
        pool_size=2,
        max_overflow=14,
        pool_timeout=busy_seconds,
        hide_parameters=True,
        connect_args=_connect_args(url, None if patient else _ANSWER_SECONDS),
    )
    _set_up(made, busy_seconds)
    return made


def sessions(url: URL) -> Engine:
    """For locks that are held longer than a transaction: each connection is its own session."""
    made = create_engine(
        _without_options(url),
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        connect_args=_connect_args(url, _JUDGING_SECONDS + _ANSWER_SECONDS),
    )
    _set_up(made, _JUDGING_SECONDS)
    return made


def begin(connection: Connection, writes: bool) -> None:
    """The first words of a transaction."""
    if writes:
        connection.execute(_WRITES, {"key": WRITE, "idle": f"{_IDLE_SECONDS * 1000}"})
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def vacuum(connection: Connection) -> None:
    """Clear deleted rows out of every table of ours (``connection``: of ``sessions``)."""
    tables = connection.execute(
        text(
            "SELECT quote_ident(tablename) FROM pg_tables"
            " WHERE schemaname = current_schema() AND tableowner = current_user"
        )
    ).scalars()
    for table in list(tables):
        connection.exec_driver_sql(f"VACUUM {table}")


def check_server(connection: Connection) -> None:
    """Raise ConfigError when the server could lose what it has committed, or not hold our text."""
    encoding, syncs = connection.execute(
        text("SELECT current_setting('server_encoding'), current_setting('fsync')")
    ).one()
    if encoding != "UTF8":
        raise ConfigError(
            f"the audit database has encoding {encoding}: make one with "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
    if syncs != "on":
        raise ConfigError(
            "the PostgreSQL server runs with fsync = off: a power cut would lose what senders were "
            "told is kept; set fsync = on"
        )


def words(error: BaseException) -> str:
    """What the server says, without the values it quotes. Also wipes them out of ``error``, for a
    traceback shows them."""
    said = error.args[0] if error.args else ""
    if isinstance(said, dict):
        said = str(said.get("M", "no words"))
        if code(error)[:2] in _REFUSING_CLASSES:
            said = said.partition(': "')[0]
    said = str(said).partition("\n")[0]
    if isinstance(error.__cause__, OSError) and error.__cause__.strerror:
        said = f"{said.rstrip('.')}: {error.__cause__.strerror}"
    return said


def code(error: BaseException) -> str:
    """The SQLSTATE; empty when it is no error of the server."""
    said = error.args[0] if error.args else ""
    return str(said.get("C", "")) if isinstance(said, dict) else ""


def is_busy(error: BaseException) -> bool:
    """Whether a lock was waited for in vain."""
    return code(error) == _LOCK_NOT_AVAILABLE


def refuses_the_row(error: BaseException) -> bool:
    """Whether the same row would be refused again."""
    return code(error)[:2] in _REFUSING_CLASSES


def _set_up(made: Engine, lock_seconds: float) -> None:
    @event.listens_for(made, "connect")
    def _configure(connection: DBAPIConnection, _record: Any) -> None:
        cursor = connection.cursor()
        statement = _SESSION.bindparams(locks=f"{int(lock_seconds * 1000)}").compile(
            dialect=made.dialect, compile_kwargs={"literal_binds": True}
        )
        cursor.execute(str(statement))
        cursor.close()
        connection.commit()

    @event.listens_for(made, "handle_error")
    def _notice(context: ExceptionContext) -> None:
        # The dialect does not know a server that says goodbye: the pool's connections are all dead.
        if code(context.original_exception) in _GONE:
            context.is_disconnect = True


# libpq's words in a URL, and what the driver calls them.
_OPTIONS = ("host", "sslmode", "sslrootcert")


def _without_options(url: URL) -> URL:
    return url.difference_update_query(_OPTIONS)


def _connect_args(url: URL, answer_seconds: float | None) -> dict[str, Any]:
    """Of the driver. Raises ConfigError for an option that it does not have."""
    given = {key: value for key, value in url.query.items() if isinstance(value, str)}
    for key in given.keys() - {*_OPTIONS, "unix_sock", "application_name"}:
        raise ConfigError(
            f"database.url: option {key!r} is not known; known are host (the folder of a socket), "
            "sslmode, sslrootcert, unix_sock and application_name"
        )
    made: dict[str, Any] = {"timeout": answer_seconds}
    if "application_name" not in given:
        made["application_name"] = "diptych"
    if "host" in given:
        made["unix_sock"] = f"{given['host']}/.s.PGSQL.{url.port or 5432}"
    mode = given.get("sslmode", "prefer")
    if mode == "disable":
        made["ssl_context"] = False
    elif mode == "require":
        made["ssl_context"] = True
    elif mode in ("verify-ca", "verify-full"):
        made["ssl_context"] = _verifying(mode, given.get("sslrootcert"))
    elif mode != "prefer":
        raise ConfigError(
            f"database.url: sslmode {mode!r}: disable, prefer, require, verify-ca or verify-full"
        )
    return made


def _verifying(mode: str, authorities: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=authorities)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"database.url: sslrootcert {authorities}: {error}") from error
    context.check_hostname = mode == "verify-full"
    # As libpq, and alike on every Python: 3.13 would refuse authorities without a key usage.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
