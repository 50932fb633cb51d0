"""A modality that asks for storage commitment, and an archive that gives it."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import generate_uid
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

Reference = tuple[str, str]


def information(transaction_uid: str, references: Sequence[Reference]) -> Dataset:
    made = Dataset()
    made.TransactionUID = transaction_uid
    items = []
    for sop_class, sop_instance in references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_instance
        items.append(item)
    made.ReferencedSOPSequence = Items(items)
    return made


def references(instances: Sequence[Dataset]) -> list[Reference]:
    return [(str(d.SOPClassUID), str(d.SOPInstanceUID)) for d in instances]


class Modality:
    """Asks as SCU; ``listening()`` takes the reports."""

    def __init__(self, port: int, ae_title: str = "CT1", **tls: str) -> None:
        self.port, self.ae_title, self._tls = port, ae_title, tls
        self.reports: dict[str, tuple[int, set[str], dict[str, int]]] = {}

    @property
    def configured(self) -> str:
        where = {"ae_title": self.ae_title, "host": "127.0.0.1", "port": self.port}
        return json.dumps([{**where, **self._tls}])

    def ask(
        self, port: int, wanted: Sequence[Reference], transaction_uid: str | None = None
    ) -> tuple[int | None, str]:
        """Status of the N-ACTION (None: the SOP class is not offered) and the transaction UID."""
        transaction_uid = transaction_uid or generate_uid()
        return self.ask_with(port, information(transaction_uid, wanted)), transaction_uid

    def ask_with(self, port: int, data_set: Dataset, **how: Any) -> int | None:
        ae = AE(self.ae_title)
        ae.add_requested_context(StorageCommitmentPushModel)
        ae.add_requested_context("1.2.840.10008.1.1")
        association = ae.associate("127.0.0.1", port, ae_title="DIPTYCH")
        assert association.is_established
        try:
            answer, _ = association.send_n_action(
                data_set,
                how.get("action", 1),
                StorageCommitmentPushModel,
                how.get("instance", StorageCommitmentPushModelInstance),
            )
            return int(answer.Status)
        except ValueError:
            return None
        finally:
            association.release()

    @contextmanager
    def listening(self, context: ssl.SSLContext | None = None) -> Iterator[None]:
        ae = AE(self.ae_title)
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._report)]
        server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=handlers, ssl_context=context
        )
        try:
            yield
        finally:
            server.shutdown()

    def _report(self, event: Any) -> tuple[int, None]:
        said = event.event_information
        self.reports[str(said.TransactionUID)] = (
            int(event.event_type),
            {str(i.ReferencedSOPInstanceUID) for i in said.get("ReferencedSOPSequence", [])},
            {
                str(i.ReferencedSOPInstanceUID): int(i.FailureReason)
                for i in said.get("FailedSOPSequence", [])
            },
        )
        return 0x0000, None


class CommittingArchive:
    """Stores, and commits all but ``refusing`` on a new association to ``report_to``."""

    def __init__(self, port: int, report_to: int, context: ssl.SSLContext | None = None) -> None:
        self.received: list[str] = []
        self.refusing: set[str] = set()
        self.silent = False
        self._report_to = report_to
        ae = AE("ARCHIVE")
        ae.add_supported_context(CTImageStorage, ALL_TRANSFER_SYNTAXES)
        ae.add_supported_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        self._server = ae.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=context
        )

    def close(self) -> None:
        self._server.shutdown()

    def _store(self, event: Any) -> int:
        self.received.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def _action(self, event: Any) -> tuple[int, None]:
        if not self.silent:
            said = event.action_information
            threading.Thread(target=self._report, args=(said,), daemon=True).start()
        return 0x0000, None

    def _report(self, said: Dataset) -> None:
        time.sleep(0.2)
        kept, failed = [], []
        for item in said.ReferencedSOPSequence:
            if item.ReferencedSOPInstanceUID in self.refusing:
                item.FailureReason = 0x0112
                failed.append(item)
            else:
                kept.append(item)
        made = Dataset()
        made.TransactionUID = said.TransactionUID
        if kept:
            made.ReferencedSOPSequence = Items(kept)
        if failed:
            made.FailedSOPSequence = Items(failed)
        ae = AE("ARCHIVE")
        ae.add_requested_context(StorageCommitmentPushModel)
        association = ae.associate(
            "127.0.0.1",
            self._report_to,
            ae_title="DIPTYCH",
            ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
        )
        association.send_n_event_report(
            made,
            2 if failed else 1,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
        association.release()
