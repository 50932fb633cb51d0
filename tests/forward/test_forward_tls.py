"""What we send goes over TLS where it is asked for, to whom we know, and never without it."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from authorities import Authority
from forward.archives import archive, data_set_bytes, free_port, route, storescp
from forward.requesters import CommittingArchive, Modality, references
from running import Daemon, send, series

MakeDaemon = Callable[..., Daemon]
SENT = 'diptych_forward_sent_total{destination="archive"}'
NO_TLS = 'diptych_forward_failures_total{destination="archive",reason="tls"}'
ON_THIS_MACHINE = "IP:127.0.0.1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


def test_storescp_gets_everything_over_mutual_tls(
    make_daemon: MakeDaemon, authority: Authority, tmp_path: Path
) -> None:
    port = free_port()
    daemon = make_daemon(DIPTYCH_FORWARD=route(port, **_tls(authority, "us"))).start()
    wanted = series(3, seed=1)
    with storescp(tmp_path / "onward", port, *_served(authority)):
        assert send(daemon.port, wanted) == [0x0000] * 3
        daemon.wait_until(lambda: daemon.metric(SENT) == 3, "sent on", 30)
    received = sorted(data_set_bytes(path) for path in (tmp_path / "onward").iterdir())
    assert received == sorted(data_set_bytes(path) for path in daemon.kept_files())
    assert daemon.metric(NO_TLS) == 0


def test_a_peer_that_another_authority_vouches_for_gets_nothing_until_it_is_the_right_one(
    make_daemon: MakeDaemon, authority: Authority, tmp_path: Path
) -> None:
    port, foreign = free_port(), Authority(tmp_path / "foreign")
    daemon = make_daemon(DIPTYCH_FORWARD=route(port, **_tls(authority, "us"))).start()
    with storescp(tmp_path / "onward", port, *_served(foreign)):
        assert send(daemon.port, series(2, seed=2)) == [0x0000] * 2
        daemon.wait_until(lambda: daemon.metric(NO_TLS) >= 2, "tried twice", 30)
    assert 'forward-waits destination=archive error="no TLS with 127.0.0.1' in daemon.log()
    assert re.search("self-signed certificate|unable to get local issuer", daemon.log())
    assert not any((tmp_path / "onward").iterdir())
    with storescp(tmp_path / "onward", port, *_served(authority)):
        daemon.wait_until(lambda: daemon.metric(SENT) == 2, "sent on", 30)


def test_new_authorities_are_believed_without_a_restart(
    make_daemon: MakeDaemon, authority: Authority, tmp_path: Path
) -> None:
    port, foreign, trusted = free_port(), Authority(tmp_path / "foreign"), tmp_path / "trusted.pem"
    trusted.write_bytes(authority.certificate.read_bytes())
    daemon = make_daemon(DIPTYCH_FORWARD=route(port, tls_authorities=str(trusted))).start()
    with storescp(tmp_path / "onward", port, *_served(foreign), "-ic"):
        assert send(daemon.port, series(2, seed=8)) == [0x0000] * 2
        daemon.wait_until(lambda: daemon.metric(NO_TLS) >= 1, "refused", 30)
        trusted.write_bytes(foreign.certificate.read_bytes())
        daemon.wait_until(lambda: daemon.metric(SENT) == 2, "sent on", 30)


def test_a_peer_that_speaks_no_tls_gets_nothing(
    make_daemon: MakeDaemon, authority: Authority
) -> None:
    port = free_port()
    daemon = make_daemon(DIPTYCH_FORWARD=route(port, **_tls(authority, "us"))).start()
    with archive(port) as onward:
        assert send(daemon.port, series(2, seed=3)) == [0x0000] * 2
        daemon.wait_until(lambda: daemon.metric(NO_TLS) >= 2, "tried twice", 30)
        assert (onward.associations, onward.received) == (0, [])
    assert daemon.value("SELECT count(*) FROM forward WHERE status = 'waiting'") == 2


def test_the_certificate_must_name_the_host_unless_that_is_not_asked(
    make_daemon: MakeDaemon, authority: Authority, tmp_path: Path
) -> None:
    port, trust = free_port(), _tls(authority, "us")
    daemon = make_daemon(DIPTYCH_FORWARD=route(port, **trust)).start()
    with storescp(tmp_path / "onward", port, *_served(authority, "DNS:elsewhere.example")):
        assert send(daemon.port, series(2, seed=4)) == [0x0000] * 2
        daemon.wait_until(lambda: daemon.metric(NO_TLS) >= 1, "refused", 30)
        assert "IP address mismatch" in daemon.log()
        assert daemon.stop() == 0
        daemon.start(DIPTYCH_FORWARD=route(port, **trust, tls_check_hostname=False))
        daemon.wait_until(lambda: daemon.metric(SENT) == 2, "sent on", 30)


def test_another_diptych_takes_it_by_the_name_in_our_certificate(
    make_daemon: MakeDaemon, authority: Authority
) -> None:
    """A server that refuses a certificate says so only after the handshake (TLS 1.3)."""
    certificate, key = authority.issue("onward", ON_THIS_MACHINE)
    onward = make_daemon(
        "onward",
        DIPTYCH_DICOM__TLS_CERTIFICATE=str(certificate),
        DIPTYCH_DICOM__TLS_KEY=str(key),
        DIPTYCH_DICOM__TLS_AUTHORITIES=str(authority.certificate),
        DIPTYCH_SOURCE='[{"name":"node","certificate_names":["node.example"]}]',
    ).start()
    named, trust = _tls(authority, "node.example"), {"tls_authorities": str(authority.certificate)}
    daemon = make_daemon(DIPTYCH_FORWARD=route(onward.port, **trust)).start()
    assert send(daemon.port, series(2, seed=5)) == [0x0000] * 2
    daemon.wait_until(lambda: daemon.metric(NO_TLS) >= 1, "refused", 30)
    assert re.search("CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE", daemon.log())
    assert daemon.stop() == 0
    daemon.start(DIPTYCH_FORWARD=route(onward.port, **named))
    daemon.wait_until(lambda: daemon.metric(SENT) == 2, "sent on", 30)
    assert onward.value("SELECT count(*) FROM instance") == 2


def test_files_that_cannot_be_used_are_said_at_the_start(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    missing = str(tmp_path / "none.pem")
    daemon = make_daemon(DIPTYCH_FORWARD=route(104, tls_authorities=missing))
    daemon.spawn()
    assert daemon.died(60)
    assert daemon.process is not None
    assert daemon.process.returncode == 4
    assert "forward archive: " in daemon.log()
    assert "No such file" in daemon.log()
    assert "Traceback" not in daemon.log()


def test_the_report_of_a_commitment_goes_over_tls_or_waits(
    make_daemon: MakeDaemon, authority: Authority, tmp_path: Path
) -> None:
    modality = Modality(free_port(), **_tls(authority, "us"))
    daemon = make_daemon(
        DIPTYCH_COMMITMENT__MODE="own",
        DIPTYCH_SPOOL__KEEP_DAYS="forever",
        DIPTYCH_COMMITMENT__REQUESTER=modality.configured,
    ).start()
    slices = series(2, seed=6)
    assert send(daemon.port, slices) == [0x0000] * 2
    with modality.listening():
        _, transaction = modality.ask(daemon.port, references(slices))
        daemon.wait_until(
            lambda: 'commitment-not-delivered source=default error="no TLS with' in daemon.log(),
            "refused",
            30,
        )
        assert modality.reports == {}
    with modality.listening(_server(authority)):
        daemon.wait_until(lambda: modality.reports.get(transaction), "reported", 60)
    assert modality.reports[transaction][0] == 1


def test_an_archive_is_asked_for_commitment_over_tls(
    make_daemon: MakeDaemon, authority: Authority
) -> None:
    port, trust = free_port(), _tls(authority, "us")
    daemon = make_daemon(DIPTYCH_FORWARD=route(port, commit=True, **trust)).start()
    onward = CommittingArchive(port, daemon.port, _server(authority))
    assert send(daemon.port, series(2, seed=7)) == [0x0000] * 2
    committed = "SELECT count(*) FROM forward WHERE status = 'committed'"
    daemon.wait_until(lambda: daemon.value(committed) == 2, "committed", 30)
    onward.close()


def _tls(authority: Authority, name: str) -> dict[str, str]:
    certificate, key = authority.issue(name, f"DNS:{name}")
    return {
        "tls_authorities": str(authority.certificate),
        "tls_certificate": str(certificate),
        "tls_key": str(key),
    }


def _served(authority: Authority, alternative: str = ON_THIS_MACHINE) -> list[str | Path]:
    """Options of DCMTK's servers: their certificate, and that of peers is asked for."""
    certificate, key = authority.issue("archive", alternative)
    return ["+tls", key, certificate, "+cf", authority.certificate]


def _server(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("modality", ON_THIS_MACHINE))
    context.load_verify_locations(authority.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    return context
