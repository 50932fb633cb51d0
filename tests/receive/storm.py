"""All attacks at once, in a process of their own: its threads must not slow the legitimate sender.

What ends is begun anew, so that each is under way all the time.
"""

from __future__ import annotations

import multiprocessing
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from authorities import client_context
from receive.peers import CT, associate_request, command, data_pdu, pdu
from receive.sockets import A_ASSOCIATE_AC, MEBI, type_of_answer

IDLE, HANDSHAKES, HALF_SENT = 500, 50, 50
ATTACKS = ("idle", "handshakes", "half-sent", "aborts", "four gibibytes")
_LAST_COMMAND, _DATA = b"\x03", b"\x00"
# A ClientHello record says that 512 bytes follow.
_CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01"
_HELD_SECONDS = 2.5


@contextmanager
def storm(port: int) -> Iterator[Callable[[], dict[str, int]]]:
    """Attack the listener at ``port``; the yielded function says how often each attack was made."""
    context = multiprocessing.get_context("spawn")
    stop, made = context.Event(), context.Array("q", len(ATTACKS))
    process = context.Process(target=_attack, args=(port, stop, made), daemon=True)
    process.start()
    try:
        yield lambda: dict(zip(ATTACKS, made, strict=True))
    finally:
        stop.set()
        process.join(20)
        process.kill()
        process.join()


def _attack(port: int, stop: Any, made: Any) -> None:
    def again(number: int, one: Callable[[], int]) -> None:
        while not stop.is_set():
            with suppress(OSError):
                made[number] += one()

    def hold(connections: list[Callable[[], socket.socket]]) -> int:
        with ExitStack() as stack:
            for connect in connections:
                stack.enter_context(connect())
            stop.wait(_HELD_SECONDS)
        return len(connections)

    # So many hosts that none displaces its own: the bar is for all of them waiting.
    idle = [lambda host=n % 10: _connected(port, 10 + host, b"") for n in range(IDLE)]
    shaking = [lambda: _connected(port, 2, _CLIENT_HELLO)] * HANDSHAKES
    half = [lambda: _half_sent(port)] * HALF_SENT
    threads = [
        threading.Thread(target=again, args=arguments)
        for arguments in (
            (0, lambda: hold(idle)),
            (1, lambda: hold(shaking)),
            (2, lambda: hold(half)),
            (3, lambda: _abort(port, b"")),
            (3, lambda: _abort(port, pdu(0x07, bytes(4)))),
            (4, lambda: _four_gibibytes(port)),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _connected(port: int, host: int, sent: bytes) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", port), 10, (f"127.0.0.{host}", 0))
    peer.sendall(sent)
    return peer


def _associated(port: int, host: int) -> ssl.SSLSocket:
    peer = client_context().wrap_socket(_connected(port, host, b""))
    peer.sendall(associate_request(b"STORM"))
    if type_of_answer(peer) != A_ASSOCIATE_AC:
        peer.close()
        raise ConnectionRefusedError
    return peer


def _half_sent(port: int) -> socket.socket:
    peer = _associated(port, 3)
    peer.sendall(data_pdu(_LAST_COMMAND + command(1, CT.encode(), b"1.2.3", True))[:-5])
    return peer


def _abort(port: int, last_words: bytes) -> int:
    begun = data_pdu(_LAST_COMMAND + command(1, CT.encode(), b"1.2.3", True))
    with _associated(port, 4) as peer:
        peer.sendall(begun + data_pdu(_DATA + bytes(10_000)) + last_words)
    return 1


def _four_gibibytes(port: int) -> int:
    with _associated(port, 5) as peer, suppress(ConnectionError, ssl.SSLError):
        peer.sendall(struct.pack(">BBI", 0x04, 0, 0xFFFFFFFF))
        for _ in range(400):
            peer.sendall(bytes(MEBI))
    return 1
