"""An acceptor process: one application entity on the socket the supervisor owns."""

from __future__ import annotations

import resource
import signal
import socket
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from diptych.audit.store import Store
from diptych.config import Config
from diptych.errors import ConfigError
from diptych.receive.journal import Journal
from diptych.receive.keeper import Keeper
from diptych.receive.listener import Listener
from diptych.receive.spool import Spool

# A sender gets this long to finish the instance it is sending when the daemon stops.
STOP_SECONDS = 5.0
# An instance that could not be kept keeps readiness away this long, unless the next one is kept:
# with the storage back and no sender trying, nobody would clear it.
FAILURE_SECONDS = 5.0


def main(
    config: Config, listening: socket.socket, name: str, started: Connection, refusing: Any
) -> None:
    """Run until SIGTERM. ``started`` hears once that associations are accepted; ``refusing`` is
    a shared flag: 1 while the last instance could not be kept."""
    # Every waiting connection is a descriptor, and the usual soft limit is 1024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    store = Store(config.database_url)
    spool = Spool(config.spool_folder, config.source_names())
    try:
        journal = Journal(spool, name)
        listener = Listener(config, store, spool, Keeper(store, spool, journal), name)
    except (ConfigError, OSError) as error:
        started.send(str(error))
        return
    listener.start(listening)
    started.send(True)
    started.close()
    while not stop.wait(0.2):
        failed = listener.last_failure
        refusing.value = int(failed is not None and time.monotonic() - failed < FAILURE_SECONDS)
    listener.stop(STOP_SECONDS)
    journal.close()
    store.close()
