"""What the daemon says of itself now: the conditions of /readyz and the gauges of /metrics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sqlalchemy import func, select

from diptych.audit import commitments, counters, forwards, schema, work
from diptych.audit.store import Store, now
from diptych.config import Config
from diptych.errors import StoreError
from diptych.receive.spool import Spool
from diptych.sections import OTHER_SOURCE, Source

# However often readiness is asked for, disk and database are written to at most this often.
PROBE_SECONDS = 1.0
# A receipt is committed at most so long after the time it names (a busy database: 10 s).
LATE_SECONDS = 60


class Readings:
    """``receiving`` and ``judging`` say what is wrong with the processes; empty: nothing."""

    def __init__(
        self,
        config: Config,
        store: Store,
        spool: Spool,
        receiving: Callable[[], str],
        judging: Callable[[], str],
    ) -> None:
        self._store, self._spool = store, spool
        self._min_free_bytes = config.spool.min_free_bytes
        self._maximum_pending_series = config.dicom.maximum_pending_series
        self._receiving, self._judging = receiving, judging
        self._destinations = config.destination_names()
        self._sources = config.source_names()
        self._limits = _limits(config)
        self._lock = threading.Lock()
        self._probed: dict[str, tuple[float, str]] = {}
        self._last_received: dict[str, int] = {}

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
            unreported, requested = commitments.pending(connection)
            kept = connection.execute(
                select(func.coalesce(func.sum(schema.blob.c.bytes), 0)).where(
                    schema.blob.c.purged_at.is_(None)
                )
            ).scalar_one()
            snapshot = connection.execute(
                select(schema.gauge.c.updated_at).where(schema.gauge.c.name == "index_snapshot")
            ).scalar_one_or_none()
            came = work.last_received(connection, self._looked_until())
        readings: dict[str, float | dict[str, float]] = {
            **self._limits,
            **self._forwarding(owed),
            "diptych_last_receipt_timestamp_seconds": self._receipts(came),
            "diptych_commitment_pending_requests": float(unreported),
            "diptych_commitment_oldest_pending_seconds": _age(requested),
            "diptych_pending_series": float(pending),
            "diptych_pending_series_limit": float(self._maximum_pending_series),
            "diptych_oldest_pending_seconds": _age(oldest),
            "diptych_spool_free_bytes": float(self._spool.free_bytes()),
            "diptych_spool_free_bytes_limit": float(self._min_free_bytes),
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

    def _looked_until(self) -> int:
        """All but the first scrape ask for what came since: the table has every series ever."""
        with self._lock:
            newest = max(self._last_received.values(), default=0)
        return max(0, newest - LATE_SECONDS * work.MICROSECONDS)

    def _receipts(self, came: dict[str, int]) -> dict[str, float]:
        """Each source that ever sent; those no longer configured together."""
        with self._lock:
            for name, at in came.items():
                label = name if name in self._sources else OTHER_SOURCE
                self._last_received[label] = max(at, self._last_received.get(label, 0))
            return {name: at / 1e6 for name, at in self._last_received.items()}

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


def _limits(config: Config) -> dict[str, float | dict[str, float]]:
    """What alerts compare with, by source; peers that no source matches have the defaults."""
    sources = (*config.source, Source.model_construct(name=OTHER_SOURCE))
    return {
        "diptych_alert_duplicate_ratio_limit": {s.name: s.alert_duplicate_ratio for s in sources},
        "diptych_alert_minimum_series": {s.name: float(s.alert_minimum_series) for s in sources},
        "diptych_alert_silent_seconds": {s.name: s.alert_silent_seconds for s in sources},
    }


def _age(since: int | None) -> float:
    """Seconds; 0 for nothing."""
    return 0.0 if since is None else (now() - since) / 1e6
