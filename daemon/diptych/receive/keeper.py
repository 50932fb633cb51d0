"""The last step before 0x0000: bytes in the journal, a file, a committed row; for all who wait.

Whoever comes while others are being kept waits, and is kept together with everybody else who came:
one sync and one transaction for all of them, and none when nobody else is there to wait for.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from diptych import faults
from diptych.audit import blobs, receipts
from diptych.audit.store import Store
from diptych.errors import StoreError
from diptych.log import get_logger
from diptych.receive.journal import Entry, Journal, NoRoom
from diptych.receive.spool import Spool

log = get_logger(__name__)

# Of one round: much less than a segment of the journal.
_BYTES_AT_ONCE = 16 << 20


@dataclass(frozen=True)
class Arrival:
    """``content``: the Part 10 file with its data set at ``offset``, and ``aside`` where it lies
    unsynced (``Spool.write_aside``); None: it is a durable file in its place already."""

    receipt: receipts.Arrival
    offset: int
    content: bytes | None
    aside: Path | None = None


class Keeper:
    """Keeps what one acceptor receives."""

    def __init__(self, store: Store, spool: Spool, journal: Journal) -> None:
        self._store, self._spool, self._journal = store, spool, journal
        self._waiting: list[_Waiting] = []
        self._lock, self._leading = threading.Lock(), threading.Lock()

    def keep(self, arrival: Arrival) -> receipts.Recorded:
        """Returns when file and row are on disk. Raises StoreError: then it is not kept."""
        mine = _Waiting(arrival)
        with self._lock:
            self._waiting.append(mine)
        with self._leading:
            while not mine.done:
                self._round()
        if mine.recorded is None:
            if arrival.aside is not None:
                arrival.aside.unlink(missing_ok=True)
            raise StoreError(mine.error)
        return mine.recorded

    def _round(self) -> None:
        with self._lock:
            size = count = 0
            for waiting in self._waiting:
                size += len(waiting.arrival.content or b"")
                if count and size > _BYTES_AT_ONCE:
                    break
                count += 1
            chosen, self._waiting = self._waiting[:count], self._waiting[count:]
        try:
            recorded = self._keep([waiting.arrival for waiting in chosen])
            for waiting, done in zip(chosen, recorded, strict=True):
                waiting.recorded = done
        except Exception as error:
            for waiting in chosen:
                waiting.error = _in_words(error)
            self._remove_unless_recorded([w.arrival.receipt.stored.locator for w in chosen])
        finally:  # whoever waits must have an answer
            for waiting in chosen:
                waiting.done = True

    def _keep(self, arrivals: list[Arrival]) -> list[receipts.Recorded]:
        entries = [
            (Entry(stored.locator, arrival.offset, stored.sha256, arrival.content), arrival.aside)
            for arrival in arrivals
            if (stored := arrival.receipt.stored)
            and arrival.content is not None
            and arrival.aside is not None
        ]
        try:
            if entries:
                self._journal.append(entries)
        except NoRoom:
            for entry, aside in entries:
                self._spool.place(aside, entry.locator, durably=True)
        faults.point("receive.before-commit")
        recorded = receipts.record(
            self._store,
            [arrival.receipt for arrival in arrivals],
            lambda locator: self._spool.path(locator).exists(),
        )
        for arrival, done in zip(arrivals, recorded, strict=True):
            if done.bytes_known:
                self._spool.remove(arrival.receipt.stored.locator)
        faults.point("receive.after-commit")
        return recorded

    def _remove_unless_recorded(self, locators: list[str]) -> None:
        """A commit may be done although it reported an error: then the files are kept."""
        try:
            recorded = blobs.kept(self._store, locators)
            for locator in locators:
                if locator not in recorded:
                    self._spool.remove(locator)
        except Exception:  # the error that led here is the one to tell
            log.error("spool-file-left")


class _Waiting:
    def __init__(self, arrival: Arrival) -> None:
        self.arrival, self.done = arrival, False
        self.recorded: receipts.Recorded | None = None
        self.error = ""


def _in_words(error: Exception) -> str:
    if isinstance(error, StoreError):
        return str(error)
    if isinstance(error, OSError):
        return f"spool: {error.strerror}"
    return f"internal: {type(error).__name__}"
