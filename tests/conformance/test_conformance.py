"""The conformance statement says what is negotiated: no more, no less."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian
from pynetdicom import AE, build_context

import forked
from cli.command_line import command, environment
from diptych.audit.commitments import FailureReason
from diptych.receive.listener import STATUSES
from receive.peers import PRIVATE_SOP_CLASS, LoneAcceptor, lone_acceptor

EVERYTHING = {
    "DIPTYCH_DICOM__DEFLATED": "true",
    "DIPTYCH_DICOM__BIG_ENDIAN": "true",
    "DIPTYCH_DICOM__PRIVATE_SOP_CLASSES": json.dumps([PRIVATE_SOP_CLASS]),
    "DIPTYCH_SPOOL__KEEP_DAYS": "forever",
    "DIPTYCH_COMMITMENT__MODE": "own",
    "DIPTYCH_COMMITMENT__REQUESTER": '[{"ae_title":"CT1","host":"192.0.2.1","port":104}]',
}
SYNTAXES = [uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"]
SOP_CLASSES = [
    *(uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "SOP Class"),
    PRIVATE_SOP_CLASS,
]


@pytest.mark.parametrize("environment_", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_negotiated_contexts_are_those_of_the_statement(
    tmp_path: Path, environment_: dict[str, str]
) -> None:
    said = _contexts(_statement(**environment_))
    with lone_acceptor(tmp_path / "data", **environment_) as acceptor:
        classes = {sop_class for sop_class, _ in said}
        # Every documented class in every syntax there is; every other class in some.
        wanted = [(c, s) for c in sorted(classes) for s in SYNTAXES]
        wanted += [(c, s) for c in SOP_CLASSES if c not in classes for s in SYNTAXES[:2]]
        assert _negotiated(acceptor, wanted) == said
    assert ("1.2.840.10008.1.20.1" in classes) == bool(environment_)
    assert (PRIVATE_SOP_CLASS in classes) == bool(environment_)
    ct = {syntax for sop_class, syntax in said if sop_class == "1.2.840.10008.5.1.4.1.1.2"}
    optional = {str(DeflatedExplicitVRLittleEndian), str(ExplicitVRBigEndian)}
    assert ct & optional == (optional if environment_ else set())


def test_it_names_every_status_reason_timeout_and_source(tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(
        '[dicom]\nnetwork_timeout = 17.5\n[[source]]\nname = "router"\nae_titles = ["R1"]\n'
        '[[forward]]\nname = "archive"\nhost = "h"\nport = 104\nae_title = "PACS"\n'
        '[[forward]]\nname = "second"\nhost = "h"\nport = 2762\nae_title = "P2"\n'
        'tls_authorities = "ca.pem"\n'
    )
    text = _statement("--config", tmp_path / "d.toml", DIPTYCH_COMMITMENT__MODE="off")
    for status in STATUSES:
        assert f"| 0x{status:04X} |" in text
    assert "17.5 s" in text
    assert "| router | R1 | 127.0.0.0/8, ::1/128 | any |" in text
    assert "DICOM TLS: off. Associations initiated: with TLS to second (C-STORE), without" in text
    assert "| Study Root Query/Retrieve - GET (`diptych pull --get`) | yes | no |" in text
    assert "| archive | PACS | 1 | 10 s to 900 s | 60 s | no |" in text
    everything = _statement(**EVERYTHING)
    for reason in FailureReason:
        assert f"| 0x{reason:04X} |" in everything
    assert "| Storage Commitment Push Model | no | yes (own) |" in everything


def _statement(*arguments: object, **more: str) -> str:
    done = forked.run(
        command("conformance", *arguments),
        env=environment(**more),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def _contexts(text: str) -> set[tuple[str, str]]:
    """(abstract syntax, transfer syntax) of every accepted context that the statement lists."""
    found = set()
    for group in re.split(r"^### Group ", text.split("## Statuses")[0], flags=re.MULTILINE)[1:]:
        syntaxes, _, classes = group.partition("Abstract syntaxes:")
        found |= {(c, s) for c in _uids(classes) for s in _uids(syntaxes)}
    return found


def _uids(table: str) -> list[str]:
    return re.findall(r"\| ([0-9][0-9.]+) \|$", table, flags=re.MULTILINE)


def _negotiated(acceptor: LoneAcceptor, wanted: list[tuple[str, str]]) -> set[tuple[str, str]]:
    accepted = set()
    for at in range(0, len(wanted), 128):
        ae = AE("SENDER")
        contexts = [build_context(c, [s]) for c, s in wanted[at : at + 128]]
        association = ae.associate("127.0.0.1", acceptor.port, contexts=contexts)
        accepted |= {
            (str(c.abstract_syntax), str(c.transfer_syntax[0]))
            for c in association.accepted_contexts
        }
        if association.is_established:
            association.release()
    return accepted
