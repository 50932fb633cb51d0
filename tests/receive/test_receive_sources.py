"""Who may send, and several acceptors on one port."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

from pynetdicom import AE

from receive.peers import (
    CT,
    Peer,
    acceptor_pids,
    associate_request,
    deliver,
    encoded,
    large,
    open_files,
    parts,
)
from running import Daemon, instance, series

REJECTED = 'diptych_associations_rejected_total{reason="calling-ae"}'
A_ASSOCIATE_RJ = 0x03


def test_by_default_any_ae_title_on_this_machine_is_the_source_default(plain: Daemon) -> None:
    data_set = instance()
    assert deliver(plain.port, [data_set], calling="WHOEVER") == [0x0000]
    assert _source_of(plain, data_set.SeriesInstanceUID) == ["default"]


def test_the_source_table_says_who_is_who(configured: Daemon) -> None:
    for calling, source in (("NORTH", "north"), ("NORTH2", "north"), ("SOUTH", "south")):
        data_set = instance()
        assert deliver(configured.port, [data_set], calling=calling) == [0x0000]
        assert _source_of(configured, data_set.SeriesInstanceUID) == [source]
    assert configured.metric('diptych_receipts_total{source="south"}') >= 1


def test_an_unknown_calling_ae_title_is_rejected_and_the_log_says_how_to_allow_it(
    configured: Daemon,
) -> None:
    before = configured.metric(REJECTED)
    ae = AE("STRANGER")
    ae.add_requested_context(CT)
    association = ae.associate("127.0.0.1", configured.port)
    assert association.is_rejected
    # Rejected permanent, service user, calling AE title not recognised (PS3.8 table 9-21).
    answer = association.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (1, 1, 3)
    line = _line_with(configured, "STRANGER")
    assert '[[source]] name = "…", ae_titles = ["STRANGER"], networks = ["127.0.0.1"]' in line
    configured.wait_until(lambda: configured.metric(REJECTED) == before + 1, "counted", 5)


def test_a_known_title_from_a_wrong_address_is_rejected(configured: Daemon) -> None:
    before = configured.metric(REJECTED)
    assert deliver(configured.port, series(1), calling="FAR") == []
    configured.wait_until(lambda: configured.metric(REJECTED) == before + 1, "counted", 5)


def test_an_ae_title_with_control_characters_is_made_printable_in_the_log(
    configured: Daemon,
) -> None:
    with socket.create_connection(("127.0.0.1", configured.port), timeout=20) as peer:
        peer.sendall(associate_request(b'\x1b[31mEV"IL\r\nX'))
        assert peer.recv(1)[0] == A_ASSOCIATE_RJ
    line = _line_with(configured, "[31mEV")
    assert "�[31mEV" in line
    assert "\x1b" not in configured.log()
    assert not any(text.startswith("X") for text in configured.log().splitlines())


def test_a_rejected_peer_that_goes_on_sending_stores_nothing(configured: Daemon) -> None:
    files, receipts = len(configured.kept_files()), configured.value("SELECT max(id) FROM receipt")
    data = encoded(instance())
    value = struct.pack(">IBB", len(data) + 2, 1, 0x02) + data
    with socket.create_connection(("127.0.0.1", configured.port), timeout=20) as peer:
        peer.sendall(associate_request(b"STRANGER"))
        assert peer.recv(1)[0] == A_ASSOCIATE_RJ
        with suppress(ConnectionError):
            peer.sendall(b"\x04\0" + struct.pack(">I", len(value)) + value)
        with suppress(ConnectionError):
            while peer.recv(4096):
                pass
    assert parts(configured) == []
    assert len(configured.kept_files()) == files
    assert configured.value("SELECT max(id) FROM receipt") == receipts


def test_the_same_content_from_two_sources_is_two_series_and_one_file(configured: Daemon) -> None:
    slices = series(3, seed=71)
    before = len(configured.kept_files())
    assert deliver(configured.port, slices, calling="NORTH") == [0x0000] * 3
    assert deliver(configured.port, slices, calling="SOUTH") == [0x0000] * 3
    assert _source_of(configured, slices[0].SeriesInstanceUID) == ["north", "south"]
    assert len(configured.kept_files()) == before + 3


def test_two_acceptors_share_the_port(configured: Daemon) -> None:
    assert len(acceptor_pids(configured)) == 2
    peers = [Peer(configured.port, calling="NORTH") for _ in range(12)]
    assert [peer.store(instance()) for peer in peers] == [0x0000] * 12
    names = configured.value(
        "SELECT count(DISTINCT acceptor) FROM association WHERE closed_at IS NULL"
    )
    for peer in peers:
        peer.release()
    assert names == 2


def test_an_acceptor_that_is_told_to_end_does_not_close_the_port_of_the_others(
    configured: Daemon,
) -> None:
    before = set(acceptor_pids(configured))
    os.kill(min(before), signal.SIGTERM)
    configured.wait_until(
        lambda: (
            min(before) not in acceptor_pids(configured)
            and len(acceptor_pids(configured)) == 2
            # The new one holds the socket before it has imported anything.
            and configured.get("/readyz")[0] == 200
        ),
        "replaced",
        20,
    )
    for _ in range(4):
        assert deliver(configured.port, series(1), calling="NORTH") == [0x0000]
    for pid in acceptor_pids(configured):
        spent = _cpu_seconds(pid)
        time.sleep(1)
        assert _cpu_seconds(pid) - spent < 0.5, "it spins on a socket that was shut down"


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process, of proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_an_acceptor_that_dies_is_replaced_and_nobody_is_refused_meanwhile(
    configured: Daemon,
) -> None:
    before = acceptor_pids(configured)
    half = Peer(configured.port, calling="NORTH")
    half.begin(b"1.2.3", encoded(large(instance())))
    configured.wait_until(lambda: parts(configured), "half-sent")
    victim = next(pid for pid in before if _holds(pid, parts(configured)[0]))
    refused: list[OSError] = []
    done = threading.Event()

    def knock() -> None:
        while not done.wait(0.02):
            try:
                socket.create_connection(("127.0.0.1", configured.port), timeout=20).close()
            except OSError as error:
                refused.append(error)

    knocking = threading.Thread(target=knock)
    knocking.start()
    os.kill(victim, signal.SIGKILL)
    try:
        assert deliver(configured.port, series(2), calling="NORTH") == [0x0000] * 2
        configured.wait_until(
            lambda: (
                len(set(acceptor_pids(configured)) - {victim}) == 2
                and configured.get("/readyz")[0] == 200
            ),
            "ready with two acceptors again",
        )
        assert deliver(configured.port, series(2), calling="SOUTH") == [0x0000] * 2
    finally:
        done.set()
        knocking.join()
    assert refused == []
    # Its transfer is removed although another acceptor lives on.
    configured.wait_until(lambda: not parts(configured), "rid of the half-sent instance", 5)


def test_probes_that_connect_and_say_nothing_do_not_use_up_the_associations(plain: Daemon) -> None:
    for _ in range(100):  # maximum_associations is 64
        socket.create_connection(("127.0.0.1", plain.port), timeout=20).close()
    assert deliver(plain.port, series(1)) == [0x0000]


def _source_of(daemon: Daemon, series_uid: str) -> list[str]:
    query = "SELECT source FROM series WHERE series_instance_uid = ? ORDER BY source"
    return [row["source"] for row in daemon.rows(query, series_uid)]


def _line_with(daemon: Daemon, text: str) -> str:
    found: str = daemon.wait_until(
        lambda: next((line for line in daemon.log().splitlines() if text in line), None),
        f"{text} logged",
        5,
    )
    assert "association-rejected reason=calling-ae" in found
    return found


def _holds(pid: int, path: Path) -> bool:
    return str(path) in open_files(pid)
