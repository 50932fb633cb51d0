"""How one decoded instance crosses from a decoder child to its parent.

A message is a pickle (protocol 5) whose arrays travel beside it as raw bytes, so nothing is copied
twice. The child works on hostile input, so the parent unpickles only the classes it expects.
"""

from __future__ import annotations

import io
import pickle
import socket
import struct
from typing import Any

import numpy as np

from .memory import empty

READY = "ready"
"""A child's first message: its imports are done and its limits are set."""

_LENGTHS = struct.Struct("<QI")  # bytes of the pickle, number of buffers
_LENGTH = struct.Struct("<Q")
_SEND_SLICE = 1 << 20
_PIECE = 32 << 20
_SHARE = 4
"""An array of more than a quarter of a piece gets memory of its own."""
_ALIGNMENT = 64

_ALLOWED = {
    ("diptych.volume.plane", "Instance"),
    ("diptych.volume.plane", "InstanceHeader"),
    ("diptych.volume.plane", "Plane"),
    ("diptych.volume.plane", "Refusal"),
    ("diptych.errors", "Reason"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
}


class Disconnected(Exception):
    """The other side closed the connection, or what it sends is no message of ours."""


def send(sock: socket.socket, message: Any) -> None:
    """Send one message; blocks while the reader is slow."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    raws = [buffer.raw() for buffer in buffers]
    sock.sendall(_LENGTHS.pack(len(head), len(raws)))
    sock.sendall(b"".join(_LENGTH.pack(raw.nbytes) for raw in raws))
    sock.sendall(head)
    for raw in raws:
        for start in range(0, raw.nbytes, _SEND_SLICE):
            sock.sendall(raw[start : start + _SEND_SLICE])


class Room:
    """Memory for what is received: parts of large pieces. One array that is kept keeps its own."""

    def __init__(self) -> None:
        self._piece, self._used = empty((0,), np.uint8), 0

    def take(self, length: int) -> memoryview:
        """Writable, aligned for every type; its content is not initialised."""
        if length > _PIECE // _SHARE:
            return empty((length,), np.uint8).data
        if self._used + length > len(self._piece):
            self._piece, self._used = empty((_PIECE,), np.uint8), 0
        start, self._used = self._used, self._used + -(-length // _ALIGNMENT) * _ALIGNMENT
        return self._piece[start : start + length].data


def receive(sock: socket.socket, limit: int, room: Room | None = None) -> Any:
    """Receive one message of at most ``limit`` bytes; its arrays lie in ``room``.

    Raises ``Disconnected``, or ``TimeoutError`` by the socket's timeout.
    """
    size, count = _LENGTHS.unpack(_exactly(sock, _LENGTHS.size))
    if size + count * _LENGTH.size > limit:
        raise Disconnected
    lengths = [value for (value,) in _LENGTH.iter_unpack(_exactly(sock, count * _LENGTH.size))]
    if size + sum(lengths) > limit:
        raise Disconnected
    head = _exactly(sock, size)
    room = room or Room()
    buffers = [_fill(sock, room.take(length)) for length in lengths]
    try:
        return _Unpickler(io.BytesIO(head), buffers=buffers).load()
    except Exception as error:
        raise Disconnected from error


def _exactly(sock: socket.socket, length: int) -> memoryview:
    return _fill(sock, memoryview(bytearray(length)))


def _fill(sock: socket.socket, buffer: memoryview) -> memoryview:
    rest = buffer
    while len(rest):
        try:
            got = sock.recv_into(rest)
        except ConnectionError as error:
            raise Disconnected from error
        if not got:
            raise Disconnected
        rest = rest[got:]
    return buffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not expected from a decoder")
        return super().find_class(module, name)
