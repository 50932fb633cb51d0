"""Notes between a command and the worker that owns the index."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from diptych.audit import counters
from diptych.audit.schema import event, gauge
from diptych.audit.store import Store


def request_rebuild(store: Store) -> None:
    """Ask the worker to build its index anew."""
    with store.write() as connection:
        counters.set_gauge(connection, "index_rebuild_requested", 1)


def rebuild_requested(connection: Connection) -> int:
    """When a rebuild was last asked for (UTC microseconds); 0: never."""
    return int(
        connection.execute(
            select(gauge.c.updated_at).where(gauge.c.name == "index_rebuild_requested")
        ).scalar_one_or_none()
        or 0
    )


def last_forgotten(connection: Connection) -> int:
    """seq of the newest ``forget`` event; 0: none. When it grows, the index holds too much."""
    return int(
        connection.execute(
            select(func.max(event.c.seq)).where(event.c.kind == "forget")
        ).scalar_one_or_none()
        or 0
    )
