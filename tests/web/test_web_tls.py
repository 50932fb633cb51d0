"""HTTPS: a real daemon, certificates made by openssl, clients with and without one."""

from __future__ import annotations

import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import forked
from authorities import Authority
from cli.command_line import command, environment
from running import Daemon

ON_THIS_MACHINE = "DNS:localhost,IP:127.0.0.1"
TOKEN = "a-token-of-the-site"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def mutual(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Open to others: a token, and a certificate of the clients."""
    folder = tmp_path_factory.mktemp("mutual")
    (folder / "token").write_text(TOKEN + "\n")
    made = Daemon(
        folder / "data",
        DIPTYCH_HTTP__HOST="0.0.0.0",
        DIPTYCH_HTTP__TOKEN_FILE=str(folder / "token"),
        DIPTYCH_HTTP__TLS_AUTHORITIES=str(authority.certificate),
        **_shown(authority.issue("mutual", ON_THIS_MACHINE)),
    )
    try:
        yield made.start()
    finally:
        made.end()


def test_the_pages_are_read_with_a_certificate_and_a_token(
    mutual: Daemon, authority: Authority
) -> None:
    client = _client(authority)
    client.load_cert_chain(*authority.issue("prometheus"))
    assert _get(mutual, "/healthz", client) == (200, "ok\n")
    assert _get(mutual, "/metrics", client)[0] == 401
    status, body = _get(mutual, "/metrics", client, Authorization=f"Bearer {TOKEN}")
    assert (status, "diptych_pending_series" in body) == (200, True)


def test_doctor_asks_over_tls(mutual: Daemon) -> None:
    done = forked.run(
        command("doctor", "--data", mutual.data),
        env=environment(**mutual.environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.search(r"HTTP port \d+, ready", done.stdout), done.stdout + done.stderr
    assert done.returncode == 0


def test_without_a_certificate_of_the_authority_nothing_is_answered(
    mutual: Daemon, authority: Authority, tmp_path: Path
) -> None:
    foreign = _client(authority)
    foreign.load_cert_chain(*Authority(tmp_path / "foreign").issue("prometheus"))
    for client in (_client(authority), foreign):
        with pytest.raises((OSError, ValueError)):
            _get(mutual, "/healthz", client)
    with pytest.raises((OSError, ValueError)):
        urllib.request.urlopen(f"http://127.0.0.1:{mutual.http_port}/healthz", timeout=10)


def test_only_suites_with_forward_secrecy_and_authenticated_encryption(
    mutual: Daemon, authority: Authority
) -> None:
    def agreed(version: ssl.TLSVersion, suite: str) -> bool:
        client = _client(authority)
        client.load_cert_chain(*shown)
        client.minimum_version = client.maximum_version = version
        client.set_ciphers(suite)
        try:
            return _get(mutual, "/healthz", client)[0] == 200
        except OSError:
            return False

    shown = authority.issue("prometheus")
    good = "ECDHE-RSA-AES256-GCM-SHA384"
    assert agreed(ssl.TLSVersion.TLSv1_2, good)
    assert agreed(ssl.TLSVersion.TLSv1_3, good)
    assert not agreed(ssl.TLSVersion.TLSv1_2, "ECDHE-RSA-AES128-SHA256")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        assert not agreed(ssl.TLSVersion.TLSv1_1, "DEFAULT:@SECLEVEL=0")


def test_certificates_and_authorities_are_read_again_without_a_restart(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    files = first.issue("server", ON_THIS_MACHINE)
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(first.certificate.read_bytes())
    daemon = make_daemon(DIPTYCH_HTTP__TLS_AUTHORITIES=str(trusted), **_shown(files)).start()

    def answered(server: Authority, client: Authority) -> bool:
        context = _client(server)
        context.load_cert_chain(*client.issue("client"))
        try:
            return _get(daemon, "/healthz", context)[0] == 200
        except OSError:
            return False

    assert answered(first, first)
    assert not answered(first, second)
    for old, new in zip(files, second.issue("server", ON_THIS_MACHINE), strict=True):
        old.write_bytes(new.read_bytes())
    trusted.write_bytes(second.certificate.read_bytes())
    daemon.wait_until(lambda: answered(second, second), "renewed", 10)
    assert not answered(second, first)
    files[1].write_text("no key\n")
    daemon.wait_until(
        lambda: answered(second, second) and "certificates-refused" in daemon.log(),
        "said",
        10,
    )


def test_a_key_that_cannot_be_used_is_said_at_the_start(
    make_daemon: Callable[..., Daemon], authority: Authority
) -> None:
    certificate, _ = authority.issue("one")
    _, other = authority.issue("two")
    daemon = make_daemon(**_shown((certificate, other)))
    daemon.spawn()
    assert daemon.died(60)
    assert daemon.process is not None
    assert daemon.process.returncode == 4
    assert "http.tls_key" in daemon.log()
    assert "KEY_VALUES_MISMATCH" in daemon.log()
    assert "Traceback" not in daemon.log()


def test_health_is_answered_while_handshakes_stall(
    make_daemon: Callable[..., Daemon], authority: Authority
) -> None:
    daemon = make_daemon(**_shown(authority.issue("server", ON_THIS_MACHINE))).start()
    with ExitStack() as stack:
        for _ in range(100):
            peer = socket.create_connection(("127.0.0.1", daemon.http_port), timeout=20)
            stack.enter_context(peer)
            peer.sendall(b"\x16\x03\x01\x02\x00\x01")  # the head of a ClientHello record
        seconds = []
        for _ in range(3):
            began = time.monotonic()
            assert _get(daemon, "/healthz", _client(authority))[0] == 200
            seconds.append(time.monotonic() - began)
    assert min(seconds) < 1, seconds
    assert "Traceback" not in daemon.log()


def _shown(files: tuple[Path, Path]) -> dict[str, str]:
    return {
        "DIPTYCH_HTTP__TLS_CERTIFICATE": str(files[0]),
        "DIPTYCH_HTTP__TLS_KEY": str(files[1]),
    }


def _client(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.certificate))


def _get(daemon: Daemon, path: str, context: ssl.SSLContext, **headers: str) -> tuple[int, str]:
    url = f"https://localhost:{daemon.http_port}{path}"
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
