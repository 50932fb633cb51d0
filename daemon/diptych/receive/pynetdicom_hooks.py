"""Everything that touches pynetdicom 3.0.4's private parts, with the reason beside each line."""

from __future__ import annotations

import queue
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy
from io import BytesIO
from typing import Any

from pydicom import config as pydicom_config
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, _config, dimse_messages, transport
from pynetdicom import association as library_association
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_items import PresentationDataValueItem
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.transport import AssociationServer

from diptych.log import get_logger
from diptych.receive import encoded
from diptych.receive.header import UID_BYTES
from diptych.receive.spool import Part, data_set_offset

log = get_logger(__name__)

# Peers that count the PDU's header, or that of its first value, into our maximum.
_PDU_SLACK = 1024
# A command set is a few hundred bytes; only C-STORE's data sets go to a file.
_COMMAND_BYTES = 64 * 1024
_DATA_BYTES = 4 * 2**20
# A refused peer is listened to so long.
_DRAIN_SECONDS = 2.0
_DRAIN_BYTES = 2**20
# PS3.8 section 9.3.5.1: length, context ID and message control header of a value.
_PDV_BYTES = 6
_PDV_HEAD = struct.Struct(">IB")
_PDU_HEADER_BYTES = 6
# PS3.8 section 9.3.5: the first byte of the PDU.
_P_DATA_TF = 0x04
# Requests of one association that may wait for their answer.
_UNANSWERED = 8
# The library's two threads of an association each wake a thousand times a second. The one that
# reads waits for the peer, but looks so often (milliseconds) for what others want to send; where
# the peer has said nothing for _QUIET_SECONDS, less often.
_LOOK_MS, _LOOK_WHEN_QUIET_MS, _QUIET_SECONDS = 5, 50, 1.0
# The other one waits for a request this long (seconds) before it looks at its timers.
_REQUEST_SECONDS = 0.2
# PS3.7 section 9.3.1.1.
_C_STORE_RQ = 0x0001


def receive_into(make_part: Callable[[Any], Part]) -> None:
    """Make the library write data sets in chunks to ``make_part(association)``.

    The library would use ``tempfile`` (possibly another file system), and an error while it
    writes would end the association without an answer.
    """
    _config.STORE_RECV_CHUNKED_DATASET = True

    def open_part(**_: Any) -> Part:
        # Fragments are written by the association's DUL thread, which knows its association.
        return make_part(threading.current_thread().assoc)  # type: ignore[attr-defined]

    dimse_messages.NamedTemporaryFile = open_part
    # Identifiers must not reach the log; the standard handlers format every message besides.
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    _config.LOG_HANDLER_LEVEL = "none"
    # pydicom warns about values, and quotes them.
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    pydicom_config.settings.writing_validation_mode = pydicom_config.IGNORE


def answer_every_store() -> None:
    """Let every C-STORE-RQ reach the handler, which refuses in words what is wrong with it.

    The library ends the association when a UID of the command is missing or longer than 64 bytes,
    does not answer when one is empty, and chooses the service by the SOP class that the command
    names: a private one ends the association, Verification is answered with success.
    """
    dimse_messages.decode = _decode_command
    dimse_messages.DIMSEMessage.message_to_primitive = _to_primitive
    dimse_messages.create_file_meta = dict
    dimse_messages.write_file_meta_info = lambda part, meta: part.begin(
        encoded.file_meta(*map(str, meta.values()))
    )
    DIMSEServiceProvider.send_msg = _send
    # The library copies all presentation contexts for every connection, 50 ms each; they are only
    # read.
    transport.deepcopy = copy
    # Only the server's side: ``AE.associate`` imports its own name of the class.
    transport.AssociationSocket = _PeerSocket
    DIMSEServiceProvider.get_msg = _next_message
    DULServiceProvider._read_pdu_data = _read_pdu
    DULServiceProvider._decode_pdu = _decode_pdu
    DIMSEServiceProvider.receive_primitive = _receive
    DULServiceProvider.run_reactor = _react
    Association.run_reactor = _run
    # An AE title with control characters must reach the log line that says how to allow it.
    _config.VALIDATORS["AE"] = lambda _: (True, "")


_library_decode = dimse_messages.decode
_library_to_primitive = dimse_messages.DIMSEMessage.message_to_primitive
_library_read_pdu = DULServiceProvider._read_pdu_data
_library_decode_pdu = DULServiceProvider._decode_pdu
_library_receive = DIMSEServiceProvider.receive_primitive
_library_react = DULServiceProvider.run_reactor
_library_run = Association.run_reactor
_library_next_message = DIMSEServiceProvider.get_msg
_library_send = DIMSEServiceProvider.send_msg


class _StoreCommand:
    """Of the command set of a C-STORE-RQ what the library asks for."""

    CommandField, CommandDataSetType = _C_STORE_RQ, 0

    def __init__(self, primitive: C_STORE) -> None:
        self.primitive = primitive
        self.AffectedSOPClassUID = primitive.AffectedSOPClassUID
        self.AffectedSOPInstanceUID = primitive.AffectedSOPInstanceUID


def _decode_command(command_set: BytesIO, *encoding: bool) -> Dataset | _StoreCommand:
    request = encoded.store_request(command_set.getvalue())
    if request is not None:
        return _StoreCommand(request)
    command: Dataset = _library_decode(command_set, *encoding)
    if command.get("CommandField") == _C_STORE_RQ:
        for keyword in ("AffectedSOPClassUID", "AffectedSOPInstanceUID"):
            value = command.get(keyword)
            if not isinstance(value, str) or len(value) > UID_BYTES:
                setattr(command, keyword, "")
    return command


def _to_primitive(message: dimse_messages.DIMSEMessage) -> Any:
    if not isinstance(message.command_set, _StoreCommand):
        return _library_to_primitive(message)
    request = message.command_set.primitive
    request.DataSet, request._context_id = message.data_set, message.context_id
    request._dataset_path, request._dataset_file = message._data_set_path, message._data_set_file
    return request


class _Requests(queue.Queue[Any]):
    """Where the thread that reads leaves requests for the one that serves them, but for C-STORE:
    that it serves itself, since there is nothing to read until the answer is out."""

    def __init__(self, association: Association) -> None:
        super().__init__()
        self._association = association

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        context_id, message = item
        nameless = isinstance(message, C_STORE) and message.MessageID is None
        if not isinstance(message, C_STORE) or (nameless and part_of(message) is None):
            super().put(item, block, timeout)
            return
        context = self._association._accepted_cx.get(context_id)
        if context is None or nameless:  # no answer could name it
            self._association.abort(block=False)
            return
        # The other thread gives up peers that are silent; this one waits for us.
        silence = self._association.dul._idle_timer
        silence.start()
        silence.stop()
        try:
            StorageServiceClass(self._association).SCP(message, context)
        finally:
            silence.start()


class _Words(queue.Queue[Any]):
    """Words for the association (release, abort): they end its wait for a request."""

    def __init__(self, requests: _Requests) -> None:
        super().__init__()
        self._requests = requests

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._requests.put((None, None))


def _send(provider: DIMSEServiceProvider, primitive: Any, context_id: int) -> None:
    if (
        isinstance(primitive, C_STORE)
        and primitive.MessageIDBeingRespondedTo is not None
        and primitive.Status == 0x0000
        and primitive.AffectedSOPClassUID
        and primitive.AffectedSOPInstanceUID
    ):
        command = encoded.success(
            primitive.MessageIDBeingRespondedTo,
            str(primitive.AffectedSOPClassUID),
            str(primitive.AffectedSOPInstanceUID),
        )
        # A peer may take PDUs of a few bytes only; 0: of any length.
        if not provider.maximum_pdu_size or len(command) < provider.maximum_pdu_size - _PDV_BYTES:
            fragment = P_DATA()
            fragment.presentation_data_value_list.append((context_id, b"\x03" + command))
            provider.dul.send_pdu(fragment)
            return
    _library_send(provider, primitive, context_id)


def _next_message(provider: DIMSEServiceProvider, block: bool = False) -> Any:
    """The library asks without waiting, a thousand times a second."""
    if block or not provider.assoc.is_acceptor:
        return _library_next_message(provider, block)
    try:
        return provider.msg_queue.get(timeout=_REQUEST_SECONDS)
    except queue.Empty:
        return None, None


def reject(association: Association, answer: tuple[int, int, int]) -> None:
    """Reject from EVT_REQUESTED: without the kill the library may close before it has sent."""
    association.acse.send_reject(*answer)
    association.kill()


def forget_if_silent(event: Any) -> None:
    """At EVT_CONN_CLOSE: the library waits for an A-ASSOCIATE-RQ until the ACSE timeout even when
    the peer is gone, so a load balancer's probes would use up ``maximum_associations``."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)


def part_of(request: Any) -> Part | None:
    """The file of a finished C-STORE request (None: it brought no data set); the event exposes
    only its path."""
    part = request._dataset_file
    assert part is None or isinstance(part, Part)
    return part


def certificate_of(association: Association) -> dict[str, Any] | None:
    """What the peer's certificate says (``ssl.SSLSocket.getpeercert``), None without one."""
    connection = association.dul.socket.socket
    return connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None


class _PeerSocket(transport.AssociationSocket):  # type: ignore[misc]
    """A peer's connection with bounds: bytes of a PDU, seconds for one, answers owed."""

    def __init__(
        self, association: Association, client_socket: socket.socket, address: Any = None
    ) -> None:
        super().__init__(association, client_socket, address)
        # The gate has read the A-ASSOCIATE-RQ already.
        self._first = memoryview(association._server.requests.pop(client_socket))
        self._at_header, self._deadline, self._drained_until = True, 0.0, 0.0
        self._heard_at = time.monotonic()
        association.dimse.msg_queue = requests = _Requests(association)
        association.dul.to_user_queue = _Words(requests)
        # It waits in ``ready`` instead.
        association.dul._run_loop_delay = 0

    def begin_pdu(self) -> None:
        """The next ``recv`` reads a header, the one after that a body."""
        self._at_header = True
        self._deadline = time.monotonic() + self.assoc.network_timeout

    def drain(self) -> None:
        """Awaiting the end of the connection (Sta13 of PS3.8 section 9.2): a peer that still sends
        must get our refusal, which closing with unread bytes would take from it."""
        now = time.monotonic()
        self._drained_until = self._drained_until or now + _DRAIN_SECONDS
        with suppress(OSError):
            if now < self._drained_until and self.socket.recv(_DRAIN_BYTES):
                return
        self.close()

    @property
    def ready(self) -> bool:
        """Whether there is something to read; the library asks select(2), which ends at 1024.

        Waits a moment for it, unless there is something else to do.
        """
        if self.socket is None or not self._is_connected:
            time.sleep(_LOOK_MS / 1000)
            return False
        # The library queues what a peer sends before it was answered, a file or a message each.
        if self.assoc.dimse.msg_queue.qsize() >= _UNANSWERED:
            time.sleep(_LOOK_MS / 1000)
            return False
        if self._first:
            return True
        try:
            if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
                return True
            poll = select.poll()
            poll.register(self.socket, select.POLLIN)
            if not poll.poll(self._patience_ms()):
                return False
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
            return False
        self._heard_at = time.monotonic()
        return True

    def _patience_ms(self) -> int:
        dul = self.assoc.dul
        if not (dul.event_queue.empty() and dul.to_provider_queue.empty()) or (
            dul.state_machine.current_state == "Sta13"
        ):
            return 0
        quiet = time.monotonic() - self._heard_at > _QUIET_SECONDS
        return _LOOK_WHEN_QUIET_MS if quiet else _LOOK_MS

    def recv(self, nr_bytes: int) -> bytearray:
        """As the library's, which trusts the length that a PDU declares and waits without end."""
        if self._first:
            taken, self._first = self._first[:nr_bytes], self._first[nr_bytes:]
            return bytearray(taken)
        if not self._at_header and nr_bytes > self.assoc.ae.maximum_pdu_size + _PDU_SLACK:
            raise _TooLong
        self._at_header = False
        received = bytearray(nr_bytes)
        view, at = memoryview(received), 0
        while at < nr_bytes:
            count = self.socket.recv_into(view[at:])
            if not count:
                break
            at += count
            if at < nr_bytes and time.monotonic() > self._deadline:
                raise TimeoutError
        view.release()
        del received[at:]
        return received


class _TooLong(Exception):
    """A PDU declares more bytes than we said we receive."""


def _read_pdu(provider: DULServiceProvider) -> None:
    if isinstance(provider.socket, _PeerSocket):
        if provider.state_machine.current_state == "Sta13":
            # The library would decode, six bytes at a time, what follows a refusal.
            provider.socket.drain()
            return
        provider.socket.begin_pdu()
    try:
        _library_read_pdu(provider)
    except _TooLong:
        provider.event_queue.put("Evt19")  # AA-8 of PS3.8 section 9.2: A-ABORT


def _decode_pdu(provider: DULServiceProvider, received: bytearray) -> tuple[Any, str]:
    """Without the library's four copies of what a P-DATA-TF PDU brings."""
    if received[0] != _P_DATA_TF or not provider.assoc.is_acceptor:
        decoded: tuple[Any, str] = _library_decode_pdu(provider, received)
        return decoded
    pdu = P_DATA_TF()
    for context_id, data in values_of(received):
        value = PresentationDataValueItem()
        value.presentation_context_id, value.presentation_data_value = context_id, data
        pdu.presentation_data_value_items.append(value)
    return pdu, "Evt10"


def values_of(received: bytearray) -> Iterator[tuple[int, memoryview]]:
    """Presentation context ID and fragment (its first byte is the message control header) of every
    value of a P-DATA-TF PDU (PS3.8 section 9.3.5), as views. Raises ValueError or struct.error."""
    view, at = memoryview(received).toreadonly(), _PDU_HEADER_BYTES
    while at < len(view):
        length, context_id = _PDV_HEAD.unpack_from(view, at)
        begin, at = at + _PDV_HEAD.size, at + _PDV_HEAD.size - 1 + length
        if not length or at > len(view):
            raise ValueError("a value is longer than its PDU")
        yield context_id, view[begin:at]


def _receive(provider: DIMSEServiceProvider, primitive: Any) -> None:
    """Refuse what the library would gather in memory, open as files or fall over."""
    try:
        if provider.assoc.is_acceptor:
            _check_fragments(provider, primitive)
        _library_receive(provider, primitive)
    except Exception as error:  # it would end the thread that reads, and its text may quote values
        log.warning("association-aborted", where="message", error=type(error).__name__)
        provider.message = None
        provider.dul.event_queue.put("Evt19")


class _OutOfOrder(Exception):
    """A fragment that cannot belong to the message begun (PS3.8 annex E)."""


def _check_fragments(provider: DIMSEServiceProvider, primitive: Any) -> None:
    message = provider.message
    commanded = message is not None and message.context_id is not None
    # What one PDU brings is in memory already.
    most_data = max(_DATA_BYTES, provider.assoc.ae.maximum_pdu_size)
    gathered = 0
    if message is not None:
        gathered = message.encoded_command_set.tell()
        if commanded and message._data_set_file is None:
            gathered = message.data_set.tell()
    for context_id, data in primitive.presentation_data_value_list:
        if not data or context_id not in provider.assoc._accepted_cx:
            raise _OutOfOrder
        is_command, is_last = data[0] & 1, data[0] & 2
        if bool(is_command) == commanded:  # a second command, or data without one
            raise _OutOfOrder
        gathered += len(data) - 1
        to_file = message is not None and message._data_set_file is not None
        if gathered > (_COMMAND_BYTES if is_command else most_data) and not to_file:
            raise _OutOfOrder
        if is_last:
            # A command's data set follows in PDUs of its own or in this one.
            commanded, gathered = not commanded, 0


def _run(association: Association) -> None:
    """However an association ends, its threads and its connection end with it."""
    try:
        _library_run(association)
    except Exception as error:
        log.warning("association-aborted", where="library", error=type(error).__name__)
    finally:
        if association.is_acceptor:
            association.dul.kill_dul()
            if association.dul.socket.socket is not None:
                association._server.shutdown_request(association.dul.socket.socket)


def _react(provider: DULServiceProvider) -> None:
    """The library's state machine raises, in its own thread, at an A-ABORT with a source that does
    not exist and at an abort that crosses our answer."""
    try:
        _library_react(provider)
    except Exception as error:
        if not provider.assoc.is_acceptor:
            raise
        log.info("association-aborted", where="state-machine", error=type(error).__name__)
        provider.assoc._kill = True
        # An association that still waits for its request waits no longer.
        provider.to_user_queue.put(None)


def server_on(listening: socket.socket) -> type[AssociationServer]:
    """A server class for ``AE.make_server`` that makes associations of what the gate admits."""

    class AdmittingServer(AssociationServer):  # type: ignore[misc]
        socket: socket.socket

        def server_bind(self) -> None:
            self.requests: dict[Any, bytes] = {}
            self.socket.close()
            self.socket = listening
            self.server_address = self.socket.getsockname()

        def server_activate(self) -> None:
            pass

        def admit(self, connection: Any, address: Any, request: bytes) -> None:
            # The library leaves accepted connections without a time limit.
            connection.settimeout(self.ae.network_timeout)
            self.requests[connection] = request
            self.finish_request(connection, address)

    return AdmittingServer


def make_server(ae: AE, listening: socket.socket, handlers: list[Any]) -> Any:
    """What turns admitted connections into associations of ``ae``: ``admit(socket, address,
    request)``."""
    return ae.make_server(
        listening.getsockname()[:2], evt_handlers=handlers, server_class=server_on(listening)
    )


def send_files_as_they_are() -> None:
    """Make ``send_c_store(path)`` send the data set of a file of ours without reading it.

    The library would take what follows the file meta for more of it where a data set begins with
    elements of group 0002.
    """
    _config.STORE_SEND_CHUNKED_DATASET = True
    library_association.split_dataset = lambda path: (
        read_file_meta_info(path),
        data_set_offset(path),
    )
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    _config.LOG_HANDLER_LEVEL = "none"
