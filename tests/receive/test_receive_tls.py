"""DICOM over TLS: DCMTK's senders, certificates made by openssl, suites, renewal, stalled peers."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from authorities import Authority, client_context
from receive.peers import associate_request
from receive.sockets import seconds_more
from running import Daemon, instance, program

A_ASSOCIATE_AC, A_ASSOCIATE_RJ = 0x02, 0x03


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def open_to_all(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Server TLS: peers need no certificate."""
    yield from _daemon(tmp_path_factory.mktemp("server"), authority.issue("server"), "", "")


@pytest.fixture(scope="module")
def mutual(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Mutual TLS: the certificate says who the source is."""
    sources = """
    [[source]]
    name = "scanner"
    certificate_names = ["scanner.example"]
    [[source]]
    name = "router"
    ae_titles = ["ROUTER"]
    certificate_names = ["router"]
    """
    files = authority.issue("mutual")
    folder = tmp_path_factory.mktemp("mutual")
    yield from _daemon(folder, files, str(authority.certificate), sources)


def test_dcmtk_echoes_and_stores_over_tls(
    open_to_all: Daemon, authority: Authority, tmp_path: Path
) -> None:
    data_set = instance()
    data_set.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    where = ("localhost", str(open_to_all.port))
    trust = ("+tla", "+cf", str(authority.certificate))
    assert _run("echoscu", *trust, *where) == 0
    assert _run("storescu", *trust, *where, str(tmp_path / "one.dcm")) == 0
    query = "SELECT count(*) FROM instance WHERE sop_instance_uid = ?"
    assert open_to_all.value(query, data_set.SOPInstanceUID) == 1


def test_a_peer_without_tls_gets_no_association(open_to_all: Daemon) -> None:
    assert _run("echoscu", "-to", "3", "-ta", "3", "localhost", str(open_to_all.port)) != 0
    dropped = 'diptych_connections_dropped_total{reason="tls"}'
    open_to_all.wait_until(lambda: open_to_all.metric(dropped) >= 1, "counted", 5)


def test_only_tls_1_2_and_1_3_with_forward_secrecy_and_authenticated_encryption(
    open_to_all: Daemon,
) -> None:
    def agreed(version: ssl.TLSVersion, suites: str) -> str | None:
        context = client_context()
        context.minimum_version = context.maximum_version = version
        context.set_ciphers(suites)
        try:
            with _connected(open_to_all.port, context) as peer:
                return peer.version()
        except OSError:
            return None

    good = "ECDHE-RSA-AES256-GCM-SHA384"
    assert agreed(ssl.TLSVersion.TLSv1_3, good) == "TLSv1.3"
    assert agreed(ssl.TLSVersion.TLSv1_2, good) == "TLSv1.2"
    for weak in ("AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA256", "ECDHE-RSA-AES128-SHA"):
        assert agreed(ssl.TLSVersion.TLSv1_2, weak) is None
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        assert agreed(ssl.TLSVersion.TLSv1_1, "DEFAULT:@SECLEVEL=0") is None


def test_the_certificate_decides_who_is_who(mutual: Daemon, authority: Authority) -> None:
    for name, alternative, calling, answer in (
        ("scanner", "DNS:scanner.example", b"ANY", A_ASSOCIATE_AC),
        ("router", "DNS:localhost", b"ROUTER", A_ASSOCIATE_AC),
        ("router", "DNS:localhost", b"OTHER", A_ASSOCIATE_RJ),
        ("stranger", "DNS:elsewhere", b"ROUTER", A_ASSOCIATE_RJ),
    ):
        context = client_context()
        context.load_cert_chain(*authority.issue(name, alternative))
        with _connected(mutual.port, context) as peer:
            peer.sendall(associate_request(calling))
            assert peer.recv(1)[0] == answer, (name, calling)
    assert 'certificate_names = ["elsewhere", "stranger"]' in mutual.log()
    certificate, key = authority.issue("scanner", "DNS:scanner.example")
    shown = ("+tls", str(key), str(certificate), "+cf", str(authority.certificate))
    assert _run("echoscu", *shown, "localhost", str(mutual.port)) == 0


def test_without_a_certificate_of_the_authority_there_is_no_association(
    mutual: Daemon, tmp_path: Path
) -> None:
    foreign = client_context()
    foreign.load_cert_chain(*Authority(tmp_path / "foreign").issue("scanner.example"))
    for context in (client_context(), foreign):
        # TLS 1.3 tells the client only with the first read.
        with pytest.raises(OSError), _connected(mutual.port, context) as peer:  # noqa: PT012
            peer.sendall(associate_request(b"ANY"))
            if peer.recv(1) == b"":
                raise ConnectionResetError


def test_a_new_certificate_is_shown_without_a_restart_and_a_broken_one_is_not(
    make_daemon: Callable[..., Daemon], authority: Authority
) -> None:
    certificate, key = authority.issue("renewed")
    daemon = make_daemon(
        DIPTYCH_DICOM__TLS_CERTIFICATE=str(certificate), DIPTYCH_DICOM__TLS_KEY=str(key)
    ).start()

    def shown() -> bytes | None:
        with _connected(daemon.port, client_context()) as peer:
            return peer.getpeercert(binary_form=True)

    first = shown()
    authority.issue("renewed")
    daemon.wait_until(lambda: shown() != first, "renewed", 10)
    second = shown()
    certificate.write_text("no certificate\n")
    daemon.wait_until(lambda: shown() and "certificates-refused" in daemon.log(), "said", 10)
    assert shown() == second


def test_a_certificate_that_cannot_be_used_is_said_at_the_start(
    make_daemon: Callable[..., Daemon], authority: Authority
) -> None:
    certificate, _ = authority.issue("mine")
    _, other = authority.issue("another")
    daemon = make_daemon(
        DIPTYCH_DICOM__TLS_CERTIFICATE=str(certificate), DIPTYCH_DICOM__TLS_KEY=str(other)
    )
    daemon.spawn()
    assert daemon.died(60)
    assert daemon.process is not None
    assert daemon.process.returncode in (2, 4)
    assert "KEY_VALUES_MISMATCH" in daemon.log()
    assert "Traceback" not in daemon.log()


def test_stalled_handshakes_cost_an_echo_over_tls_less_than_a_second(
    open_to_all: Daemon, plain: Daemon
) -> None:
    with ExitStack() as stack:
        for number in range(550):
            peer = socket.create_connection(("127.0.0.1", open_to_all.port), timeout=20)
            stack.enter_context(peer)
            if number % 10 == 0:  # the head of a ClientHello record
                peer.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert max(seconds_more(open_to_all, plain, client_context()) for _ in range(5)) < 1


def _daemon(
    folder: Path, files: tuple[Path, Path], authorities: str, sources: str
) -> Iterator[Daemon]:
    certificate, key = files
    (folder / "diptych.toml").write_text(
        f'[dicom]\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n'
        f'tls_authorities = "{authorities}"\n{sources}'
    )
    made = Daemon(folder / "data", DIPTYCH_CONFIG=str(folder / "diptych.toml"))
    try:
        yield made.start()
    finally:
        made.end()


def _connected(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10))


def _run(name: str, *arguments: str) -> int:
    command = [program(name), *arguments]
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode
