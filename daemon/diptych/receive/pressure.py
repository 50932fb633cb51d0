"""Back-pressure: nothing more is taken on before it harms what is there.

| what is short | a new association that would store | an instance |
|---|---|---|
| free space below ``spool.min_free_bytes`` | rejected, ``low-space`` | 0xA700, ``low-space`` |
| pending series at ``dicom.maximum_pending_series`` | rejected, ``backlog`` | stored |
| pending series at twice that number | rejected, ``backlog`` | 0xA700, ``backlog`` |

Rejections are transient (temporary congestion), so a router waits and tries again; what is under
way may finish. An association for verification only (C-ECHO) is always welcome.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from pynetdicom.sop_class import Verification

from diptych.audit import work
from diptych.audit.store import Store
from diptych.config import Config
from diptych.errors import StoreError
from diptych.receive.spool import Spool

# A-ASSOCIATE-RJ (PS3.8 table 9-21): transient, service provider (presentation), congestion.
TEMPORARY_CONGESTION = (0x02, 0x03, 0x01)

BACKLOG, LOW_SPACE = "backlog", "low-space"

# However many ask, the database is asked at most this often.
COUNT_SECONDS = 1.0


class Pressure:
    """What one acceptor knows of how much is pending and how much room is left."""

    def __init__(self, config: Config, store: Store, spool: Spool) -> None:
        self._limit = config.dicom.maximum_pending_series
        self._min_free_bytes = config.spool.min_free_bytes
        self._store, self._spool = store, spool
        self._lock = threading.Lock()
        self._counted_at, self._pending = -COUNT_SECONDS, 0

    def refuses_association(self, abstract_syntaxes: Iterable[str | None]) -> str:
        """Why an association that asks for these SOP classes has to wait; empty: it has not."""
        if all(uid == Verification for uid in abstract_syntaxes):
            return ""
        if self._spool.free_bytes() < self._min_free_bytes:
            return LOW_SPACE
        return BACKLOG if self._limit and self._count() >= self._limit else ""

    def refuses_instance(self) -> str:
        """Why an instance of an association that is open cannot be taken; empty: it can."""
        if self._spool.free_bytes() < self._min_free_bytes:
            return LOW_SPACE
        return BACKLOG if self._limit and self._count() >= 2 * self._limit else ""

    def _count(self) -> int:
        with self._lock:
            if time.monotonic() - self._counted_at >= COUNT_SECONDS:
                try:
                    with self._store.read() as connection:
                        self._pending, _ = work.pending(connection)
                except StoreError:
                    # Away: that has its own answer, when the receipt is to be written.
                    self._pending = 0
                self._counted_at = time.monotonic()
            return self._pending
