"""Everything that touches pynetdicom 3.0.4's private parts, with the reason beside each line."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from copy import copy
from typing import Any

from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pynetdicom import AE, _config, dimse_messages, transport
from pynetdicom import association as library_association
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.transport import ThreadedAssociationServer

from diptych.receive.header import UID_BYTES
from diptych.receive.spool import Part, data_set_offset

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
    dimse_messages.write_file_meta_info = _write_file_meta
    Association._serve_request = _serve
    # The library copies all presentation contexts for every connection, 50 ms each; they are only
    # read.
    transport.deepcopy = copy
    # An AE title with control characters must reach the log line that says how to allow it.
    _config.VALIDATORS["AE"] = lambda _: (True, "")


_library_decode = dimse_messages.decode
_library_serve = Association._serve_request


def _decode_command(encoded: Any, *encoding: bool) -> Dataset:
    command: Dataset = _library_decode(encoded, *encoding)
    if command.get("CommandField") == _C_STORE_RQ:
        for keyword in ("AffectedSOPClassUID", "AffectedSOPInstanceUID"):
            value = command.get(keyword)
            if not isinstance(value, str) or len(value) > UID_BYTES:
                setattr(command, keyword, "")
    return command


def _write_file_meta(file: Any, meta: FileMetaDataset) -> None:
    write_file_meta_info(file, meta, enforce_standard=False)


def _serve(association: Association, message: Any, context_id: int) -> None:
    if not isinstance(message, C_STORE) or message.MessageID is None:
        _library_serve(association, message, context_id)
        return
    context = association._accepted_cx.get(context_id)
    if context is None:
        association.abort()
        return
    association._is_paused = True
    StorageServiceClass(association).SCP(message, context)
    association._is_paused = False


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


def server_on(listening: socket.socket) -> Callable[..., ThreadedAssociationServer]:
    """A server class for ``AE.make_server`` that accepts on an inherited socket.

    The supervisor owns the socket: several acceptors share it, and while one restarts the kernel
    keeps connections waiting instead of refusing them.
    """

    class InheritedSocketServer(ThreadedAssociationServer):  # type: ignore[misc]
        socket: socket.socket

        def server_bind(self) -> None:
            self.socket.close()
            self.socket = listening
            # Several acceptors wake for one connection: the losers must not block in accept().
            self.socket.setblocking(False)
            self.server_address = self.socket.getsockname()

        def server_activate(self) -> None:
            pass

        def server_close(self) -> None:
            # The library's shuts the socket down, for every process that shares it and for good.
            self.socket.close()

    return InheritedSocketServer


def start_server(ae: AE, listening: socket.socket, handlers: list[Any]) -> Any:
    """Serve ``ae`` in a thread; returns the server, whose ``shutdown()`` ends it."""
    server = ae.make_server(
        listening.getsockname()[:2], evt_handlers=handlers, server_class=server_on(listening)
    )
    # AE.shutdown() and the limit on associations look at this list.
    ae._servers.append(server)
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True)
    thread.start()
    return server


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
