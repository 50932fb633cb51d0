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

READY = "ready"
"""A child's first message: its imports are done and its limits are set."""

_LENGTHS = struct.Struct("<QI")  # bytes of the pickle, number of buffers
_LENGTH = struct.Struct("<Q")
_SEND_SLICE = 1 << 20

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


def receive(sock: socket.socket, limit: int) -> Any:
    """Receive one message of at most ``limit`` bytes.

    Raises ``Disconnected``, or ``TimeoutError`` by the socket's timeout.
    """
    size, count = _LENGTHS.unpack(_exactly(sock, _LENGTHS.size))
    if size + count * _LENGTH.size > limit:
        raise Disconnected
    lengths = [value for (value,) in _LENGTH.iter_unpack(_exactly(sock, count * _LENGTH.size))]
    if size + sum(lengths) > limit:
        raise Disconnected
    head = _exactly(sock, size)
    buffers = [_exactly(sock, length) for length in lengths]
    try:
        return _Unpickler(io.BytesIO(head), buffers=buffers).load()
    except Exception as error:
        raise Disconnected from error


def _exactly(sock: socket.socket, length: int) -> bytearray:
    # A bytearray makes the arrays built on it writable.
    buffer = bytearray(length)
    view = memoryview(buffer)
    while len(view):
        try:
            got = sock.recv_into(view)
        except ConnectionError as error:
            raise Disconnected from error
        if not got:
            raise Disconnected
        view = view[got:]
    return buffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not expected from a decoder")
        return super().find_class(module, name)
