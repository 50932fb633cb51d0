"""With --get everything comes over our own association, and is kept as if it had been sent."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

import forked
from authorities import Authority
from cli.command_line import command, environment
from diptych.config import load
from diptych.pull.archive import MOST_STORAGE_CONTEXTS, storage_contexts
from diptych.receive.listener import storage_sop_classes
from forward.archives import data_set_bytes, free_port
from orthanc import orthanc
from pull.archives import dated, dcmqrscp, held, pull
from running import Daemon, program, send

MakeDaemon = Callable[..., Daemon]
SYNTAXES = [str(ExplicitVRLittleEndian), str(RLELossless)]
DAY = ("--since", "2020-01-10")


def test_dcmqrscp_gives_it_and_knows_no_address_of_ours(daemon: Daemon, tmp_path: Path) -> None:
    port, nobody = free_port(), free_port()
    wanted = [*dated("20200110", "CT", 1), *dated("20200110", "MR", 2)]
    other = dated("20200110", "CT", 3, slices=1)
    other[0].SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"  # another class than the series has else
    other[0].SeriesInstanceUID = wanted[0].SeriesInstanceUID
    other[0].StudyInstanceUID = wanted[0].StudyInstanceUID
    with dcmqrscp(tmp_path / "qr", port, nobody):
        assert set(send(port, [*wanted, *other], called="ARCHIVE")) == {0x0000}
        done = pull(daemon, port, *DAY, "--get")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "2 studies, 2 series: 2 pulled (7 instances), 0 before, 0 not whole\n"
        done = pull(daemon, port, *DAY, "--get")
        assert done.stdout == "2 studies, 2 series: 0 pulled (0 instances), 2 before, 0 not whole\n"
    assert held(daemon) == {d.SOPInstanceUID for d in [*wanted, *other]}
    assert daemon.value("SELECT count(*) FROM receipt") == 7
    assert not list((daemon.data / "spool" / "incoming").iterdir())


def test_orthanc_gives_it_byte_for_byte_in_its_transfer_syntax(
    daemon: Daemon, tmp_path: Path
) -> None:
    program("Orthanc")
    port, nobody = free_port(), free_port()
    wanted = dated("20200110", "CT", 20)
    for data_set, syntax in zip(wanted, (RLELossless, JPEG2000Lossless), strict=False):
        data_set.compress(syntax, generate_instance_uid=False)
    with orthanc(tmp_path / "o", port, free_port(), nobody) as archive:
        _upload(archive, wanted)
        done = pull(daemon, port, *DAY, "--get")
        assert "1 pulled (3 instances), 0 before, 0 not whole" in done.stdout, done.stderr
        sent = []
        for one in archive.get("/instances"):
            (tmp_path / "file.dcm").write_bytes(archive.file(one))
            sent.append(data_set_bytes(tmp_path / "file.dcm"))
    assert sorted(data_set_bytes(path) for path in daemon.kept_files()) == sorted(sent)


def test_the_source_is_that_of_the_archive_and_who_may_not_send_may_not_be_handed_on(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    port = free_port()
    sources = '[{"name":"pacs","ae_titles":["ARCHIVE"]},{"name":"ct","ae_titles":["CT1"]}]'
    daemon = make_daemon(DIPTYCH_SOURCE='[{"name":"ct","ae_titles":["CT1"]}]').start()
    with dcmqrscp(tmp_path / "qr", port, free_port()):
        assert set(send(port, dated("20200110", "CT", 4), called="ARCHIVE")) == {0x0000}
        done = pull(daemon, port, *DAY, "--get")
        assert done.returncode == 4
        assert "our own listener rejects 'ARCHIVE' from 127.0.0.1" in done.stderr
        assert 'ae_titles = ["ARCHIVE"], networks = ["127.0.0.1"]' in done.stderr
        assert daemon.stop() == 0
        daemon.environment["DIPTYCH_SOURCE"] = sources
        daemon.start()
        assert pull(daemon, port, *DAY, "--get").returncode == 0
    assert [row[0] for row in daemon.rows("SELECT source FROM series")] == ["pacs"]


def test_without_a_daemon_nothing_is_asked_for(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    daemon = make_daemon().start()
    assert daemon.stop() == 0
    done = pull(daemon, free_port(), *DAY, "--get")
    assert done.returncode == 4
    assert "no daemon is ready on" in done.stderr
    assert "start `diptych serve`" in done.stderr


def test_what_the_daemon_does_not_take_now_is_fetched_again_when_it_does(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    port = free_port()
    daemon = make_daemon().start(
        DIPTYCH_FAULT="receive.before-commit:kill-daemon@2",
        DIPTYCH_FAULT_ONCE=str(tmp_path / "killed"),
    )
    wanted = dated("20200110", "CT", 5, slices=6)
    with dcmqrscp(tmp_path / "qr", port, free_port()):
        assert set(send(port, wanted, called="ARCHIVE")) == {0x0000}
        asked = ("pull", f"ARCHIVE@127.0.0.1:{port}", *DAY, "--get", "--data", daemon.data)
        pulling = forked.Popen(
            command(*asked), env=environment(), stdout=subprocess.PIPE, text=True
        )
        assert daemon.died(60), daemon.log()
        daemon.start()
        said, _ = pulling.communicate(timeout=120)
    assert (pulling.returncode, said) == (
        0,
        "1 studies, 1 series: 1 pulled (6 instances), 0 before, 0 not whole\n",
    )
    assert held(daemon) == {d.SOPInstanceUID for d in wanted}
    daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM verdict") >= 1, "judged", 60)


def test_the_archive_is_answered_what_the_daemon_answers(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    port = free_port()
    daemon = make_daemon(DIPTYCH_DICOM__HEADER_LIMIT="4096").start()
    wanted = dated("20200110", "CT", 7)
    wanted[1].PatientComments = "x" * 8000  # its UIDs come later than a header may be long
    with dcmqrscp(tmp_path / "qr", port, free_port()):
        assert set(send(port, wanted, called="ARCHIVE")) == {0x0000}
        done = pull(daemon, port, *DAY, "--get")
        assert (done.returncode, done.stdout) == (
            3,
            "1 studies, 1 series: 0 pulled (2 instances), 0 before, 1 not whole\n",
        )
    assert held(daemon) == {wanted[0].SOPInstanceUID, wanted[2].SOPInstanceUID}
    # Counted beside the answer, not before it.
    refused = 'diptych_store_failures_total{reason="unparsable"}'
    daemon.wait_until(lambda: daemon.metric(refused) == 1, "counted", 10)


def test_an_archive_behind_tls_gives_to_a_listener_behind_tls(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    program("Orthanc")
    port, authority = free_port(), Authority(tmp_path / "authority")
    certificate, key = authority.issue("us", "DNS:us")
    daemon = make_daemon(
        DIPTYCH_DICOM__TLS_CERTIFICATE=str(certificate),
        DIPTYCH_DICOM__TLS_KEY=str(key),
        DIPTYCH_DICOM__TLS_AUTHORITIES=str(authority.certificate),
    ).start()
    shown = ("--tls-certificate", certificate, "--tls-key", key)
    trust = ("--tls-authorities", authority.certificate)
    theirs = authority.issue("archive", "IP:127.0.0.1")
    settings = {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(theirs[0]),
        "DicomTlsPrivateKey": str(theirs[1]),
        "DicomTlsTrustedCertificates": str(authority.certificate),
    }
    wanted = dated("20200110", "CT", 6)
    tls = {"DIPTYCH_CONFIG": str(tmp_path / "d.toml")}
    (tmp_path / "d.toml").write_text(
        f'[dicom]\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n'
        f'tls_authorities = "{authority.certificate}"\n'
    )
    with orthanc(tmp_path / "o", port, free_port(), free_port(), **settings) as archive:
        _upload(archive, wanted)
        foreign = Authority(tmp_path / "foreign")
        done = pull(daemon, port, *DAY, "--tls-authorities", foreign.certificate, *shown, **tls)
        assert (done.returncode, "no TLS with 127.0.0.1" in done.stderr) == (4, True)
        assert "self-signed certificate" in done.stderr or "local issuer" in done.stderr
        done = pull(daemon, port, *DAY, "--get", *trust, *shown, **tls)
        assert "1 pulled (3 instances), 0 before, 0 not whole" in done.stdout, done.stderr
    assert held(daemon) == {d.SOPInstanceUID for d in wanted}


def test_an_archive_that_does_not_name_classes_may_send_the_usual_ones() -> None:
    taken = dict.fromkeys(storage_sop_classes(load()), SYNTAXES)
    assert len(taken) > MOST_STORAGE_CONTEXTS
    usual = storage_contexts([], taken)
    assert 100 < len(usual) <= MOST_STORAGE_CONTEXTS
    assert {tuple(context.transfer_syntax) for context in usual} == {tuple(SYNTAXES)}
    named = storage_contexts([CTImageStorage, "1.2.3"], taken)
    assert [(c.abstract_syntax, c.transfer_syntax) for c in named] == [
        (CTImageStorage, [syntax]) for syntax in SYNTAXES
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tls-certificate", "a"), "--tls-certificate and --tls-key belong together"),
        (("--no-tls-hostname",), "TLS needs --tls-authorities"),
        (("--get", "--to", "X"), "--to is for C-MOVE"),
    ],
)
def test_options_that_do_not_fit_are_a_usage_error(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = forked.run(
        command("pull", "A@h:104", *DAY, *arguments, "--data", tmp_path),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr


def _upload(archive: object, instances: list[Dataset]) -> None:
    for data_set in instances:
        made = io.BytesIO()
        data_set.save_as(made, enforce_file_format=True)
        archive.post("/instances", made.getvalue())  # type: ignore[attr-defined]
