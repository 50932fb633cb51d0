"""What the daemon says of itself now: the conditions of /readyz and the gauges of /metrics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sqlalchemy import func, select

from diptych.audit import commitments, counters, forwards, schema, work
from diptych.audit.store import Store, now
from diptych.errors import StoreError
from diptych.receive.spool import Spool

# However often readiness is asked for, disk and database are written to at most this often.
PROBE_SECONDS = 1.0


class Readings:
    """``receiving`` and ``judging`` say what is wrong with the processes; empty: nothing."""

    def __init__(
        self,
        store: Store,
        spool: Spool,
        min_free_bytes: int,
        maximum_pending_series: int,
        receiving: Callable[[], str],
        judging: Callable[[], str],
        destinations: tuple[str, ...],
    ) -> None:
        self._store, self._spool, self._min_free_bytes = store, spool, min_free_bytes
        self._maximum_pending_series = maximum_pending_series
        self._receiving, self._judging = receiving, judging
        self._destinations = destinations
        self._lock = threading.Lock()
        self._probed: dict[str, tuple[float, str]] = {}

    def conditions(self) -> dict[str, str]:
        """Each condition of readiness and what is wrong with it; empty text: it holds."""
        return {
            "database": self._probe("database", self._commit),
            "spool": self._probe("spool", self._write_and_measure),
            "backlog": self._probe("backlog", self._backlog),
            "receiving": self._receiving(),
            "judging": self._judging(),
        }

    def gauges(self) -> dict[str, float | dict[str, float]]:
        """Metric name → value (of a labelled one: label → value). Raises StoreError when the
        database is away."""
        with self._store.read() as connection:
            pending, oldest = work.pending(connection)
            owed = forwards.waiting(connection)
            unreported = commitments.pending(connection)
            kept = connection.execute(
                select(func.coalesce(func.sum(schema.blob.c.bytes), 0)).where(
                    schema.blob.c.purged_at.is_(None)
                )
            ).scalar_one()
            snapshot = connection.execute(
                select(schema.gauge.c.updated_at).where(schema.gauge.c.name == "index_snapshot")
            ).scalar_one_or_none()
        readings: dict[str, float | dict[str, float]] = {
            **self._forwarding(owed),
            "diptych_commitment_pending_requests": float(unreported),
            "diptych_pending_series": float(pending),
            "diptych_pending_series_limit": float(self._maximum_pending_series),
            "diptych_oldest_pending_seconds": (now() - oldest) / 1e6 if oldest else 0.0,
            "diptych_spool_free_bytes": float(self._spool.free_bytes()),
            "diptych_spool_bytes": float(kept),
            "diptych_quarantine_files": float(sum(1 for _ in self._spool.quarantine.iterdir())),
            "diptych_ready": float(not any(self.conditions().values())),
        }
        if snapshot is not None:
            readings["diptych_index_snapshot_age_seconds"] = (now() - snapshot) / 1e6
        return readings

    def _backlog(self) -> None:
        with self._store.read() as connection:
            pending, _ = work.pending(connection)
        if self._maximum_pending_series and pending >= self._maximum_pending_series:
            raise StoreError(
                f"{pending} series are not judged yet, {self._maximum_pending_series} may be: "
                "new associations are rejected for now"
            )

    def _commit(self) -> None:
        """Down to the disk; only a changed value is written there."""
        with self._store.write() as connection:
            counters.set_gauge(connection, "readiness_probe", 1)

    def _forwarding(self, owed: dict[str, tuple[int, int]]) -> dict[str, dict[str, float]]:
        """Each destination by name; those no longer configured together, as the last."""
        pending = dict.fromkeys(self._destinations, 0.0)
        age = dict.fromkeys(self._destinations, 0.0)
        for name, (number, since) in owed.items():
            label = name if name in pending else self._destinations[-1]
            pending[label] += number
            age[label] = max(age[label], (now() - since) / 1e6)
        return {
            "diptych_forward_pending_instances": pending,
            "diptych_forward_oldest_pending_seconds": age,
        }

    def _write_and_measure(self) -> None:
        self._spool.probe()
        if self._spool.free_bytes() < self._min_free_bytes:
            raise StoreError(f"spool: less than {self._min_free_bytes} bytes free")

    def _probe(self, name: str, probe: Callable[[], None]) -> str:
        with self._lock:
            at, problem = self._probed.get(name, (-PROBE_SECONDS, ""))
            if time.monotonic() - at > PROBE_SECONDS:
                try:
                    probe()
                    problem = ""
                except StoreError as error:
                    problem = str(error)
                self._probed[name] = (time.monotonic(), problem)
            return problem
