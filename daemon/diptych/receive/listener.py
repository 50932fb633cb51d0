"""The application entity: C-ECHO and C-STORE, each answer with its reason (``STATUSES``)."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
)
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from diptych import faults, tls
from diptych.audit import receipts
from diptych.audit.store import Store
from diptych.config import Config
from diptych.errors import StoreError
from diptych.log import get_logger, printable, shortened
from diptych.receive import commitment, header, pynetdicom_hooks
from diptych.receive.gate import Gate, Limits
from diptych.receive.keeper import Arrival, Keeper
from diptych.receive.pressure import TEMPORARY_CONGESTION, Pressure
from diptych.receive.spool import DATA_SET_WITHIN, Part, Spool, data_set_offset_in

log = get_logger(__name__)

SUCCESS = 0x0000
NOT_AUTHORISED = 0x0124
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

# PS3.7 annex C, PS3.4 table B.2-1; the conformance statement prints them.
STATUSES = {
    SUCCESS: "the instance is on disk and its receipt is committed; nothing less",
    NOT_AUTHORISED: "the association's source is not known",
    OUT_OF_RESOURCES: "too little space, database away, too much to judge: nothing kept",
    MISMATCH: "SOP Class or Instance UID missing, impossible, or not the command's",
    CANNOT_UNDERSTAND: "the data set cannot be parsed; a copy is in quarantine",
}

# Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21): permanent, service user.
CALLING_AE_TITLE_NOT_RECOGNISED = (0x01, 0x01, 0x03)

# Rejected transient, service provider (presentation).
LOCAL_LIMIT_EXCEEDED = (0x02, 0x03, 0x02)

# What we acknowledged we would not hold: pixels stay behind a URL (JPIP Referenced, PS3.5 sections
# A.6, A.7) or come as a stream beside it (SMPTE ST 2110, PS3.22).
PIXELS_ELSEWHERE = frozenset(
    [f"1.2.840.10008.1.2.4.{number}" for number in (94, 95, 204, 205)]
    + [f"1.2.840.10008.1.2.7.{number}" for number in (1, 2, 3)]
)

_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."

# How often ended associations are noticed, in seconds: a series waits this much longer at most.
SWEEP_SECONDS = 0.5

_ABORTS_AT_ONCE = 64


class Listener:
    """One acceptor's application entity."""

    def __init__(
        self, config: Config, store: Store, spool: Spool, keeper: Keeper, acceptor: str
    ) -> None:
        self._config, self._store, self._spool, self._acceptor = config, store, spool, acceptor
        self._keeper = keeper
        self._pressure = Pressure(config, store, spool)
        self._certificates = config.dicom.certificates("dicom")
        self._associations: dict[Any, _Peer] = {}
        self._failures: Counter[str] = Counter()
        self._rejections: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.last_failure: float | None = None

    def start(self, listening: Any) -> None:
        """Accept associations on ``listening`` until ``stop``."""
        pynetdicom_hooks.receive_into(self._new_part)
        pynetdicom_hooks.answer_every_store()
        self._ae = application_entity(self._config)
        self._storage = set(storage_sop_classes(self._config))
        handlers = [
            (evt.EVT_CONN_CLOSE, pynetdicom_hooks.forget_if_silent),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_REJECTED, self._on_rejected),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
        ]
        server = pynetdicom_hooks.make_server(self._ae, listening, handlers)
        dicom = self._config.dicom
        limits = Limits(
            dicom.artim_timeout, dicom.maximum_waiting, dicom.maximum_waiting_per_address
        )
        self._gate = Gate(listening, limits, self._certificates, server.admit)
        self._gate.start()
        self._sweeper = threading.Thread(target=self._sweep_until_stopped, daemon=True)
        self._sweeper.start()

    def stop(self, seconds: float) -> None:
        """Accept nothing new, give running associations ``seconds``, then abort them."""
        self._gate.stop()
        deadline = time.monotonic() + seconds
        while self._ae.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        # The library sleeps after each.
        with ThreadPoolExecutor(_ABORTS_AT_ONCE) as pool:
            list(pool.map(lambda association: association.abort(), self._ae.active_associations))
        self._stopped.set()
        self._sweeper.join()
        self._sweep()

    def _on_requested(self, event: Any) -> None:
        """Decide who is calling before anything else is negotiated."""
        association = event.assoc
        calling = association.requestor.primitive.calling_ae_title.strip()
        address = association.requestor.address
        names = tls.names_of(pynetdicom_hooks.certificate_of(association))
        source = self._config.source_of(calling, address, names)
        if source is None and commitment.is_archive(self._config, calling):
            with self._lock:  # it may report what it keeps, and store nothing
                self._associations[association] = _Peer("", calling, address)
            return
        if source is None:
            title = printable(calling)
            shown = ", ".join(f'"{printable(name)}"' for name in sorted(names)[:4])
            log.warning(
                "association-rejected",
                reason="calling-ae",
                calling_ae_title=title,
                address=address,
                advice='it matches no source; to allow it, add [[source]] name = "…", '
                f'ae_titles = ["{title}"], networks = ["{address}"]'
                + (f", certificate_names = [{shown}]" if shown else ""),
            )
            self._reject(association, CALLING_AE_TITLE_NOT_RECOGNISED, "calling-ae")
            return
        wanted = [context.abstract_syntax for context in association.requestor.requested_contexts]
        if reason := self._pressure.refuses_association(wanted):
            log.warning("association-rejected", reason=reason, source=source.name)
            self._reject(association, TEMPORARY_CONGESTION, reason)
            return
        with self._lock:
            others = sum(
                peer.source == source.name and other.is_alive()
                for other, peer in self._associations.items()
            )
            if others < source.maximum_associations:
                self._associations[association] = _Peer(source.name, calling, address)
                return
        log.warning(
            "association-rejected", reason="congestion", source=source.name, associations=others
        )
        self._reject(association, LOCAL_LIMIT_EXCEEDED, "congestion")

    def _reject(self, association: Any, answer: tuple[int, int, int], reason: str) -> None:
        with self._lock:
            self._rejections[reason] += 1
        pynetdicom_hooks.reject(association, answer)

    def _on_rejected(self, event: Any) -> None:
        """The library refused by itself: too many associations, or another called AE title."""
        primitive = event.assoc.requestor.primitive
        called = primitive.called_ae_title.strip()
        wrong = self._config.dicom.check_called_ae_title and called != self._config.dicom.ae_title
        reason = "called-ae" if wrong else "congestion"
        with self._lock:
            self._rejections[reason] += 1
        log.warning("association-rejected", reason=reason)

    def _new_part(self, association: Any) -> Part:
        peer = self._peer(association)
        part = self._spool.part(peer.name, self._acceptor)
        peer.parts.append(part)
        return part

    def _on_store(self, event: Any) -> int | Dataset:
        began = time.monotonic()
        part = pynetdicom_hooks.part_of(event.request)
        peer = self._peer(event.assoc)
        if part is None:
            why = "the request has no data set"
            return self._refuse(peer, CANNOT_UNDERSTAND, "unparsable", why)
        try:
            return self._store_instance(event, part, peer, began)
        except header.Mismatch as error:
            return self._refuse(peer, MISMATCH, "mismatch", str(error))
        except header.Unparsable as error:
            self._quarantine(part)
            return self._refuse(peer, CANNOT_UNDERSTAND, "unparsable", str(error))
        except StoreError as error:
            self.last_failure = time.monotonic()
            reason = "database" if "database" in str(error) else "storage"
            return self._refuse(peer, OUT_OF_RESOURCES, reason, str(error))
        except OSError as error:
            self.last_failure = time.monotonic()
            return self._refuse(peer, OUT_OF_RESOURCES, "storage", f"spool: {error.strerror}")
        except Exception as error:  # the library would answer by itself, uncounted and unlogged
            self.last_failure = time.monotonic()
            why = f"internal: {type(error).__name__}"
            return self._refuse(peer, OUT_OF_RESOURCES, "storage", why)
        finally:
            try:
                part.discard()
            except OSError as error:
                log.error("spool-file-left", error=error.strerror)
            peer.parts.remove(part)

    def _on_action(self, event: Any) -> tuple[int, None]:
        peer = self._peer(event.assoc)
        return commitment.on_action(
            event, self._config, self._store, peer.calling_ae_title, peer.source
        ), None

    def _on_report(self, event: Any) -> tuple[int, None]:
        calling = self._peer(event.assoc).calling_ae_title
        return commitment.on_report(event, self._config, self._store, calling), None

    def _store_instance(self, event: Any, part: Part, peer: _Peer, began: float) -> int | Dataset:
        if not peer.source:
            return self._refuse(peer, NOT_AUTHORISED, "not-authorised", "source not known")
        if reason := self._pressure.refuses_instance():
            self.last_failure = time.monotonic()
            why = "too little space, or too much to judge"
            return self._refuse(peer, OUT_OF_RESOURCES, reason, why)
        request, syntax = event.request, event.context.transfer_syntax
        if request.AffectedSOPClassUID not in self._storage:
            raise header.Mismatch("SOP Class UID of the command is empty or not stored here")
        limit = self._config.dicom.header_limit
        offset = data_set_offset_in(part.head(DATA_SET_WITHIN))
        identity = header.identify(
            memoryview(part.head(offset + limit + 1))[offset:],
            limit,
            syntax,
            peer.name,
            (str(request.AffectedSOPClassUID or ""), str(request.AffectedSOPInstanceUID or "")),
        )
        sha256 = part.sha256(offset)
        association = peer.association_id or receipts.Opening(
            peer.name, self._acceptor, peer.source, peer.calling_ae_title, peer.address
        )
        content = part.content()
        if content is None:
            locator, aside = self._spool.keep(part, peer.source), None
        else:
            faults.point("receive.in-memory")
            locator = self._spool.locator(peer.source)
            aside = self._spool.write_aside(self._acceptor, content)
        receipt = receipts.Arrival(
            peer.source,
            association,
            identity,
            receipts.Stored(sha256, str(syntax), part.size - offset, locator),
            self._config.destinations_of(peer.source),
        )
        kept = self._keeper.keep(Arrival(receipt, offset, content, aside))
        with self._lock:
            peer.association_id = kept.association_id
        if peer.is_swept and kept.association_id is not None:
            receipts.close_associations(self._store, [kept.association_id])
        self.last_failure = None
        peer.received += 1
        log.debug(
            "instance-kept",
            **peer.said,
            sop_instance_uid=identity.sop_instance_uid,
            bytes=part.size,
            seconds=round(time.monotonic() - began, 3),
        )
        return SUCCESS

    def _quarantine(self, part: Part) -> None:
        limits = self._config.spool
        try:
            self._spool.put_in_quarantine(part, limits.quarantine_files, limits.quarantine_bytes)
        except OSError as error:
            log.error("quarantine-failed", error=error.strerror)
        except StoreError as error:
            log.error("quarantine-failed", error=str(error))

    def _refuse(self, peer: _Peer, status: int, reason: str, why: str) -> Dataset:
        status_in_words = f"0x{status:04X}"
        log.warning("store-refused", **peer.said, status=status_in_words, reason=reason, error=why)
        peer.refused += 1
        with self._lock:
            self._failures[reason] += 1
        response = Dataset()
        response.Status = status
        # (0000,0902) is LO: 64 characters.
        response.ErrorComment = why[:64]
        return response

    def _peer(self, association: Any) -> _Peer:
        with self._lock:
            peer = self._associations.get(association)
            if peer is None:
                peer = self._associations[association] = _Peer("", "", "")
            return peer

    def _take_failures(self) -> dict[str, int]:
        with self._lock:
            taken, self._failures = dict(self._failures), Counter()
        return taken

    def _give_back(self, failures: dict[str, int]) -> None:
        with self._lock:
            self._failures.update(failures)

    def _sweep_until_stopped(self) -> None:
        while not self._stopped.wait(SWEEP_SECONDS):
            try:
                self._sweep()
            except (StoreError, OSError) as error:
                log.error("associations-not-closed", error=str(error))

    def _sweep(self) -> None:
        """Notice ended associations, however they ended; remove what they left half-sent."""
        with self._lock:
            ended = [(a, p) for a, p in self._associations.items() if not a.is_alive()]
            under_way = [part for peer in self._associations.values() for part in peer.parts]
        for part in under_way:
            part.show()
        for _, peer in ended:
            for part in list(peer.parts):
                part.discard()
        with self._lock:  # its first instance may be under way still
            for _, peer in ended:
                peer.is_swept = True
            opened = [peer.association_id for _, peer in ended if peer.association_id is not None]
        if opened:
            receipts.close_associations(self._store, opened)
        for association, peer in ended:
            if peer.received or peer.refused:
                log.info(
                    "association-ended",
                    **peer.said,
                    instances=peer.received,
                    refused=peer.refused or None,
                    seconds=round(time.monotonic() - peer.began, 3),
                )
            with self._lock:
                del self._associations[association]
        failures = self._take_failures()
        for reason, count in failures.items():
            try:
                self._count("diptych_store_failures_total", reason, count)
            except StoreError:
                self._give_back({reason: count})
        # What strangers cause is written down twice a second, not once for each of them.
        with self._lock:
            rejections, self._rejections = self._rejections, Counter()
        for reason, count in rejections.items():
            self._count("diptych_associations_rejected_total", reason, count)
        dropped = self._gate.take_dropped()
        if dropped:
            said = [f"{count} {reason}" for reason, count in sorted(dropped.items())]
            log.warning("connections-dropped", reasons=said)
        for reason, count in dropped.items():
            self._count("diptych_connections_dropped_total", reason, count)

    def _count(self, name: str, reason: str, count: int) -> None:
        receipts.count(self._store, name, {"reason": reason}, count)


class _Peer:
    """What is known of one association."""

    def __init__(self, source: str, calling_ae_title: str, address: str) -> None:
        self.source, self.calling_ae_title, self.address = source, calling_ae_title, address
        self.name = uuid.uuid4().hex
        self.began = time.monotonic()
        self.association_id: int | None = None
        self.parts: list[Part] = []
        self.received = self.refused = 0
        self.is_swept = False

    @property
    def said(self) -> dict[str, str]:
        """What every event of this association has in common."""
        return {"source": self.source, "association": shortened(self.name)}


def application_entity(config: Config) -> AE:
    """All storage SOP classes in every transfer syntax that brings the pixels along."""
    ae = AE(ae_title=config.dicom.ae_title)
    ae.require_called_aet = config.dicom.check_called_ae_title
    ae.maximum_associations = config.dicom.maximum_associations
    ae.maximum_pdu_size = config.dicom.maximum_pdu
    ae.network_timeout = config.dicom.network_timeout
    ae.acse_timeout = config.dicom.network_timeout
    ae.dimse_timeout = config.dicom.network_timeout
    refused = set(PIXELS_ELSEWHERE)
    if not config.dicom.deflated:
        refused.add(DeflatedExplicitVRLittleEndian)
    if not config.dicom.big_endian:
        refused.add(ExplicitVRBigEndian)
    # Of several offered in one context the first of ours is taken: explicit before implicit keeps
    # private VRs, native before compressed never makes a sender compress.
    ranked = dict.fromkeys([ExplicitVRLittleEndian, *ALL_TRANSFER_SYNTAXES])
    syntaxes = [uid for uid in ranked if uid not in refused]
    ae.add_supported_context(Verification)
    for uid in storage_sop_classes(config):
        ae.add_supported_context(uid, syntaxes)
    commitment.add_contexts(ae, config)
    return ae


def storage_sop_classes(config: Config) -> list[str]:
    """Every storage SOP class of PS3.6 table A-1 that lies below the image storage root, retired
    ones too (old modalities send them), and the configured private ones."""
    known = [
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and uid.startswith(_STORAGE_ROOT) and "Storage" in name
    ]
    listed = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
    return list(dict.fromkeys([*listed, *known, *config.dicom.private_sop_classes]))
