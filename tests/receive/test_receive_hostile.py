"""Peers that stall, lie about lengths, speak out of turn or flood: others notice nothing.

FACTS about the library that these tests close: a silent peer holds a place, a half-sent PDU holds
it for ever, inbound lengths are not bounded, ``select`` ends at descriptor 1024.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress

import pytest

from receive.peers import (
    CT,
    Peer,
    acceptor_pids,
    associate_request,
    command,
    data_pdu,
    deliver,
    encoded,
    parts,
    pdu,
)
from receive.sockets import (
    A_ABORT,
    A_ASSOCIATE_AC,
    MEBI,
    bounded_memory,
    connector,
    descriptors,
    echo_seconds,
    ends,
    is_success,
    read_pdu,
    seconds_more,
    threads,
    type_of_answer,
)
from running import Daemon, instance

COMMAND, LAST_COMMAND, DATA, LAST_DATA = b"\x01", b"\x03", b"\x00", b"\x02"
C_ECHO_RQ = 0x0030


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that waits two seconds where others wait longer."""
    made = Daemon(
        tmp_path_factory.mktemp("impatient") / "data",
        DIPTYCH_DICOM__NETWORK_TIMEOUT="2",
        DIPTYCH_DICOM__ARTIM_TIMEOUT="2",
    )
    try:
        yield made.start()
    finally:
        made.end()


def test_nobody_in_a_burst_of_connections_has_to_knock_twice(impatient: Daemon) -> None:
    (pid,) = acceptor_pids(impatient)
    with ExitStack() as stack:
        # Busy elsewhere: what the kernel cannot queue it drops, and tries again after a second.
        os.kill(pid, signal.SIGSTOP)
        stack.callback(os.kill, pid, signal.SIGCONT)
        connect = connector(stack, impatient.port, seconds=0.9)
        for _ in range(700):
            connect(b"")
    assert echo_seconds(impatient.port) < 10


def test_600_stalled_connections_cost_an_echo_less_than_a_second(
    impatient: Daemon, plain: Daemon
) -> None:
    request = associate_request(b"SLOW")
    with ExitStack() as stack:
        connect = connector(stack, impatient.port)
        for _ in range(500):
            connect(b"")
        for _ in range(50):
            connect(request[:40])
        assert max(seconds_more(impatient, plain) for _ in range(10)) < 1


def test_an_echo_is_answered_while_fifty_associations_stall_inside_a_pdu(
    impatient: Daemon, plain: Daemon
) -> None:
    with ExitStack() as stack:
        connect = connector(stack, impatient.port)
        half = data_pdu(LAST_COMMAND + command(1, CT.encode(), b"1.2.3", True))[:-5]
        for _ in range(50):
            peer = connect(associate_request(b"HALF"))
            assert type_of_answer(peer) == A_ASSOCIATE_AC
            peer.sendall(half)
        assert max(seconds_more(impatient, plain) for _ in range(10)) < 1
        # They lose their places: 50 of the 64 that there are would be half-sent still.
        time.sleep(5)
        others = [Peer(impatient.port) for _ in range(60)]
        assert all(peer.accepted for peer in others)
        for peer in others:
            peer.abort()


def test_a_connection_without_a_request_is_closed_when_the_artim_timer_runs_out(
    impatient: Daemon,
) -> None:
    with ExitStack() as stack:
        connect = connector(stack, impatient.port)
        for sent in (b"", associate_request(b"SLOW")[:-1]):
            peer = connect(sent)
            peer.settimeout(6)
            began = time.monotonic()
            with suppress(ConnectionResetError):
                assert peer.recv(16) == b""
            assert 1 < time.monotonic() - began < 5


def test_a_peer_that_waits_for_a_slow_answer_is_not_taken_for_a_silent_one(
    impatient: Daemon,
) -> None:
    lock = sqlite3.connect(impatient.data / "diptych.sqlite3", isolation_level=None, timeout=30)
    with closing(lock):
        lock.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(deliver, impatient.port, [instance()])
            time.sleep(5)
            lock.execute("ROLLBACK")
            assert answer.result() == [0x0000]


def test_a_peer_that_falls_silent_after_its_answer_is_given_up(impatient: Daemon) -> None:
    data_set = instance()
    told = command(1, CT.encode(), data_set.SOPInstanceUID.encode(), True)
    with ExitStack() as stack:
        peer = connector(stack, impatient.port)(associate_request(b"SILENT"))
        assert type_of_answer(peer) == A_ASSOCIATE_AC
        peer.sendall(data_pdu(LAST_COMMAND + told) + data_pdu(LAST_DATA + encoded(data_set)))
        assert is_success(read_pdu(peer))
        assert ends(peer, 8)


@pytest.mark.parametrize("kind", [0x01, 0x04], ids=["request", "data"])
def test_a_pdu_that_declares_four_gibibytes_is_aborted_before_it_takes_memory(
    plain: Daemon, kind: int
) -> None:
    with bounded_memory(plain), ExitStack() as stack:
        peer = connector(stack, plain.port)(b"")
        if kind == 0x04:
            peer.sendall(associate_request(b"LIAR"))
            assert type_of_answer(peer) == A_ASSOCIATE_AC
        peer.sendall(struct.pack(">BBI", kind, 0, 0xFFFFFFFF))
        with suppress(ConnectionError):
            for _ in range(400):
                peer.sendall(bytes(MEBI))
        with suppress(ConnectionError):
            assert type_of_answer(peer) in (A_ABORT, None)
    assert deliver(plain.port, [instance()]) == [0x0000]


def test_a_command_set_or_an_unasked_data_set_without_end_is_aborted(plain: Daemon) -> None:
    echo = LAST_COMMAND + command(1, CT.encode(), None, True, C_ECHO_RQ)
    for first, then in ((COMMAND, COMMAND), (echo, DATA)):
        with bounded_memory(plain), ExitStack() as stack:
            peer = connector(stack, plain.port)(associate_request(b"FLOOD"))
            assert type_of_answer(peer) == A_ASSOCIATE_AC
            peer.sendall(data_pdu(first))
            block = data_pdu(then + bytes(131_000))
            with pytest.raises(ConnectionError):
                _send_often(peer, block, 40_000)  # 5 GB
    assert deliver(plain.port, [instance()]) == [0x0000]


def test_a_command_that_is_repeated_inside_its_data_set_opens_no_more_files(plain: Daemon) -> None:
    with ExitStack() as stack:
        peer = connector(stack, plain.port)(associate_request(b"AGAIN"))
        assert type_of_answer(peer) == A_ASSOCIATE_AC
        begun = LAST_COMMAND + command(1, CT.encode(), b"1.2.3", True)
        with suppress(ConnectionError):
            for _ in range(200):
                peer.sendall(data_pdu(begun) + data_pdu(DATA + b"x"))
        assert type_of_answer(peer) in (A_ABORT, None)
    plain.wait_until(lambda: not parts(plain), "rid of them", 5)


def test_requests_without_waiting_for_answers_take_neither_files_nor_memory(
    plain: Daemon,
) -> None:
    data_set = instance()
    uid = data_set.SOPInstanceUID.encode()
    one = data_pdu(LAST_COMMAND + command(1, CT.encode(), uid, True))
    one += data_pdu(LAST_DATA + encoded(data_set))
    with bounded_memory(plain), ExitStack() as stack:
        peer = connector(stack, plain.port)(associate_request(b"EAGER"))
        assert type_of_answer(peer) == A_ASSOCIATE_AC
        peer.settimeout(3)
        most = 0
        with suppress(OSError):
            for _ in range(200):
                peer.sendall(one)
                most = max(most, len(parts(plain)))
        assert most < 40
    plain.wait_until(lambda: not parts(plain), "rid of them", 10)


def test_requests_that_cannot_be_answered_take_no_memory(plain: Daemon) -> None:
    one = data_pdu(LAST_COMMAND + command(None, CT.encode(), b"1.2.3", True))
    one += data_pdu(DATA + bytes(100_000)) * 10 + data_pdu(LAST_DATA + bytes(2))
    with bounded_memory(plain), ExitStack() as stack:
        peer = connector(stack, plain.port)(associate_request(b"NAMELESS"))
        assert type_of_answer(peer) == A_ASSOCIATE_AC
        # What still comes is thrown away, for two seconds: as much as there is time for.
        with suppress(ConnectionError):
            _send_often(peer, one, 400)
        assert ends(peer, 10)
    assert deliver(plain.port, [instance()]) == [0x0000]


def test_more_than_1024_descriptors_are_no_reason_to_fail(plain: Daemon) -> None:
    (pid,) = acceptor_pids(plain)
    held, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    assert held > 4096
    with ExitStack() as stack:
        # Filled from outside: connections wait, so the next association's number is above 1024.
        connect = connector(stack, plain.port, addresses=20)
        for _ in range(1100):
            connect(b"")
        plain.wait_until(lambda: descriptors(pid) > 1050, "holding them", 5)
        # By hand: the library in this process holds as many, and fails.
        peer = connect(associate_request(b"LEGIT"))
        assert type_of_answer(peer) == A_ASSOCIATE_AC
        data_set = instance()
        told = command(1, CT.encode(), data_set.SOPInstanceUID.encode(), True)
        peer.sendall(data_pdu(LAST_COMMAND + told) + data_pdu(LAST_DATA + encoded(data_set)))
        assert is_success(read_pdu(peer))


@pytest.mark.parametrize(
    "sent",
    [
        data_pdu(DATA),
        data_pdu(LAST_DATA),
        data_pdu(b""),
        data_pdu(),
        pdu(0x04, struct.pack(">IB", 0, 1)),
        pdu(0x04, struct.pack(">IBB", 0xFFFFFFFF, 1, 3)),
        data_pdu(LAST_COMMAND),
        data_pdu(LAST_COMMAND + b"\xff" * 40),
        data_pdu(LAST_COMMAND + command(1, CT.encode(), b"1.2.3", True), context=9),
        data_pdu(LAST_COMMAND + command(1, CT.encode(), b"1.2.3", True, 0x7777)),
        pdu(0x02, bytes(68)),
        pdu(0x03, bytes(4)),
        pdu(0x06, bytes(4)),
        pdu(0x08, bytes(4)),
        pdu(0x01, b""),
        associate_request(b"TWICE"),
        pdu(0x07, b"\0\0\x08\0"),
        pdu(0x05, bytes(4)) + pdu(0x07, bytes(4)),
    ],
    ids=range(18),
)
def test_a_pdu_out_of_order_or_without_content_costs_only_its_association(
    impatient: Daemon, plain: Daemon, sent: bytes
) -> None:
    for first in (b"", associate_request(b"ODD")):
        with ExitStack() as stack:
            peer = connector(stack, impatient.port)(first)
            if first:
                assert type_of_answer(peer) == A_ASSOCIATE_AC
            with suppress(ConnectionError):
                peer.sendall(sent)
            assert ends(peer, 8), "the connection stays"
    impatient.wait_until(lambda: not parts(impatient), "rid of what was begun", 5)
    log = impatient.log()
    assert "Traceback" not in log
    assert "thread-ended" not in log
    assert seconds_more(impatient, plain) < 1


def test_zero_length_fragments_between_others_change_nothing(plain: Daemon) -> None:
    data_set = instance()
    data = encoded(data_set)
    told = command(1, CT.encode(), data_set.SOPInstanceUID.encode(), True)
    with ExitStack() as stack:
        peer = connector(stack, plain.port)(associate_request(b"GAPS"))
        assert type_of_answer(peer) == A_ASSOCIATE_AC
        peer.sendall(data_pdu(COMMAND) * 3 + data_pdu(COMMAND + told) + data_pdu(LAST_COMMAND))
        peer.sendall(data_pdu(DATA) * 500 + data_pdu(DATA + data) + data_pdu(LAST_DATA))
        assert is_success(read_pdu(peer))


def test_a_thousand_aborts_inside_a_data_set_leave_neither_files_nor_threads(
    plain: Daemon, impatient: Daemon
) -> None:
    begun = data_pdu(LAST_COMMAND + command(1, CT.encode(), b"1.2.3", True))
    begun += data_pdu(DATA + bytes(10_000))
    abort = pdu(0x07, bytes(4))
    (pid,) = acceptor_pids(plain)

    def some() -> None:
        for number in range(250):
            with socket.create_connection(("127.0.0.1", plain.port), timeout=20) as peer:
                peer.sendall(associate_request(b"ABORTS"))
                assert type_of_answer(peer) == A_ASSOCIATE_AC
                peer.sendall(begun + (abort if number % 2 else b""))

    plain.wait_until(lambda: threads(pid) < 12, "without associations", 20)
    quiet = threads(pid)
    with bounded_memory(plain):
        senders = [threading.Thread(target=some) for _ in range(4)]
        for sender in senders:
            sender.start()
        while any(sender.is_alive() for sender in senders):
            assert seconds_more(plain, impatient) < 2
    plain.wait_until(lambda: not parts(plain), "rid of half-sent files", 10)
    plain.wait_until(lambda: threads(pid) <= quiet + 1, "rid of their threads", 10)
    assert acceptor_pids(plain) == [pid]
    assert deliver(plain.port, [instance()]) == [0x0000]


def _send_often(peer: socket.socket, data: bytes, times: int) -> None:
    for _ in range(times):
        peer.sendall(data)
