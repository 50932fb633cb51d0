"""Fetch a date range from an archive into our own listener, slowly, and go on after a stop.

    C-FIND studies of a day → C-FIND series of a study → C-MOVE series to us → written down

The archive sends to the running daemon like any sender: what it counts as completed was answered
with 0x0000 there, so it is on disk and has its receipt (PS3.4 annex C).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as clock
from functools import partial
from typing import TypeVar

from pydicom.dataset import Dataset
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)
from pynetdicom.status import code_to_category

from diptych.audit import pulls, work
from diptych.audit.store import Store
from diptych.errors import ConfigError

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

# An archive that went away is tried again after these seconds, doubled each time.
RETRY_SECONDS = 10.0
LONGEST_RETRY_SECONDS = 900.0
# How often it is looked whether the window has opened or judging has caught up.
WAIT_SECONDS = 5.0
# A whole series may take this long between two answers of the archive.
MOVE_SECONDS = 600.0


class ArchiveError(ConfigError):
    """The archive refuses what it is asked; trying again will not help."""


class Unreachable(ConfigError):
    """The archive cannot be reached, or ended the association."""


@dataclass(frozen=True)
class Archive:
    """Who is asked, by which title we call it, and where it sends to: our listener's title."""

    host: str
    port: int
    ae_title: str
    calling_ae_title: str
    destination: str

    @property
    def name(self) -> str:
        """What the progress of a pull is kept under."""
        return f"{self.ae_title}@{self.host}:{self.port}"


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


@dataclass(frozen=True)
class _Series:
    study: str
    uid: str


class Puller:
    """One run. ``say`` gets a line for who watches; ``stop`` ends it between two series."""

    def __init__(
        self,
        archive: Archive,
        wanted: Wanted,
        pace: Pace,
        store: Store,
        say: Callable[[str], None] = lambda _: None,
        stop: threading.Event | None = None,
    ) -> None:
        self._archive, self._wanted, self._pace = archive, wanted, pace
        self._store, self._say = store, say
        self._stop = stop or threading.Event()
        # The library's messages hold identifiers.
        _config.LOG_HANDLER_LEVEL = "none"
        self._ae = AE(ae_title=archive.calling_ae_title)
        self._ae.acse_timeout = self._ae.connection_timeout = 30
        self._ae.dimse_timeout = self._ae.network_timeout = MOVE_SECONDS
        self._ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
        self._ae.add_requested_context(StudyRootQueryRetrieveInformationModelMove)
        self._reached = False
        self.summary = Summary()

    def run(self) -> Summary:
        """Everything wanted that did not come before. Raises ArchiveError, and Unreachable where
        the archive was never reached."""
        day = self._wanted.since
        while day <= self._wanted.until and not self._stop.is_set():
            self._wait_until_allowed()
            for study in self._again(partial(self._studies, day)):
                self.summary.studies += 1
                for series in self._again(partial(self._series, study)):
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

    def _pull(self, series: _Series) -> None:
        self._wait_until_allowed()
        if self._stop.is_set():
            return
        began = time.monotonic()
        completed, failed = self._again(partial(self._move, series))
        pulls.write_down(
            self._store, self._archive.name, series.study, series.uid, completed, failed
        )
        self.summary.instances += completed
        if failed:
            self.summary.failed += 1
        else:
            self.summary.pulled += 1
        self._stop.wait(max(0.0, completed / self._pace.rate - (time.monotonic() - began)))

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

    def _studies(self, day: date) -> list[str]:
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyDate = day.strftime("%Y%m%d")
        query.StudyInstanceUID = ""
        return list(dict.fromkeys(str(found.StudyInstanceUID) for found in self._find(query)))

    def _series(self, study: str) -> list[_Series]:
        query = Dataset()
        query.QueryRetrieveLevel = "SERIES"
        query.StudyInstanceUID = study
        query.SeriesInstanceUID = ""
        query.Modality = ""
        wanted = self._wanted.modalities
        return [
            _Series(study, str(found.SeriesInstanceUID))
            for found in self._find(query)
            if "SeriesInstanceUID" in found and (not wanted or found.get("Modality") in wanted)
        ]

    def _find(self, query: Dataset) -> list[Dataset]:
        association = self._associate()
        try:
            return list(
                _answers(association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind))
            )
        except ValueError as error:
            raise ArchiveError("the archive does not offer Study Root C-FIND") from error
        finally:
            _end(association)

    def _move(self, series: _Series) -> tuple[int, int]:
        """Completed and failed sub-operations of a C-MOVE (PS3.4 section C.4.2)."""
        query = Dataset()
        query.QueryRetrieveLevel = "SERIES"
        query.StudyInstanceUID = series.study
        query.SeriesInstanceUID = series.uid
        association = self._associate()
        last = Dataset()
        try:
            for answer, _ in association.send_c_move(
                query, self._archive.destination, StudyRootQueryRetrieveInformationModelMove
            ):
                last = answer
        except ValueError as error:
            raise ArchiveError("the archive does not offer Study Root C-MOVE") from error
        finally:
            _end(association)
        if "Status" not in last:
            raise Unreachable("the archive did not finish a C-MOVE")
        if last.Status == 0xA801:
            raise ArchiveError(
                f"the archive does not know the AE title {self._archive.destination!r} to send to: "
                "add it there, with this node's address and port"
            )
        completed = int(last.get("NumberOfCompletedSuboperations") or 0)
        failed = int(last.get("NumberOfFailedSuboperations") or 0)
        if code_to_category(int(last.Status)) == "Failure":
            log.warning("a series is refused with 0x%04X", int(last.Status))
            return completed, max(failed, 1)
        return completed, failed

    def _associate(self) -> Association:
        where = self._archive
        association = self._ae.associate(where.host, where.port, ae_title=where.ae_title)
        if association.is_established:
            return association
        if association.is_rejected:
            raise Unreachable(
                f"the archive rejects {where.calling_ae_title!r}: let it in there, or name another "
                "title with --calling"
            )
        raise Unreachable(f"{where.host}:{where.port} cannot be reached")


def _answers(responses: Iterator[tuple[Dataset, Dataset | None]]) -> Iterator[Dataset]:
    for answer, found in responses:
        if "Status" not in answer:
            raise Unreachable("the archive did not finish a C-FIND")
        category = code_to_category(int(answer.Status))
        if category == "Pending" and found is not None:
            yield found
        elif category not in ("Pending", "Success"):
            raise ArchiveError(f"the archive answers a C-FIND with 0x{int(answer.Status):04X}")


def _end(association: Association) -> None:
    if association.is_established:
        association.release()
