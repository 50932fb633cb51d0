"""Counters and gauges in SQL: they grow in the transaction of what they count.

A histogram is kept as counters: one per bucket (not cumulative) under the label ``le``, and the
sum of its observations under ``<name>_sum``.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, select, text
from sqlalchemy.dialects import postgresql, sqlite

from diptych import metrics
from diptych.audit.schema import counter, gauge
from diptych.audit.store import now

Labels = Mapping[str, str]


def increment(
    connection: Connection, name: str, labels: Labels | None = None, by: float = 1
) -> None:
    """Add ``by`` to a counter, creating it at 0."""
    add(connection, [(name, labels or {}, by)])


def add(connection: Connection, increments: Iterable[tuple[str, Labels, float]]) -> None:
    """Add to several counters at once: (name, labels, by)."""
    rows = [{"name": name, "labels": _key(labels), "value": by} for name, labels, by in increments]
    connection.execute(_ADD, rows)


def observe(connection: Connection, name: str, value: float, labels: Labels | None = None) -> None:
    """Put ``value`` (seconds) into a histogram's bucket (PromQL's le: value ≤ bound).

    A clock that was set back makes 0 of a negative duration: a sum must never fall.
    """
    value, buckets = max(0.0, value), metrics.DURATION_BUCKETS
    at = bisect.bisect_left(buckets, value)
    le = "+Inf" if at == len(buckets) else repr(float(buckets[at]))
    labels = labels or {}
    add(connection, [(name, {**labels, "le": le}, 1), (f"{name}_sum", labels, value)])


def set_gauge(connection: Connection, name: str, value: float, text: str | None = None) -> None:
    """Write down a reading and when it was taken."""
    row = {"name": name, "value": value, "text": text, "updated_at": now()}
    insert = _insert(connection)(gauge).values(row)
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[gauge.c.name],
            set_={k: insert.excluded[k] for k in ("value", "text", "updated_at")},
        )
    )


def read_counters(connection: Connection) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All counters by (name, sorted label pairs)."""
    return {
        (row.name, tuple(sorted(json.loads(row.labels).items()))): row.value
        for row in connection.execute(select(counter))
    }


def read_gauges(connection: Connection) -> dict[str, tuple[float, str | None, int]]:
    """All readings by name: value, text, time in microseconds."""
    return {
        row.name: (row.value, row.text, row.updated_at) for row in connection.execute(select(gauge))
    }


def _insert(connection: Connection):  # type: ignore[no-untyped-def]
    return postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert


def _key(labels: Labels) -> str:
    return json.dumps(dict(sorted(labels.items())), separators=(",", ":"))


# Both dialects' words. Their own upsert constructs are compiled anew at every execution, which was
# most of what counting costs.
_ADD = text(
    "INSERT INTO counter (name, labels, value) VALUES (:name, :labels, :value) "
    "ON CONFLICT (name, labels) DO UPDATE SET value = counter.value + excluded.value"
)
