"""The process that sends on, and answers for storage commitment: nobody else waits for it."""

from __future__ import annotations

import signal
import threading
from multiprocessing.connection import Connection

from diptych.audit.store import Store
from diptych.config import Config
from diptych.forward.committing import Answering, Asking, guarded
from diptych.forward.lane import Lane
from diptych.log import get_logger
from diptych.receive import pynetdicom_hooks
from diptych.receive.spool import Spool

log = get_logger(__name__)

# What is on its way when the daemon stops may still be answered.
STOP_SECONDS = 3.0


def main(config: Config, name: str, started: Connection) -> None:
    """Run until SIGTERM; what was not answered by then is sent again after the next start."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    pynetdicom_hooks.send_files_as_they_are()
    store = Store(config.database_url)
    spool = Spool(config.spool_folder, config.source_names())
    lanes = [
        Lane(destination, config.dicom.ae_title, lane, store, spool, stop)
        for destination in config.forward
        for lane in range(destination.maximum_associations)
    ]
    threads = [threading.Thread(target=lane.run, daemon=True) for lane in lanes]
    rounds = [Asking(config, f, store).round for f in config.forward if f.commit]
    if config.commitment.mode != "off":
        rounds.append(Answering(config, store, spool).round)
    threads += [threading.Thread(target=guarded, args=(one, stop), daemon=True) for one in rounds]
    for thread in threads:
        thread.start()
    log.info("forwarding", destinations=[f.name for f in config.forward] or "nobody")
    started.send(True)
    started.close()
    stop.wait()
    for thread in threads:
        thread.join(STOP_SECONDS)
