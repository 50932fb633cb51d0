"""Everything that touches pynetdicom 3.0.4's private parts, with the reason beside each line."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

from pynetdicom import AE, _config, dimse_messages
from pynetdicom.transport import ThreadedAssociationServer

from diptych.receive.spool import Part


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


def part_of(request: Any) -> Part:
    """The file of a finished C-STORE request; the event exposes only its path."""
    part = request._dataset_file
    assert isinstance(part, Part)
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
