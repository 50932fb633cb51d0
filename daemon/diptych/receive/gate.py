"""Connections before they are associations: one thread and few bytes for all that wait.

A peer becomes an association, with threads of its own, when its A-ASSOCIATE-RQ is there in full.
Until then it costs a descriptor and what it sent: silent sockets, stalled TLS handshakes and
half-sent requests keep nobody else waiting. They are closed when their time is over (the ARTIM
timer of PS3.8 section 9.1.5), and when too many wait the oldest go first.
"""

from __future__ import annotations

import errno
import selectors
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from diptych.log import get_logger
from diptych.tls import Certificates

log = get_logger(__name__)

# 128 contexts (PS3.8 section 9.3.2.2) with 20 transfer syntaxes each are 90 KB.
REQUEST_BYTES = 128 * 1024
_HEADER_BYTES = 6
_A_ASSOCIATE_RQ, _A_ABORT = 0x01, 0x07
_PDU_TYPES = range(0x01, 0x08)
_READ_BYTES = 64 * 1024
_TICK_SECONDS = 0.2

# Actions AA-1 and AA-7 of PS3.8 section 9.2: service provider; unrecognised PDU, unexpected PDU,
# invalid parameter value (table 9-26).
_UNRECOGNISED, _UNEXPECTED, _INVALID = 1, 2, 6


@dataclass(frozen=True)
class Limits:
    """Seconds until the request must be there in full, and how many may wait for it."""

    seconds: float
    waiting: int
    waiting_per_address: int


class Gate:
    """Accepts on ``listening`` and gives whole requests to ``admit(socket, address, request)``.

    ``request`` is the A-ASSOCIATE-RQ as received; the socket blocks, and TLS is agreed on.
    """

    def __init__(
        self,
        listening: socket.socket,
        limits: Limits,
        certificates: Certificates | None,
        admit: Callable[[socket.socket, Any, bytes], None],
    ) -> None:
        self._listening, self._limits, self._admit = listening, limits, admit
        self._certificates = certificates
        # Oldest first.
        self._waiting: dict[socket.socket, _Waiting] = {}
        self._per_address: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)

    def start(self) -> None:
        # Several acceptors wake for one connection: the losers must not block in accept().
        self._listening.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._thread.start()

    def stop(self) -> None:
        """Accept nothing more and close what waits; other processes keep the socket."""
        self._stopped.set()
        self._thread.join()
        for waiting in list(self._waiting.values()):
            self._forget(waiting)
            waiting.socket.close()
        self._selector.close()
        self._listening.close()

    def take_dropped(self) -> dict[str, int]:
        """How many were closed since the last call, by reason."""
        with self._lock:
            taken, self._dropped = dict(self._dropped), Counter()
        return taken

    def _run(self) -> None:
        while not self._stopped.is_set():
            for key, _ in self._selector.select(_TICK_SECONDS):
                if key.data is None:
                    self._accept()
                elif key.data.socket in self._waiting:  # not dropped in this round
                    self._advance(key.data)
            latest = time.monotonic() - self._limits.seconds
            while self._waiting:
                oldest = next(iter(self._waiting.values()))
                if oldest.since > latest:
                    break
                self._drop(oldest, "silent")

    def _accept(self) -> None:
        try:
            connection, address = self._listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                if self._waiting:
                    self._drop(next(iter(self._waiting.values())), "crowded")
                else:
                    self._stopped.wait(_TICK_SECONDS)
            return  # else: another acceptor took it, or the peer is gone
        connection.setblocking(False)
        if self._certificates is not None:
            try:
                connection = self._certificates.context.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
            except OSError:  # the peer is gone
                connection.close()
                return
        waiting = _Waiting(connection, address, self._certificates is not None)
        self._waiting[connection] = waiting
        self._per_address[waiting.host] += 1
        self._selector.register(connection, selectors.EVENT_READ, waiting)
        if self._per_address[waiting.host] > self._limits.waiting_per_address:
            # A peer that floods displaces its own.
            of_host = (w for w in self._waiting.values() if w.host == waiting.host)
            self._drop(next(of_host), "crowded")
        elif len(self._waiting) > self._limits.waiting:
            self._drop(next(iter(self._waiting.values())), "crowded")

    def _advance(self, waiting: _Waiting) -> None:
        """Read what there is, until the request is whole, wrong or waited for."""
        try:
            if waiting.shakes_hands:
                waiting.socket.do_handshake()  # type: ignore[attr-defined]
                waiting.shakes_hands = False
                self._selector.modify(waiting.socket, selectors.EVENT_READ, waiting)
            while (missing := waiting.missing()) > 0:
                received = waiting.socket.recv(min(missing, _READ_BYTES))
                if not received:
                    self._drop(waiting, "silent" if waiting.received else "")
                    return
                waiting.received += received
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        except ssl.SSLWantWriteError:
            self._selector.modify(waiting.socket, selectors.EVENT_WRITE, waiting)
            return
        except _NotARequest as refused:
            with suppress(OSError):
                if refused.reason is not None:
                    waiting.socket.send(struct.pack(">BBIBBBB", 7, 0, 4, 0, 0, 2, refused.reason))
            self._drop(waiting, "not-dicom")
            return
        except OSError:
            # Before a word was said it may be a probe.
            self._drop(waiting, "tls" if waiting.shakes_hands else "")
            return
        self._forget(waiting)
        try:
            self._admit(waiting.socket, waiting.address, bytes(waiting.received))
        except Exception as error:  # the gate stays open whatever one peer sent
            log.error("connection-not-admitted", error=type(error).__name__)
            waiting.socket.close()

    def _forget(self, waiting: _Waiting) -> None:
        self._selector.unregister(waiting.socket)
        del self._waiting[waiting.socket]
        self._per_address[waiting.host] -= 1
        if not self._per_address[waiting.host]:
            del self._per_address[waiting.host]

    def _drop(self, waiting: _Waiting, reason: str) -> None:
        self._forget(waiting)
        waiting.socket.close()
        if reason:
            with self._lock:
                self._dropped[reason] += 1


class _Waiting:
    def __init__(self, connection: socket.socket, address: Any, shakes_hands: bool) -> None:
        self.socket, self.address, self.shakes_hands = connection, address, shakes_hands
        self.host = str(address[0])
        self.since = time.monotonic()
        self.received = bytearray()

    def missing(self) -> int:
        """Bytes of the request still to come. Raises _NotARequest when it is none."""
        if len(self.received) < _HEADER_BYTES:
            return _HEADER_BYTES - len(self.received)
        kind, _, length = struct.unpack_from(">BBI", self.received)
        if kind not in _PDU_TYPES:
            raise _NotARequest(_UNRECOGNISED)
        if kind != _A_ASSOCIATE_RQ:
            raise _NotARequest(None if kind == _A_ABORT else _UNEXPECTED)
        if length > REQUEST_BYTES:
            raise _NotARequest(_INVALID)
        return _HEADER_BYTES + int(length) - len(self.received)


class _NotARequest(Exception):
    """``reason`` of the A-ABORT that answers, None for no answer."""

    def __init__(self, reason: int | None) -> None:
        super().__init__()
        self.reason = reason
