"""Storage commitment (PS3.4 annex J) on associations of our own: ask archives, answer requesters.

Everything is in the database before it is said, so that what could not be delivered is delivered
after a restart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, generate_uid
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from pynetdicom.status import code_to_category

from diptych.audit import commitments, forwards
from diptych.audit.commitments import FailureReason, Held, Item, Request, Status
from diptych.audit.store import Store, now
from diptych.calling import NoTls, associate
from diptych.config import Config
from diptych.errors import StoreError
from diptych.log import get_logger
from diptych.receive import commitment
from diptych.receive.listener import storage_sop_classes
from diptych.receive.spool import Spool, content_sha256, data_set_offset
from diptych.sections import Forward, Requester

log = get_logger(__name__)

ROUND_SECONDS = 1.0
# An archive is asked about what it took so long ago: one request for many instances.
QUIET_SECONDS = 5.0
# … and again when it has not reported for so long.
AGAIN_SECONDS = 3600.0
MOST_ASKED = 1000
# So long an archive may report over the association it was asked on.
LINGER_SECONDS = 2.0
# While an archive is awaited, a request is looked at so often.
RELAY_SECONDS = 5.0
# Between attempts to deliver a report, doubled with each.
RETRY_SECONDS = 10.0
LONGEST_RETRY_SECONDS = 900.0
NETWORK_SECONDS = 60.0


def guarded(round_: Callable[[], None], stop: threading.Event) -> None:
    """Run ``round_`` again and again until ``stop``; no error ends it."""
    while not stop.wait(ROUND_SECONDS):
        try:
            round_()
        except StoreError as error:
            log.error("commitment-waits", error=str(error))
        except Exception:
            log.exception("commitment-failed")
            stop.wait(RETRY_SECONDS)


class Asking:
    """Asks one destination whether it keeps what it took."""

    def __init__(self, config: Config, destination: Forward, store: Store) -> None:
        self._config, self._destination, self._store = config, destination, store
        self._failures, self._not_before = 0, 0.0

    def round(self) -> None:
        """One request, if there is anything to ask."""
        if time.monotonic() < self._not_before:
            return
        where = self._destination
        transaction_uid = generate_uid()
        references = forwards.uncommitted(
            self._store, where.name, transaction_uid, QUIET_SECONDS, AGAIN_SECONDS, MOST_ASKED
        )
        if not references:
            return
        try:
            why = "" if self._ask(transaction_uid, references) else "not taken"
        except NoTls as error:
            why = str(error)
        if not why:
            self._failures = 0
            return
        self._failures += 1
        pause = _pause(self._failures, where.retry_seconds, where.longest_retry_seconds)
        log.warning("commitment-not-taken", destination=where.name, error=why, seconds=round(pause))
        self._not_before = time.monotonic() + pause

    def _ask(self, transaction_uid: str, references: list[tuple[str, str]]) -> bool:
        where = self._destination

        def on_report(event: Any) -> tuple[int, None]:
            return commitment.on_report(event, self._config, self._store, where.ae_title), None

        ae = _application_entity(where.calling_ae_title or self._config.dicom.ae_title)
        association = associate(
            ae,
            where.host,
            where.port,
            where.ae_title,
            where.tls,
            contexts=[_context()],
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)],
        )
        if not association.is_established:
            return False
        try:
            information = Dataset()
            information.TransactionUID = transaction_uid
            information.ReferencedSOPSequence = Sequence([_reference(*r) for r in references])
            answer, _ = association.send_n_action(
                information,
                commitment.REQUEST_STORAGE_COMMITMENT,
                StorageCommitmentPushModel,
                StorageCommitmentPushModelInstance,
            )
            if not _done(answer):
                return False
            forwards.asked(self._store, transaction_uid)
            time.sleep(LINGER_SECONDS)
            return True
        except ValueError:  # it does not offer the SOP class
            return False
        finally:
            _end(association)


class Answering:
    """Decides requests and delivers their reports."""

    def __init__(self, config: Config, store: Store, spool: Spool) -> None:
        self._config, self._store, self._spool = config, store, spool
        self._supported = set(storage_sop_classes(config))

    def round(self) -> None:
        """Whatever can be decided or delivered now."""
        with self._store.read() as connection:
            undecided = commitments.due(connection, Status.OPEN)
        for request in undecided:
            self._decide(request)
        with self._store.read() as connection:
            decided = commitments.due(connection, Status.DECIDED)
        for request in decided:
            self._deliver(request)

    def _decide(self, request: Request) -> None:
        reasons: dict[int, int] = {}
        late = now() - request.received_at > self._config.commitment.relay_hours * 3600e6
        for item in request.items:
            with self._store.read() as connection:
                held = commitments.held(connection, request.source, item.sop_instance_uid)
            reason = self._failure(request, item, held)
            if reason is _UNDECIDED:
                if not late:
                    commitments.put_off(self._store, request, RELAY_SECONDS)
                    return
                reason = FailureReason.PROCESSING_FAILURE
            if reason is not None:
                reasons[item.ordinal] = reason
        commitments.decide(self._store, request, reasons)

    def _failure(self, request: Request, item: Item, held: list[Held]) -> Any:
        """The failure reason, None for committed, or ``_UNDECIDED``."""
        if item.sop_class_uid not in self._supported:
            return FailureReason.REFERENCED_SOP_CLASS_NOT_SUPPORTED
        if not held:
            return FailureReason.NO_SUCH_OBJECT_INSTANCE
        if any(one.sop_class_uid != item.sop_class_uid for one in held):
            return FailureReason.CLASS_INSTANCE_CONFLICT
        if request.mode == "own":
            # The retention is looked at again: the configuration may be another one by now.
            kept = self._config.spool.keep_days == "forever" and all(map(self._intact, held))
            return None if kept else FailureReason.PROCESSING_FAILURE
        archives = self._config.committing(request.source)
        states = {one.forwards.get(name) for one in held for name in archives}
        if states == {forwards.Status.COMMITTED}:
            return None
        if states and states <= {forwards.Status.COMMITTED, *forwards.OWED}:
            return _UNDECIDED
        return FailureReason.PROCESSING_FAILURE

    def _intact(self, held: Held) -> bool:
        """Whether the bytes on disk are those that were received."""
        if held.locator is None:
            return False
        path = self._spool.path(held.locator)
        try:
            return content_sha256(path, data_set_offset(path))[0] == held.sha256
        except (OSError, StoreError) as error:
            log.error("commitment-unreadable", error=type(error).__name__)
            return False

    def _deliver(self, request: Request) -> None:
        known = {r.ae_title: r for r in self._config.commitment.requester}
        requester = known.get(request.ae_title)
        try:
            delivered = requester is not None and self._report(requester, request)
            why = "not taken" if requester is not None else "no such [[commitment.requester]]"
        except NoTls as error:
            delivered, why = False, str(error)
        if delivered:
            commitments.reported(self._store, request)
            log.info("commitment-reported", source=request.source)
        elif now() - request.received_at > commitments.UNDELIVERED_AFTER:
            log.error("commitment-given-up", source=request.source)
            commitments.give_up(self._store, request)
        else:
            pause = _pause(request.attempts + 1, RETRY_SECONDS, LONGEST_RETRY_SECONDS)
            log.warning(
                "commitment-not-delivered",
                source=request.source,
                error=why,
                seconds=round(pause),
            )
            commitments.put_off(self._store, request, pause)

    def _report(self, requester: Requester, request: Request) -> bool:
        ae = _application_entity(self._config.dicom.ae_title)
        association = associate(
            ae,
            requester.host,
            requester.port,
            requester.ae_title,
            requester.tls,
            contexts=[_context()],
            # We stay the SCP although we call (PS3.4 section J.3.3).
            ext_neg=[build_role(StorageCommitmentPushModel, scu_role=False, scp_role=True)],
        )
        if not association.is_established:
            return False
        try:
            event_type, information = report(request)
            answer, _ = association.send_n_event_report(
                information,
                event_type,
                StorageCommitmentPushModel,
                StorageCommitmentPushModelInstance,
            )
            return _done(answer)
        except ValueError:  # it does not take the SCU role
            return False
        finally:
            _end(association)


# Not decided yet: the archive has not said.
_UNDECIDED = object()


def report(request: Request) -> tuple[int, Dataset]:
    """Event type ID and information of the N-EVENT-REPORT (PS3.4 table J.3-2)."""
    information = Dataset()
    information.TransactionUID = request.transaction_uid
    kept, failed = [], []
    for item in request.items:
        reference = _reference(item.sop_class_uid, item.sop_instance_uid)
        if item.failure_reason is None:
            kept.append(reference)
        else:
            reference.FailureReason = item.failure_reason
            failed.append(reference)
    if kept:
        information.ReferencedSOPSequence = Sequence(kept)
    if failed:
        information.FailedSOPSequence = Sequence(failed)
    return (2 if failed else 1), information


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = UID(sop_class_uid)
    item.ReferencedSOPInstanceUID = UID(sop_instance_uid)
    return item


def _context() -> Any:
    return build_context(StorageCommitmentPushModel, list(commitment.TRANSFER_SYNTAXES))


def _application_entity(ae_title: str) -> AE:
    ae = AE(ae_title=ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = NETWORK_SECONDS
    ae.connection_timeout = NETWORK_SECONDS
    return ae


def _done(answer: Dataset) -> bool:
    if "Status" not in answer:
        return False
    done: bool = code_to_category(int(answer.Status)) in ("Success", "Warning")
    return done


def _end(association: Association) -> None:
    if association.is_established:
        association.release()


def _pause(failures: int, shortest: float, longest: float) -> float:
    return min(shortest * 2.0 ** min(failures - 1, 30), longest)
