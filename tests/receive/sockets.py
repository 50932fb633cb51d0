"""What hostile peers are made of and held against: bare sockets, PDUs, an acceptor's resources."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pynetdicom import AE
from pynetdicom.sop_class import Verification

from receive.peers import acceptor_pids
from running import Daemon

A_ASSOCIATE_AC, A_ABORT = 0x02, 0x07
MEBI = 1 << 20
GROWTH = 256 * MEBI


def connector(
    stack: ExitStack, port: int, addresses: int = 1, seconds: float = 20
) -> Callable[[bytes], socket.socket]:
    """Connects, from several loopback addresses in turn, and sends what it is given."""
    made = 0

    def connect(sent: bytes) -> socket.socket:
        nonlocal made
        made += 1
        address = (f"127.0.0.{made % addresses + 1}", 0)
        peer = socket.create_connection(("127.0.0.1", port), seconds, address)
        stack.enter_context(peer)
        if sent:
            peer.sendall(sent)
        return peer

    return connect


def read_pdu(peer: socket.socket) -> bytes | None:
    """The next PDU, None when the connection ended."""
    head = _exactly(peer, 6)
    return (
        None if head is None else head + (_exactly(peer, struct.unpack(">I", head[2:])[0]) or b"")
    )


def type_of_answer(peer: socket.socket) -> int | None:
    """The type of the next PDU, None when the connection ended."""
    with suppress(ConnectionError):
        answer = read_pdu(peer)
        return None if answer is None else answer[0]
    return None


def is_success(answer: bytes | None) -> bool:
    """Whether a response says (0000,0900) Status, US, 0x0000."""
    return answer is not None and struct.pack("<HHIH", 0, 0x0900, 2, 0x0000) in answer


def ends(peer: socket.socket, seconds: float) -> bool:
    """Whether the other side closes within ``seconds`` of silence."""
    peer.settimeout(seconds)
    try:
        while peer.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def echo_seconds(port: int, tls: ssl.SSLContext | None = None) -> float:
    """From the first SYN to the C-ECHO-RSP."""
    ae = AE("LEGIT")
    ae.acse_timeout = ae.dimse_timeout = 10
    ae.add_requested_context(Verification)
    began = time.monotonic()
    association = ae.associate("127.0.0.1", port, tls_args=(tls, None) if tls else None)
    assert association.is_established
    assert association.send_c_echo().Status == 0x0000
    seconds = time.monotonic() - began
    association.release()
    return seconds


def seconds_more(attacked: Daemon, quiet: Daemon, tls: ssl.SSLContext | None = None) -> float:
    """How much longer an echo takes than one that a quiet daemon is asked for at the same moment:
    what the machine is busy with besides costs both."""
    with ThreadPoolExecutor(2) as pool:
        here = pool.submit(echo_seconds, attacked.port, tls)
        there = pool.submit(echo_seconds, quiet.port)
        return here.result() - there.result()


@contextmanager
def bounded_memory(daemon: Daemon) -> Iterator[None]:
    """The one acceptor is the same afterwards, and its peak has not grown by 256 MB."""
    (pid,) = acceptor_pids(daemon)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): the peak begins anew
    before = _status(pid, "VmHWM")
    yield
    assert acceptor_pids(daemon) == [pid]
    growth = _status(pid, "VmHWM") - before
    print(f"the acceptor's peak grew by {growth / MEBI:.0f} MiB")
    assert growth < GROWTH


def threads(pid: int) -> int:
    return _status(pid, "Threads")


def descriptors(pid: int) -> int:
    """Those to the database left out: they are pooled, as many as ever worked at once."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += ".sqlite3" not in str(link.readlink())
    return found


def _exactly(peer: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        more = peer.recv(size - len(data))
        if not more:
            return None
        data += more
    return data


def _status(pid: int, field: str) -> int:
    """A size of proc(5)'s status, in bytes; a bare number as it is."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            value, *unit = line.split()[1:]
            return int(value) * (1024 if unit else 1)
    raise AssertionError(field)
