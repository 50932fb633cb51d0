"""One association's worth of sending: the queue of one destination, in order per series.

| the destination | what becomes of it |
|---|---|
| answers 0x0000 or a warning (0xBxxx) | sent, once more only if it is received again |
| cannot be reached, rejects, no TLS with it | all wait; the pause doubles with each failure |
| answers 0xA7xx, not at all, aborts | all wait; after ``PATIENCE`` tries the instance steps aside |
| answers otherwise, takes no such context | the instance steps aside and is offered again later |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.status import code_to_category

from diptych import faults
from diptych.audit import forwards
from diptych.audit.forwards import Duty
from diptych.audit.store import Store
from diptych.calling import NoTls, associate
from diptych.errors import StoreError
from diptych.log import get_logger
from diptych.receive.spool import Spool
from diptych.sections import Forward

log = get_logger(__name__)

# How often the queue is looked at, and how long an association waits for more, in seconds.
IDLE_SECONDS = 0.5
LINGER_SECONDS = 2.0
# Read from the queue together.
BATCH = 200
# What was sent is written down at least this often: after a kill so much is sent twice at most.
WRITE_AFTER = 25
WRITE_SECONDS = 1.0
# PS3.8 section 9.3.2.2: odd numbers up to 255.
MOST_CONTEXTS = 128
# How often one instance may bring the whole queue to a stand: it may itself be the reason.
PATIENCE = 8
# After the database was away.
RETRY_SECONDS = 1.0


class Away(Exception):
    """The destination takes nothing now; ``reason`` is a value of the metric's label."""

    def __init__(self, reason: str, said: str) -> None:
        super().__init__(said)
        self.reason = reason


class Lane:
    """Sends every ``lanes``-th series to one destination until ``stop``."""

    def __init__(
        self,
        destination: Forward,
        calling_ae_title: str,
        lane: int,
        store: Store,
        spool: Spool,
        stop: threading.Event,
    ) -> None:
        self._destination, self._lane = destination, lane
        self._store, self._spool, self._stop = store, spool, stop
        self._ae = AE(ae_title=destination.calling_ae_title or calling_ae_title)
        self._ae.acse_timeout = destination.network_timeout
        self._ae.dimse_timeout = destination.network_timeout
        self._ae.network_timeout = destination.network_timeout
        self._ae.connection_timeout = destination.network_timeout
        self._sent = 0

    def run(self) -> None:
        """Send whatever is due, for as long as the process lives."""
        failures = 0
        name = self._destination.name
        while not self._stop.is_set():
            try:
                duties = self._due()
                if duties:
                    self._over_one_association(duties)
                failures = 0
                self._stop.wait(0 if duties else IDLE_SECONDS)
            except Away as error:
                failures = 1 if self._sent else failures + 1
                pause = self._pause(failures)
                log.warning(
                    "forward-waits", destination=name, error=str(error), seconds=round(pause)
                )
                self._count_failure(error.reason)
                self._stop.wait(pause)
            except StoreError as error:
                log.error("forward-waits", destination=name, error=str(error))
                self._stop.wait(RETRY_SECONDS)
            except Exception:  # a bug of ours must not end the lane
                log.exception("forward-failed", destination=name)
                failures += 1
                self._stop.wait(self._pause(failures))

    def _over_one_association(self, duties: list[Duty]) -> None:
        """Send these and what follows, as long as its presentation contexts fit."""
        self._sent = 0
        proposed = _kinds(duties)
        association = self._associate(proposed)
        accepted = {
            (str(c.abstract_syntax), str(c.transfer_syntax[0]))
            for c in association.accepted_contexts
        }
        try:
            while duties and not self._stop.is_set():
                fitting = [d for d in duties if _kind(d) in proposed]
                if len(fitting) < len(duties):  # the order of a series holds across associations
                    fitting = duties[: next(i for i, d in enumerate(duties) if d not in fitting)]
                if not fitting:
                    break
                self._send_all(association, fitting, accepted)
                duties = self._due() or self._linger()
        finally:
            if association.is_established:
                association.release()
            if self._sent:
                log.info("forwarded", destination=self._destination.name, instances=self._sent)

    def _associate(self, proposed: Iterable[tuple[str, str]]) -> Association:
        where = self._destination
        try:
            association = associate(
                self._ae,
                where.host,
                where.port,
                where.ae_title,
                where.tls,
                contexts=[build_context(sop_class, [syntax]) for sop_class, syntax in proposed],
            )
        except NoTls as error:
            raise Away("tls", str(error)) from error
        if association.is_established:
            return association
        if association.is_rejected:
            raise Away("rejected", "it rejects the association")
        if not association.accepted_contexts and association.acceptor.primitive is not None:
            # It answered and took none of them: each instance steps aside with its reason.
            return association
        raise Away("unreachable", "it cannot be reached")

    def _send_all(
        self, association: Association, duties: list[Duty], accepted: set[tuple[str, str]]
    ) -> None:
        answered: list[tuple[Duty, int]] = []
        written = time.monotonic()
        try:
            for duty in duties:
                if self._stop.is_set():
                    break
                answer = self._send(association, duty, accepted)
                if answer is None:
                    continue
                answered.append((duty, answer))
                faults.point("forward.after-answer")
                if len(answered) >= WRITE_AFTER or time.monotonic() - written > WRITE_SECONDS:
                    self._write_down(answered)
                    written = time.monotonic()
        finally:
            self._write_down(answered)

    def _send(
        self, association: Association, duty: Duty, accepted: set[tuple[str, str]]
    ) -> int | None:
        """The status of a C-STORE that the destination took; None: this one steps aside."""
        name = self._destination.name
        path = None if duty.locator is None else self._spool.path(duty.locator)
        if path is None or not path.exists():
            log.error("forward-lost", destination=name)
            forwards.lost(self._store, name, duty)
            return None
        if _kind(duty) not in accepted:
            self._refuse(duty, None, "context")
            return None
        if not association.is_established:
            raise Away("aborted", "the association ended")
        response = association.send_c_store(path)
        if "Status" not in response:
            self._hold(duty, None)
            raise Away("aborted", "no answer to a C-STORE")
        answer = int(response.Status)
        log.debug(
            "forward-answered",
            destination=name,
            status=f"0x{answer:04X}",
            series=duty.series_id,
        )
        if code_to_category(answer) in ("Success", "Warning"):
            return answer
        if answer & 0xFF00 == 0xA700:
            self._hold(duty, answer)
            raise Away("resources", f"it answers 0x{answer:04X}, out of resources")
        log.warning("forward-refused", destination=name, status=f"0x{answer:04X}")
        self._refuse(duty, answer, "refused")
        return None

    def _hold(self, duty: Duty, answer: int | None) -> None:
        """Stay first in the queue, unless this happens again and again."""
        pause = 0.0 if duty.attempts < PATIENCE else self._pause(duty.attempts)
        forwards.put_off(self._store, duty, answer, pause)

    def _refuse(self, duty: Duty, answer: int | None, reason: str) -> None:
        pause = self._pause(duty.attempts + 1)
        forwards.put_off(self._store, duty, answer, pause)
        forwards.failed(self._store, self._destination.name, reason)

    def _write_down(self, answered: list[tuple[Duty, int]]) -> None:
        if answered:
            forwards.sent(self._store, self._destination.name, answered, self._destination.commit)
            self._sent += len(answered)
            answered.clear()

    def _count_failure(self, reason: str) -> None:
        try:
            forwards.failed(self._store, self._destination.name, reason)
        except StoreError as error:
            log.error("forward-not-counted", error=str(error))

    def _due(self) -> list[Duty]:
        where = self._destination
        with self._store.read() as connection:
            return forwards.due(
                connection, where.name, self._lane, where.maximum_associations, BATCH
            )

    def _linger(self) -> list[Duty]:
        """What comes within a moment goes over the same association."""
        deadline = time.monotonic() + LINGER_SECONDS
        while time.monotonic() < deadline and not self._stop.wait(IDLE_SECONDS):
            if duties := self._due():
                return duties
        return []

    def _pause(self, failures: int) -> float:
        where = self._destination
        doubled = where.retry_seconds * 2.0 ** min(max(failures, 1) - 1, 30)
        return min(doubled, where.longest_retry_seconds)


def _kind(duty: Duty) -> tuple[str, str]:
    return duty.sop_class_uid, duty.transfer_syntax_uid


def _kinds(duties: list[Duty]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(_kind(duty) for duty in duties))[:MOST_CONTEXTS]
