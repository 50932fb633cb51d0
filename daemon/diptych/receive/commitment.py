"""Storage Commitment Push Model (PS3.4 annex J) at the listener: requests in, reports in.

Both are only kept here; the forwarder decides and answers over associations of its own.
"""

from __future__ import annotations

import re
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from diptych.audit import commitments, forwards
from diptych.audit.store import Store
from diptych.config import Config
from diptych.errors import StoreError
from diptych.log import get_logger

log = get_logger(__name__)

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_EVENT = 0x0113
INVALID_ARGUMENT = 0x0115
NO_SUCH_ACTION = 0x0123
NOT_AUTHORISED = 0x0124

# Of an N-ACTION, PS3.7 section 10.1.4.1.10; the conformance statement prints them.
STATUSES = {
    SUCCESS: "the request is committed to the database: it will be answered",
    PROCESSING_FAILURE: "the requester has no address here, or the database is away: ask again",
    NO_SUCH_INSTANCE: "not the well-known instance 1.2.840.10008.1.20.1.1",
    INVALID_ARGUMENT: "no transaction UID, no references, or one that is no UID",
    NO_SUCH_ACTION: "not action 1, Request Storage Commitment",
    NOT_AUTHORISED: "the association's source is not known",
}

REQUEST_STORAGE_COMMITMENT = 1
# Event types: all committed; some failed.
EVENTS = (1, 2)
TRANSFER_SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
# One transaction is one study as a rule; a whole-body PET/CT has some thousands.
MOST_REFERENCES = 20_000

_UID = re.compile(r"[0-9.]{1,64}")


class Malformed(Exception):
    """The data set is not what PS3.4 tables J.3-1 and J.3-2 ask for."""


def add_contexts(ae: AE, config: Config) -> None:
    """Offer the SOP class to requesters, and to archives that report in the SCP role."""
    reports = any(forward.commit for forward in config.forward)
    if config.commitment.mode == "off" and not reports:
        return
    ae.add_supported_context(
        StorageCommitmentPushModel, list(TRANSFER_SYNTAXES), scu_role=True, scp_role=reports
    )


def is_archive(config: Config, ae_title: str) -> bool:
    """Whether reports are awaited from this AE title. Anybody can call by it, but not name a
    transaction: its UID is random and only the archive has seen it."""
    return any(forward.commit and forward.ae_title == ae_title for forward in config.forward)


def on_action(event: Any, config: Config, store: Store, ae_title: str, source: str) -> int:
    """Keep the request of an N-ACTION; returns its status."""
    request = event.request
    if config.commitment.mode == "off" or not source:
        return _refuse(NOT_AUTHORISED, "source not known, or commitment is off")
    if request.RequestedSOPInstanceUID != StorageCommitmentPushModelInstance:
        return _refuse(NO_SUCH_INSTANCE, "not the well-known instance")
    if request.ActionTypeID != REQUEST_STORAGE_COMMITMENT:
        return _refuse(NO_SUCH_ACTION, "not action 1")
    if all(known.ae_title != ae_title for known in config.commitment.requester):
        return _refuse(
            PROCESSING_FAILURE,
            "the requester has no address: add [[commitment.requester]] with its ae_title",
        )
    try:
        transaction_uid, references, _ = read(event.action_information)
        if not references:
            raise Malformed("ReferencedSOPSequence (0008,1199) is empty")
    except Malformed as error:
        return _refuse(INVALID_ARGUMENT, str(error))
    except Exception as error:  # pydicom raises whatever its helpers raise
        return _refuse(INVALID_ARGUMENT, type(error).__name__)
    try:
        commitments.ask(
            store, transaction_uid, ae_title, source, config.commitment.mode, references
        )
    except StoreError as error:
        return _refuse(PROCESSING_FAILURE, str(error))
    log.info("commitment-asked", source=source, instances=len(references))
    return SUCCESS


def on_report(event: Any, config: Config, store: Store, ae_title: str) -> int:
    """Heed the N-EVENT-REPORT of an archive that was asked; returns its status."""
    asked = [f.name for f in config.forward if f.commit and f.ae_title == ae_title]
    if event.request.EventTypeID not in EVENTS:
        return _refuse(NO_SUCH_EVENT, "not event 1 or 2")
    try:
        transaction_uid, committed, failed = read(event.event_information)
    except Malformed as error:
        return _refuse(INVALID_ARGUMENT, str(error))
    except Exception as error:  # pydicom raises whatever its helpers raise
        return _refuse(INVALID_ARGUMENT, type(error).__name__)
    kept, lost = ({uid for _, uid in references} for references in (committed, failed))
    try:
        known = [
            forwards.reported(store, name, transaction_uid, kept - lost, lost) for name in asked
        ]
    except StoreError as error:
        return _refuse(PROCESSING_FAILURE, str(error))
    if not any(known):
        return _refuse(INVALID_ARGUMENT, "no such transaction was asked of this AE title")
    log.info("commitment-heard", destinations=asked, committed=len(kept), not_committed=len(lost))
    return SUCCESS


def read(information: Dataset) -> tuple[str, list[tuple[str, str]], list[tuple[str, str]]]:
    """Transaction UID, references, failed references of an action's or event's information.

    References are (SOP class UID, SOP instance UID). Raises Malformed.
    """
    transaction_uid = _uid(information, "TransactionUID")
    return (
        transaction_uid,
        _references(information, "ReferencedSOPSequence"),
        _references(information, "FailedSOPSequence"),
    )


def _references(information: Dataset, keyword: str) -> list[tuple[str, str]]:
    items = information.get(keyword) or []
    if len(items) > MOST_REFERENCES:
        raise Malformed(f"{keyword} has more than {MOST_REFERENCES} items")
    return [
        (_uid(item, "ReferencedSOPClassUID"), _uid(item, "ReferencedSOPInstanceUID"))
        for item in items
    ]


def _uid(item: Dataset, keyword: str) -> str:
    value = str(item.get(keyword) or "").strip("\0 ")
    if not _UID.fullmatch(value):
        raise Malformed(f"{keyword} is no UID")
    return value


def _refuse(status: int, why: str) -> int:
    log.warning("commitment-refused", status=f"0x{status:04X}", error=why)
    return status
