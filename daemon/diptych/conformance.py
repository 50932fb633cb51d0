"""The DICOM Conformance Statement (PS3.2), printed from the tables that the node runs by.

Nothing is listed by hand that the code knows: presentation contexts come from the application
entity that the listener starts, statuses and limits from the modules that answer by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from diptych import __version__
from diptych.audit import commitments
from diptych.config import Config
from diptych.forward import committing, lane
from diptych.pull import archive
from diptych.receive import commitment
from diptych.receive.listener import STATUSES, application_entity, storage_sop_classes

# The root of every UID that the standard defines (PS3.6 annex A).
_DICOM = "1.2.840.10008."


def markdown(config: Config) -> str:
    """The statement for this configuration."""
    return (
        "\n\n".join(
            [
                f"# Diptych {__version__}: DICOM Conformance Statement",
                "A node that stores what it receives, compares it with what it has, and can send "
                "it on. It displays and changes no image. This statement is printed by `diptych "
                "conformance` from the configuration in force.",
                *_overview(config),
                *_associations(config),
                *_accepted(config),
                *_answers(config),
                *_initiated(config),
                *_security(config),
                "## Character sets\n\nData sets are kept and sent on as received, byte for byte: "
                "no character set is needed. Queries are ASCII (ISO_IR 6).",
            ]
        )
        + "\n"
    )


def _overview(config: Config) -> list[str]:
    asks = any(forward.commit for forward in config.forward)
    rows = [
        ("Verification", "no", "yes"),
        ("Storage, all classes listed below", "yes" if config.forward else "no", "yes"),
        (
            "Storage Commitment Push Model",
            "yes" if asks else "no",
            "no" if config.commitment.mode == "off" else f"yes ({config.commitment.mode})",
        ),
        ("Study Root Query/Retrieve - FIND (`diptych pull`)", "yes", "no"),
        ("Study Root Query/Retrieve - MOVE (`diptych pull`)", "yes", "no"),
        ("Study Root Query/Retrieve - GET (`diptych pull --get`)", "yes", "no"),
    ]
    return ["## Services", _table(("service", "SCU", "SCP"), rows)]


def _associations(config: Config) -> list[str]:
    dicom = config.dicom
    called = "our AE title only" if dicom.check_called_ae_title else "any"
    rows = [
        ("application context", "1.2.840.10008.3.1.1.1"),
        ("AE title", dicom.ae_title),
        ("called AE title accepted", called),
        ("TCP port", str(dicom.port)),
        ("associations at a time", f"{dicom.acceptors * dicom.maximum_associations}"),
        ("asynchronous operations", "none: one outstanding operation"),
        ("largest PDU received", f"{dicom.maximum_pdu} bytes"),
        ("implementation class UID", str(PYNETDICOM_IMPLEMENTATION_UID)),
        ("implementation version name", PYNETDICOM_IMPLEMENTATION_VERSION),
        (
            "without a byte from the peer the association is aborted after",
            _s(dicom.network_timeout),
        ),
        ("waiting for an A-ASSOCIATE-RQ, for a DIMSE message", _s(dicom.network_timeout)),
    ]
    return ["## Associations", _table(("", ""), rows)]


def _accepted(config: Config) -> list[str]:
    """Every presentation context that the listener accepts, as its application entity says."""
    groups: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for context in application_entity(config).supported_contexts:
        syntaxes = tuple(str(uid) for uid in context.transfer_syntax)
        groups.setdefault((syntaxes, _role(context)), []).append(str(context.abstract_syntax))
    said = ["## Presentation contexts accepted"]
    for number, ((syntaxes, role), classes) in enumerate(groups.items(), 1):
        said += [
            f"### Group {number}: as {role}",
            "Transfer syntaxes; of several in one context the first of these is taken:",
            _table(("transfer syntax", "UID"), [(_name(uid), uid) for uid in syntaxes]),
            "Abstract syntaxes:",
            _table(("SOP class", "UID"), [(_name(uid), uid) for uid in sorted(classes, key=_key)]),
        ]
    said.append(
        "Extended negotiation for storage: none. Level 2 (full); every element, private ones too, "
        "is kept. No digital signatures are checked, no element is coerced. "
        f"{len(storage_sop_classes(config))} storage SOP classes, of these "
        f"{len(config.dicom.private_sop_classes)} private ones by configuration."
    )
    return said


def _answers(config: Config) -> list[str]:
    said = ["## Statuses", "### C-STORE", _statuses(STATUSES)]
    if config.commitment.mode != "off":
        reasons = {int(reason): text for reason, text in commitments.MEANINGS.items()}
        said += [
            "### N-ACTION of Storage Commitment",
            _statuses(commitment.STATUSES),
            "### Failure Reason (0008,1197) in the N-EVENT-REPORT",
            _statuses(reasons),
            "The report goes over a new association to the configured address of the requester, "
            "with SCP/SCU role selection (we are the SCP). Not delivered, it is tried again after "
            f"{_s(committing.RETRY_SECONDS)}, doubled up to "
            f"{_s(committing.LONGEST_RETRY_SECONDS)}, for "
            f"{commitments.UNDELIVERED_AFTER // commitments.MICROSECONDS // 86400} days.",
        ]
    return said


def _initiated(config: Config) -> list[str]:
    said = ["## Associations initiated"]
    rows = [
        (
            forward.name,
            forward.ae_title,
            str(forward.maximum_associations),
            f"{_s(forward.retry_seconds)} to {_s(forward.longest_retry_seconds)}",
            _s(forward.network_timeout),
            "yes" if forward.commit else "no",
        )
        for forward in config.forward
    ]
    if rows:
        head = ("destination", "AE title", "associations", "pause", "timeout", "commitment asked")
        said += [
            "### C-STORE (forward)",
            _table(head, rows),
            "Each SOP class is proposed in the one transfer syntax its instances came in, at most "
            f"{lane.MOST_CONTEXTS} contexts at a time; the data set is sent byte for byte. Success "
            "and warnings (0xBxxx) end the duty; 0xA7xx is tried again before anything else, any "
            "other failure later.",
        ]
    syntaxes = ", ".join(_name(uid) for uid in commitment.TRANSFER_SYNTAXES)
    initiated = [
        (_name(StudyRootQueryRetrieveInformationModelFind), "SCU", "`diptych pull`"),
        (_name(StudyRootQueryRetrieveInformationModelMove), "SCU", "`diptych pull`"),
        (_name(StudyRootQueryRetrieveInformationModelGet), "SCU", "`diptych pull --get`"),
    ]
    if any(forward.commit for forward in config.forward):
        initiated.append((_name(StorageCommitmentPushModel), "SCU", "what was sent on"))
    if config.commitment.mode != "off":
        initiated.append((_name(StorageCommitmentPushModel), "SCP", "reports"))
    return [
        *said,
        "### Other services",
        _table(("SOP class", "role", "for"), initiated),
        f"Storage Commitment in {syntaxes}. C-FIND at the levels STUDY (StudyDate, "
        "StudyInstanceUID) and SERIES (SeriesInstanceUID, Modality), with --get IMAGE "
        "(SOPInstanceUID, SOPClassUID) too; C-MOVE and C-GET at the level SERIES. With C-GET the "
        "storage classes of the series are proposed in the SCP role, in every transfer syntax that "
        f"is accepted, at most {archive.MOST_STORAGE_CONTEXTS} contexts; C-STORE is answered what "
        "the listener answers, to which each instance is handed. Without an answer for "
        f"{_s(archive.MOVE_SECONDS)} the archive counts as away.",
    ]


def _security(config: Config) -> list[str]:
    rows = [
        (
            source.name,
            ", ".join(source.ae_titles) or "any",
            ", ".join(source.networks),
            ", ".join(source.certificate_names) or "any",
        )
        for source in config.source
    ]
    return [
        "## Security",
        "An association is accepted when its calling AE title and address match one of these "
        "sources, and rejected otherwise (permanent, service user, calling AE title not "
        "recognised). DICOM has no passwords here: keep the networks narrow.",
        _table(("source", "calling AE titles", "networks", "certificate names"), rows),
        _tls(config),
    ]


def _tls(config: Config) -> str:
    calls = [f"{f.name} (C-STORE)" for f in config.forward if f.tls]
    calls += [f"{r.ae_title} (reports)" for r in config.commitment.requester if r.tls]
    initiated = (
        f"Associations initiated: with TLS to {', '.join(calls) or 'nobody'}, without to others; "
        "`diptych pull` as its options say. A peer's certificate is always verified, and without "
        "TLS nothing is sent to who should have it."
    )
    if config.dicom.tls_certificate is None:
        return f"DICOM TLS: off. {initiated}"
    who = "a certificate is asked of peers" if config.dicom.tls_authorities else "peers need none"
    return (
        "DICOM TLS (PS3.15 annex B, BCP 195: TLS 1.2 with forward secrecy and authenticated "
        f"encryption, TLS 1.3): on, and {who}. {initiated}"
    )


def _role(context: Any) -> str:
    """Ours. The library's flags name the roles that the requestor may take."""
    if context.scu_role is None:
        return "SCP"
    return "SCP and SCU (role selection)" if context.scp_role else "SCP"


def _statuses(statuses: Mapping[int, str]) -> str:
    rows = [(f"0x{code:04X}", text) for code, text in sorted(statuses.items())]
    return _table(("status", "when"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _name(uid: str) -> str:
    name = UID(uid).name
    if name != uid:
        return name
    return "standard, newer than the dictionary" if uid.startswith(_DICOM) else "private"


def _key(uid: str) -> list[int]:
    return [int(part) for part in uid.split(".")]


def _s(seconds: float) -> str:
    return f"{seconds:g} s"
