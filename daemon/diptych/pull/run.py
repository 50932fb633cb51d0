"""Fetch a date range from an archive into the running daemon, slowly, and go on after a stop.

    C-FIND studies of a day → C-FIND series of a study → C-MOVE or C-GET of a series → written down

What counts as completed was answered with 0x0000 by the daemon, so it is on disk and has its
receipt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as clock
from functools import partial
from typing import TypeVar

from pynetdicom import _config

from diptych.audit import pulls, work
from diptych.audit.store import Store
from diptych.pull.archive import Archive, Asking, Series, Unreachable
from diptych.pull.handing import Handing

_Answer = TypeVar("_Answer")

# An archive that went away is tried again after these seconds, doubled each time.
RETRY_SECONDS = 10.0
LONGEST_RETRY_SECONDS = 900.0
# How often it is looked whether the window has opened or judging has caught up.
WAIT_SECONDS = 5.0


@dataclass(frozen=True)
class Wanted:
    """What to fetch: days from ``since`` to ``until``, both included; no modalities: all."""

    since: date
    until: date
    modalities: frozenset[str]


@dataclass(frozen=True)
class Pace:
    """How fast: instances per second on average, only inside the daily window (local time, may
    span midnight), and never with more than ``most_pending`` series waiting for a verdict."""

    rate: float
    window: tuple[clock, clock] | None
    most_pending: int

    def open(self, at: clock) -> bool:
        """Whether the window is open at this time of day."""
        if self.window is None:
            return True
        begin, end = self.window
        return begin <= at < end if begin < end else at >= begin or at < end


@dataclass
class Summary:
    """What a run did."""

    studies: int = 0
    series: int = 0
    known: int = 0
    pulled: int = 0
    failed: int = 0
    instances: int = 0


class Puller:
    """One run: C-GET where there is a ``handing``, else C-MOVE.

    ``say`` gets a line for who watches; ``stop`` ends it between two series.
    """

    def __init__(
        self,
        archive: Archive,
        wanted: Wanted,
        pace: Pace,
        store: Store,
        handing: Handing | None = None,
        say: Callable[[str], None] = lambda _: None,
        stop: threading.Event | None = None,
    ) -> None:
        self._archive, self._wanted, self._pace = archive, wanted, pace
        self._store, self._say = store, say
        self._stop = stop or threading.Event()
        # The library's messages hold identifiers.
        _config.LOG_HANDLER_LEVEL = "none"
        self._asking, self._handing = Asking(archive), handing
        self._reached = False
        self.summary = Summary()

    def run(self) -> Summary:
        """Everything wanted that did not come before. Raises ArchiveError, and Unreachable where
        the archive was never reached."""
        day = self._wanted.since
        while day <= self._wanted.until and not self._stop.is_set():
            self._wait_until_allowed()
            for study in self._again(partial(self._asking.studies, day)):
                self.summary.studies += 1
                found = partial(self._asking.series, study, self._wanted.modalities)
                for series in self._again(found):
                    if self._stop.is_set():
                        return self.summary
                    self.summary.series += 1
                    if pulls.is_done(self._store, self._archive.name, series.study, series.uid):
                        self.summary.known += 1
                    else:
                        self._pull(series)
            self._say(f"{day}: {self.summary.pulled} series, {self.summary.instances} instances")
            day += timedelta(days=1)
        return self.summary

    def _pull(self, series: Series) -> None:
        self._wait_until_allowed()
        if self._stop.is_set():
            return
        began = time.monotonic()
        completed, failed = self._again(partial(self._retrieve, series))
        pulls.write_down(
            self._store, self._archive.name, series.study, series.uid, completed, failed
        )
        self.summary.instances += completed
        if failed:
            self.summary.failed += 1
        else:
            self.summary.pulled += 1
        self._stop.wait(max(0.0, completed / self._pace.rate - (time.monotonic() - began)))

    def _retrieve(self, series: Series) -> tuple[int, int]:
        """Instances that came, and that did not."""
        if self._handing is None:
            return self._asking.move(series)
        return self._asking.get(series, self._handing)

    def _wait_until_allowed(self) -> None:
        said = False
        while not self._stop.is_set():
            reason = self._reason_to_wait()
            if not reason:
                return
            if not said:
                self._say(f"waiting: {reason}")
                said = True
            self._stop.wait(WAIT_SECONDS)

    def _reason_to_wait(self) -> str:
        if not self._pace.open(datetime.now().time()):
            return "outside the window"
        with self._store.read() as connection:
            pending, _ = work.pending(connection)
        return f"{pending} series wait for a verdict" if pending > self._pace.most_pending else ""

    def _again(self, ask: Callable[[], _Answer]) -> _Answer:
        """Ask until the archive answers: it may be away for a night."""
        pause = RETRY_SECONDS
        while True:
            try:
                answer = ask()
                self._reached = True
                return answer
            except Unreachable as error:
                if not self._reached or self._stop.is_set():
                    raise
                self._say(f"{error}; again in {pause:.0f} s")
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_RETRY_SECONDS)
