"""Whose database this is: one daemon at a time, and the one spool that its rows speak of.

A row says where an instance's bytes lie, and that is a file below one data folder. A daemon with
another folder would find every file missing, and mark as lost what was acknowledged; so the
database remembers the folder's identity (a file in it), and a start with another one is refused.
With SQLite in the data folder the two cannot be parted, and nothing of this is asked.

Two daemons on one PostgreSQL, each with a spool of its own, are refused. It would need blobs that
belong to a node, and slices of one series that came to two nodes to be brought together before they
are judged. What is ready for it: judging itself (``Store.judging``, ``verdicts.record``,
``Pipeline``), for several workers may judge one archive.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, func, select, text

from diptych.audit import counters, postgres
from diptych.audit.schema import blob, gauge
from diptych.audit.store import Store
from diptych.errors import ConfigError, StoreError
from diptych.log import get_logger

log = get_logger(__name__)

# How soon a daemon notices that its session is gone, and takes the lock again.
_LOOK_SECONDS = 1.0
# The session of a daemon that was just killed ends within this.
_ENDED_SECONDS = 5.0
_SPOOL = "spool"


class Taken(ConfigError):
    """Another daemon uses the database."""


@contextmanager
def alone(store: Store, lost: Callable[[str], None]) -> Iterator[None]:
    """Be the only daemon on the database. Raises Taken, and StoreError when it is away.

    The lock goes with its session. A lost one is taken again as soon as the server answers;
    ``lost`` hears, in words, that another daemon was quicker: this one must stop then.
    """
    if not store.is_postgresql:
        yield
        return
    stop, held = threading.Event(), threading.Event()
    problem: list[Exception] = []
    thread = threading.Thread(
        target=_hold, args=(store, stop, held, problem, lost), name="alone", daemon=True
    )
    thread.start()
    held.wait()
    if problem:
        raise problem[0]
    try:
        yield
    finally:
        stop.set()
        thread.join(2 * _LOOK_SECONDS)


def bind(store: Store, folder: Path, by_force: bool = False) -> None:
    """The rows speak of the spool ``folder`` from now on.

    Raises ConfigError when they speak of files in another one, unless ``by_force``: the next start
    then marks what is not in this one as lost.
    """
    mine = _identity(folder)
    with store.write() as connection:
        known, where = _known(connection)
        if known == mine:
            return
        kept = connection.execute(
            select(func.count(blob.c.id)).where(blob.c.purged_at.is_(None))
        ).scalar_one()
        if known is not None and kept and not by_force:
            raise ConfigError(
                f"the database's pixels ({kept} files) lie in another spool, last used as {where}, "
                f"not in {folder}: start with that data folder. Is it gone for good, or was it "
                "moved without its file `identity`? `diptych db adopt` makes this one the "
                "database's; what is not in it is then marked as lost"
            )
        counters.set_gauge(
            connection, _SPOOL, float(kept), f"{mine} {socket.gethostname()}:{folder}"
        )


def _known(connection: Connection) -> tuple[str | None, str]:
    said = connection.execute(
        select(gauge.c.text).where(gauge.c.name == _SPOOL)
    ).scalar_one_or_none()
    identity, _, where = (said or "").partition(" ")
    return identity or None, where


def _identity(folder: Path) -> str:
    """The spool's own, made at its first use."""
    path = folder / "identity"
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="ascii") as file:
            file.write(f"{uuid.uuid4()}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        return path.read_text("ascii").strip()


def _hold(
    store: Store,
    stop: threading.Event,
    held: threading.Event,
    problem: list[Exception],
    lost: Callable[[str], None],
) -> None:
    away, began = False, time.monotonic()
    while not stop.is_set():
        try:
            with store.session(postgres.DAEMON, wait=False) as connection:
                if connection is None:
                    raise Taken(_taken(store))
                held.set()
                away = False
                while not stop.wait(_LOOK_SECONDS):
                    connection.execute(text("SELECT 1"))
                return
        except (Taken, StoreError) as error:
            if not held.is_set():
                if isinstance(error, Taken) and time.monotonic() - began < _ENDED_SECONDS:
                    stop.wait(_LOOK_SECONDS / 4)
                    continue
                problem.append(error)
                held.set()
                return
            if isinstance(error, Taken):
                lost(str(error))
                return
            if not away:
                log.error("database-away", error=str(error))
            away = True
            stop.wait(_LOOK_SECONDS)


def _taken(store: Store) -> str:
    with store.read() as connection:
        _, where = _known(connection)
    return (
        f"another daemon uses this database (its spool is {where or 'not known'}): stop it, or "
        "give this one a database of its own"
    )
