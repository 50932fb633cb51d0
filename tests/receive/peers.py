"""Peers for the listener's tests: byte-exact C-STORE requests, an acceptor without a daemon."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dsutils import encode

from diptych.audit import migrate
from diptych.audit.store import Store
from diptych.config import Config
from diptych.receive import acceptor
from diptych.receive.spool import Spool, content_sha256, data_set_offset
from running import Daemon

CT = "1.2.840.10008.5.1.4.1.1.2"
PRIVATE_SOP_CLASS = "1.2.826.0.1.3680043.8.498.99.1"
ANSWER_SECONDS = 30.0
PIECE = 8192


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def encoded(data_set: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The data set's bytes in a native or encapsulated little endian syntax."""
    data = encode(data_set, syntax == ImplicitVRLittleEndian, True)
    assert data is not None
    return data


class Peer:
    """One association that sends whatever bytes it is told to, well-formed or not."""

    def __init__(
        self,
        port: int,
        sop_class: str = CT,
        syntax: str = ExplicitVRLittleEndian,
        calling: str = "SENDER",
        called: str = "DIPTYCH",
    ) -> None:
        ae = AE(calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ANSWER_SECONDS
        ae.add_requested_context(sop_class, syntax)
        self.association: Association = ae.associate("127.0.0.1", port, ae_title=called)
        self._class = sop_class
        self._message = 0
        self.comments: list[str] = []
        # From here on the association's own thread must not take answers from the queue; one that
        # was about to look when it was stopped is given the time to look.
        self.association._reactor_checkpoint.clear()
        time.sleep(0.02)

    @property
    def accepted(self) -> bool:
        return bool(self.association.accepted_contexts)

    def begin(
        self, instance_uid: bytes | None, data: bytes, sop_class: bytes | None = None
    ) -> None:
        """Send the command and ``data`` as fragments of which none is the last."""
        self._message += 1
        named = self._class.encode() if sop_class is None else sop_class
        self._send(0x03, command(self._message, named, instance_uid, has_data=True))
        self.begin_more(data)

    def begin_more(self, data: bytes) -> None:
        """Send ``data`` as further fragments of which none is the last."""
        for at in range(0, len(data), PIECE):
            self._send(0x00, data[at : at + PIECE])

    def finish(self, data: bytes) -> int:
        """Send ``data`` as the last fragment; returns the status answered, -1 for none."""
        self._send(0x02, data)
        return self._answer()

    def store(self, data_set: Dataset) -> int:
        """Send a data set as explicit little endian."""
        return self.store_bytes(str(data_set.SOPInstanceUID).encode(), encoded(data_set))

    def store_bytes(
        self, instance_uid: bytes | None, data: bytes, sop_class: bytes | None = None
    ) -> int:
        """Send one C-STORE-RQ (None: without that UID); returns the status, -1 for no answer."""
        split = max(0, len(data) - 1)
        self.begin(instance_uid, data[:split], sop_class)
        return self.finish(data[split:])

    def store_nothing(self, instance_uid: bytes) -> int:
        """Send a C-STORE-RQ that announces no data set."""
        self._message += 1
        told = command(self._message, self._class.encode(), instance_uid, has_data=False)
        self._send(0x03, told)
        return self._answer()

    def release(self) -> None:
        self.association.release()

    def abort(self) -> None:
        self.association.abort()

    def vanish(self) -> None:
        """Close the connection without a word."""
        connection = self.association.dul.socket.socket
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def _send(self, control: int, fragment: bytes) -> None:
        """One P-DATA-TF PDU with one presentation data value (PS3.8 section 9.3.5)."""
        context = self.association.accepted_contexts[0].context_id
        data = data_pdu(bytes([control]) + fragment, context=context)
        self.association.dul.socket.send(data)

    def _answer(self) -> int:
        _, message = self.association.dimse.get_msg(block=True)
        if message is None:
            return -1
        if message.ErrorComment:
            self.comments.append(str(message.ErrorComment))
        return int(message.Status)


def deliver(
    port: int, instances: Iterable[Dataset], calling: str = "SENDER", called: str = "DIPTYCH"
) -> list[int]:
    """Send instances of one SOP class over one association; the statuses, none if rejected."""
    wanted = list(instances)
    peer = Peer(port, str(wanted[0].SOPClassUID), calling=calling, called=called)
    if not peer.accepted:
        return []
    statuses = [peer.store(data_set) for data_set in wanted]
    peer.release()
    return statuses


def associate_request(calling: bytes, *sop_classes: str) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 table 9-11) with a calling AE title no library would send; the
    presentation contexts are 1, 3, 5 …, explicit little endian each."""

    def item(kind: int, content: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(content)) + content

    contexts = b"".join(
        item(
            0x20,
            bytes([2 * at + 1, 0, 0, 0])
            + item(0x30, uid.encode())
            + item(0x40, ExplicitVRLittleEndian.encode()),
        )
        for at, uid in enumerate(sop_classes or (CT,))
    )
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4")
    items = item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + item(0x50, user)
    body = b"\0\x01\0\0" + b"DIPTYCH".ljust(16) + calling.ljust(16) + bytes(32) + items
    return pdu(0x01, body)


def pdu(kind: int, body: bytes) -> bytes:
    """A PDU of PS3.8 section 9.3."""
    return struct.pack(">BBI", kind, 0, len(body)) + body


def data_pdu(*values: bytes, context: int = 1) -> bytes:
    """A P-DATA-TF PDU; each value begins with its message control header (PS3.8 annex E.2)."""
    items = [struct.pack(">IB", len(value) + 1, context) + value for value in values]
    return pdu(0x04, b"".join(items))


def command(
    message: int | None,
    sop_class: bytes | None,
    instance_uid: bytes | None,
    has_data: bool,
    field: int = 0x0001,
) -> bytes:
    """A command set (PS3.7 table 9.3-1), of a C-STORE-RQ by default: implicit VR little endian."""
    elements = b""
    if sop_class is not None:
        elements += _element(0x0002, sop_class)
    elements += _element(0x0100, struct.pack("<H", field))
    if message is not None:
        elements += _element(0x0110, struct.pack("<H", message))
    elements += _element(0x0700, struct.pack("<H", 0))
    elements += _element(0x0800, struct.pack("<H", 0x0001 if has_data else 0x0101))
    if instance_uid is not None:
        elements += _element(0x1000, instance_uid)
    return _element(0x0000, struct.pack("<I", len(elements))) + elements


def _element(element: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0x0000, element, len(value)) + value


def large(data_set: Dataset) -> Dataset:
    """The same instance with more than is received in memory: its transfer is a file."""
    data_set.DataSetTrailingPadding = bytes(1_100_000)
    return data_set


def stored_sha256(daemon: Daemon, instance_uid: str) -> str:
    """SHA-256 of the data set that lies on disk for an instance."""
    locator = daemon.value(
        "SELECT b.locator FROM instance i JOIN blob b ON b.id = i.blob_id "
        "WHERE i.sop_instance_uid = ?",
        instance_uid,
    )
    path = daemon.data / "spool" / locator
    return content_sha256(path, data_set_offset(path))[0]


def parts(daemon: Daemon) -> list[Path]:
    """Transfers in flight."""
    return list((daemon.data / "spool" / "incoming").glob("*.part"))


def open_files(pid: int) -> set[str]:
    """What its descriptors point to, but for those that it closes meanwhile."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(descriptor.readlink()))
    return found


def acceptor_pids(daemon: Daemon) -> list[int]:
    """The daemon's children that share its DICOM port."""
    assert daemon.process is not None
    wanted = f":{daemon.port:04X}"
    inodes = {
        f"socket:[{fields[9]}]"
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[1].endswith(wanted) and fields[3] == "0A"
    }
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == daemon.process.pid and inodes & open_files(int(folder.name)):
                found.append(int(folder.name))
        except OSError:  # it ended meanwhile
            continue
    return sorted(found)


class LoneAcceptor:
    """A real acceptor process on a data folder, without supervisor and worker."""

    def __init__(self, data: Path, **environment: str) -> None:
        self.data = data
        with patch.dict(os.environ, environment):
            config = Config(data=data)
            self.store = Store(config.database_url)
            data.mkdir()
            migrate.upgrade(self.store)
            self.spool = Spool(config.spool_folder, config.source_names())
            self.spool.prepare()
            self._listening = socket.create_server(("127.0.0.1", 0))
            self.port: int = self._listening.getsockname()[1]
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe(duplex=False)
            self.refusing = context.RawValue("b", 0)
            arguments: Any = (config, self._listening, "lone", theirs, self.refusing)
            self._process = context.Process(target=acceptor.main, args=arguments)
            self._process.start()
        theirs.close()
        assert ours.poll(60)
        assert ours.recv() is True

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def kept(self) -> list[str]:
        return [locator for _, locator in self.spool.kept()]

    def wait(self, seconds: float) -> None:
        """Until it has ended by itself."""
        self._process.join(seconds)
        assert self._process.exitcode == 0

    def close(self) -> None:
        self._process.terminate()
        self._process.join(10)
        self._process.kill()
        self._listening.close()
        self.store.close()


@contextmanager
def lone_acceptor(data: Path, **environment: str) -> Iterator[LoneAcceptor]:
    made = LoneAcceptor(data, **environment)
    try:
        yield made
    finally:
        made.close()
