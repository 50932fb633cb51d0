"""Archives to send on to: DCMTK's storescp, and one that answers as it is told."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.sop_class import CTImageStorage

from diptych.receive.spool import data_set_offset
from running import program


def free_port() -> int:
    """Below those that the kernel gives to whoever asks for any (ip_local_port_range)."""
    for _ in range(100):
        port = random.SystemRandom().randrange(15_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def route(port: int, **more: Any) -> str:
    """DIPTYCH_FORWARD for one destination on this machine, impatient unless told otherwise."""
    values = {
        "name": "archive",
        "host": "127.0.0.1",
        "port": port,
        "ae_title": "ARCHIVE",
        "retry_seconds": 0.3,
        "longest_retry_seconds": 1,
    }
    return json.dumps([{**values, **more}])


@contextmanager
def storescp(folder: Path, port: int, *options: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """DCMTK's storescp: writes what it receives as it is, in every transfer syntax it knows."""
    folder.mkdir(exist_ok=True)
    made = subprocess.Popen(
        [
            *(program("storescp"), *options, "+xa", "+B", "-pm"),
            *("-od", folder, "-aet", "ARCHIVE", str(port)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _until_listening(port)
        yield made
    finally:
        made.kill()
        made.wait()


class Archive:
    """A C-STORE SCP in this process; ``answer(uid, count)`` gives the status of each request."""

    def __init__(self, port: int, answer: Callable[[str, int], int] = lambda _uid, _n: 0) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.associations = 0
        self._answer = answer
        ae = AE("ARCHIVE")
        ae.add_supported_context(CTImageStorage, ALL_TRANSFER_SYNTAXES)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_ACCEPTED, self._accepted)]
        self._server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)

    def close(self) -> None:
        self._server.shutdown()

    @property
    def uids(self) -> list[str]:
        return [uid for uid, _ in self.received]

    def _accepted(self, _event: Any) -> None:
        self.associations += 1

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        self.received.append((uid, event.encoded_dataset(include_meta=False)))
        return self._answer(uid, self.uids.count(uid))


@contextmanager
def archive(port: int, **how: Any) -> Iterator[Archive]:
    made = Archive(port, **how)
    try:
        yield made
    finally:
        made.close()


def data_set_bytes(path: Path) -> bytes:
    """What follows the file meta information."""
    return path.read_bytes()[data_set_offset(path) :]


def _until_listening(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("storescp does not listen")
