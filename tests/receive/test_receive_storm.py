"""Every attack at the same time over TLS, while a legitimate peer echoes and stores."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from authorities import Authority, client_context
from receive.peers import acceptor_pids, encoded, parts, sha256, stored_sha256
from receive.sockets import bounded_memory, descriptors, seconds_more, threads
from receive.storm import HALF_SENT, HANDSHAKES, IDLE, storm
from running import Daemon, instance

SECONDS = 8.0


def test_in_a_storm_echoes_take_less_than_a_second_and_every_instance_is_stored(
    make_daemon: Callable[..., Daemon], plain: Daemon, tmp_path: Path
) -> None:
    certificate, key = Authority(tmp_path / "authority").issue("server")
    daemon = make_daemon(
        DIPTYCH_DICOM__TLS_CERTIFICATE=str(certificate),
        DIPTYCH_DICOM__TLS_KEY=str(key),
        # Longer than they are held: nothing ends by itself.
        DIPTYCH_DICOM__NETWORK_TIMEOUT="20",
        DIPTYCH_DICOM__ARTIM_TIMEOUT="20",
        # How many places there are is the site's choice; that they are given back is ours.
        DIPTYCH_DICOM__MAXIMUM_ASSOCIATIONS="200",
    ).start()
    (pid,) = acceptor_pids(daemon)
    sent = [_store(daemon.port) for _ in range(3)]
    time.sleep(3)  # until the sweeper has seen them off
    before = descriptors(pid), threads(pid)
    more, held = [], []
    with bounded_memory(daemon), storm(daemon.port) as made:
        daemon.wait_until(lambda: all(made().values()), "under every attack")
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            more.append(seconds_more(daemon, plain, client_context()))
            sent.append(_store(daemon.port))
            held.append(descriptors(pid))
        attacks = made()
    print(f"{len(more)} echoes, at most {max(more):.2f} s more than a quiet daemon's; {attacks}")
    print(f"{len(sent)} of {len(sent)} instances acknowledged; at most {max(held)} descriptors")
    assert max(held) > IDLE + HANDSHAKES, held
    assert attacks["half-sent"] >= HALF_SENT
    assert max(more) < 1, more
    for data_set in sent:
        assert stored_sha256(daemon, data_set.SOPInstanceUID) == sha256(encoded(data_set))
    deadline = time.monotonic() + 30
    while (after := (descriptors(pid), threads(pid))) != before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert after == before
    assert parts(daemon) == []
    assert "Traceback" not in daemon.log()


def _store(port: int) -> Dataset:
    """An instance that was answered 0x0000, over an association of its own."""
    ae = AE("LEGIT")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", port, tls_args=(client_context(), None))
    assert association.is_established
    data_set = instance()
    assert association.send_c_store(data_set).Status == 0x0000
    association.release()
    return data_set
