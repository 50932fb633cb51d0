"""The daemon: a supervisor that owns the data folder, the sockets and the other processes.

    supervisor ── lock, migrate, reconcile, bind, watch; /metrics, /healthz, /readyz
      ├── acceptor × N ── C-STORE → spool → receipt → 0x0000
      ├── forwarder ── what is owed to other nodes → C-STORE; only where some are configured
      └── worker ── seal → decode → volume → digest → embed → search → verdict → index
            └── decoder × M

SQL is the only hand-off between them. When one child dies it is started again; when the
supervisor dies the kernel takes the children along.
"""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn

from diptych import __version__, faults, notify
from diptych import log as logs
from diptych.audit import archive, daemons, receipts, work
from diptych.audit.store import Store
from diptych.config import Config
from diptych.data_folder import locked, open_store
from diptych.errors import ConfigError, StoreError
from diptych.processes import OF_THE_GROUP, child_main
from diptych.readings import Readings
from diptych.receive import journal
from diptych.receive.reconcile import Reconciled, reconcile
from diptych.receive.spool import Spool
from diptych.tls import Certificates
from diptych.web.app import application
from diptych.web.exposition import Exposition

log = logs.get_logger(__name__)

# Named, not imported: only the worker needs the model's runtime and the index.
ACCEPTOR = "diptych.receive.acceptor:main"
WORKER = "diptych.worker:main"
FORWARDER = "diptych.forward.process:main"
# SIGTERM must be over within 10 s; what is cut off resumes by status.
STOP_SECONDS = 8.0
# A child that dies at once is not restarted in a tight loop.
RESTART_SECONDS = 1.0
# A child without a sign of life is named by /readyz, and after the longer time killed and started
# again: saving a large index to a slow disk may keep the interpreter to itself for a while.
SILENT_SECONDS = 30.0
HUNG_SECONDS = 300.0
# What finds the queue full is dropped, and its sender tries again after a second. The kernel cuts
# this to net.core.somaxconn, 4096 by default.
BACKLOG = 4096


@dataclass(frozen=True)
class Ports:
    """Where the daemon listens; while it is ready, also in ``ports.json`` of its data folder."""

    dicom: int
    http: int


def run(
    config: Config,
    stop: threading.Event,
    on_ready: Callable[[Ports], None] | None = None,
    level: Callable[[], str | None] = lambda: None,
) -> None:
    """Run the daemon until ``stop`` is set.

    ``level``: asked all the time; another log level than None is from then on that of all
    processes. It may raise ConfigError.

    Raises ConfigError when the folder, the ports, the database or the model cannot be used.
    """
    # What cannot be read is said before anything is begun.
    config.http.token()
    config.look_at_certificates()
    certificates = config.http.certificates("http")
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    taken: list[str] = []

    def lost(why: str) -> None:
        taken.append(why)
        stop.set()

    with locked(config.data):
        (config.data / "ports.json").unlink(missing_ok=True)
        store = open_store(config)
        with daemons.alone(store, lost):
            spool, found = open_folder(config, store)
            log.info("spool-reconciled", **asdict(found))
            with (
                _bind(config.dicom.host, config.dicom.port, "DICOM", "dicom.port") as dicom,
                _bind(config.http.host, config.http.port, "HTTP", "http.port") as http,
            ):
                _Daemon(config, store, spool, dicom, http, certificates).run(stop, on_ready, level)
        store.close()
    if taken:
        raise daemons.Taken(taken[0])


def open_folder(config: Config, store: Store) -> tuple[Spool, Reconciled]:
    """Database and spool as the last process left them, made to agree; nothing else may run.

    Raises ConfigError when the database speaks of another spool, StoreError when it is away.
    """
    spool = Spool(config.spool_folder, config.source_names())
    spool.prepare()
    if config.database.url:
        daemons.bind(store, spool.folder)
    restored = journal.recover(store, spool)
    if restored:
        log.warning("journal-recovered", files=restored)
    receipts.close_associations_of(store, None)
    # Attempts count what kills a worker; a daemon that was stopped or killed is no such sign.
    work.release(store, None, forgive=True)
    return spool, reconcile(store, spool, config.dicom.header_limit, config.destinations_of)


def _bind(host: str, port: int, what: str, key: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        hint = f"; set {key} to another" if error.errno in (errno.EADDRINUSE, errno.EACCES) else ""
        raise ConfigError(f"{what} port {host}:{port}: {error.strerror}{hint}") from error
    return listening


def _write_ports(path: Path, ports: Ports) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"pid": os.getpid(), **asdict(ports)}) + "\n", "ascii")
    temporary.replace(path)


class _Child:
    """A process that is started again when it dies."""

    def __init__(self, name: str, start: Callable[[str, Any, Any], Any]) -> None:
        self.name, self._start = name, start
        self.incarnation = ""
        self.process: Any = None
        self.started_at = 0.0
        self._pipe: Any = None
        self.ready = False
        # Raw, as all that children share: a lock would be kept by whoever is killed with it, and a
        # semaphore stays behind when all are.
        self.beats = multiprocessing.get_context("spawn").RawValue("L", 0)
        self._heard, self.silent = 0, 0.0

    def start(self) -> None:
        self.incarnation = uuid.uuid4().hex
        self.silent = 0.0
        self._pipe, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self.ready = False
        self.started_at = time.monotonic()
        self.process = self._start(self.incarnation, theirs, self.beats)
        theirs.close()

    @property
    def working(self) -> bool:
        """Alive, has said that it is ready, and gives signs of life."""
        alive = self.process is not None and self.process.is_alive()
        return self.ready and alive and self.silent < SILENT_SECONDS

    def listen(self, seconds: float) -> None:
        """Count ``seconds`` more of silence, unless there was a sign of life."""
        heard = self.beats.value
        self.silent = 0.0 if heard != self._heard else self.silent + seconds
        self._heard = heard

    def poll_ready(self) -> None:
        """Notice the child's word that it works, or its reason why not (ConfigError)."""
        if self.ready or not self._pipe.poll():
            return
        try:
            said = self._pipe.recv()
        except EOFError:
            return
        if isinstance(said, str):
            raise ConfigError(said)
        self.ready = True


class _Daemon:
    def __init__(
        self,
        config: Config,
        store: Store,
        spool: Spool,
        dicom: socket.socket,
        http: socket.socket,
        certificates: Certificates | None,
    ) -> None:
        self._config, self._store, self._spool = config, store, spool
        self._dicom, self._http, self._certificates = dicom, http, certificates
        self._context = multiprocessing.get_context("spawn")
        self._refusing = [self._context.RawValue("b", 0) for _ in range(config.dicom.acceptors)]
        self._acceptors = [
            _Child(f"acceptor {i}", self._start_acceptor(i)) for i in range(config.dicom.acceptors)
        ]
        with store.read() as connection:
            key = archive.hmac_key(connection)
        self._log_level = self._context.RawValue("i", logs.level_in_force())
        self._logging = logs.Settings(
            "supervisor", **config.log.model_dump(), key=key, shared_level=self._log_level
        )
        logs.configure(self._logging)
        self._been_ready = False
        self._watched_at = time.monotonic()
        self._worker = _Child("worker", self._start_worker)
        wanted = config.forward or config.commitment.mode != "off"
        self._forwarder = [_Child("forwarder", self._start_forwarder)] if wanted else []
        self._readings = Readings(config, store, spool, self._receiving, self._judging)

    @property
    def _children(self) -> list[_Child]:
        return [*self._acceptors, self._worker, *self._forwarder]

    def run(
        self,
        stop: threading.Event,
        on_ready: Callable[[Ports], None] | None,
        level: Callable[[], str | None],
    ) -> None:
        os.environ[faults.SUPERVISOR_PID] = str(os.getpid())
        # BLAS threads that spin on busy cores slow everything else down.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        web = self._web()
        thread = threading.Thread(target=web.run, kwargs={"sockets": [self._http]}, daemon=True)
        thread.start()
        manager = notify.Manager()
        try:
            for child in self._children:
                child.start()
            said = False
            while not stop.wait(0.05):
                self._watch()
                self._heed_level(level)
                # The children are ours to mend; without its web thread the daemon is begun anew.
                if thread.is_alive():
                    manager.alive()
                manager.status(self._receiving() or self._judging() or "receiving and judging")
                if not said and all(child.ready for child in self._children):
                    said = self._been_ready = True
                    ports = Ports(self._dicom.getsockname()[1], self._http.getsockname()[1])
                    log.info(
                        "ready", version=__version__, dicom_port=ports.dicom, http_port=ports.http
                    )
                    _write_ports(self._config.data / "ports.json", ports)
                    # The worker has the model, the index and the database by now. A full spool or a
                    # backlog, of which /readyz tells too, must not look like a start that hangs.
                    notify.say(ready=1)
                    if on_ready is not None:
                        on_ready(ports)
        finally:
            notify.say(stopping=1, status="stopping")
            (self._config.data / "ports.json").unlink(missing_ok=True)
            self._stop_children()
            web.should_exit = True
            thread.join(2)

    def _watch(self) -> None:
        # A pause of our own (a stopped container, a suspended machine) was theirs too.
        now = time.monotonic()
        passed, self._watched_at = min(now - self._watched_at, 1.0), now
        for child in self._children:
            child.listen(passed)
            if child.ready and child.silent > HUNG_SECONDS and child.process.is_alive():
                log.error("process-hung", child=child.name, seconds=round(child.silent))
                child.process.kill()
                child.process.join(1)
            try:
                child.poll_ready()
            except ConfigError as error:
                if not self._been_ready:
                    raise
                log.error("process-cannot-work", child=child.name, error=str(error))
            if child.process.is_alive():
                continue
            if time.monotonic() - child.started_at < RESTART_SECONDS:
                continue
            if child.process.exitcode:
                code = child.process.exitcode
                log.error("process-died", child=child.name, exit=code)
            else:  # the worker, when another model is in use
                log.info("process-begins-anew", child=child.name)
            try:
                if child is self._worker:
                    work.release(self._store, child.incarnation, forgive=False)
                elif child in self._acceptors:
                    journal.recover(self._store, self._spool, child.incarnation)
                    receipts.close_associations_of(self._store, child.incarnation)
                    for path in self._spool.orphans(child.incarnation):
                        path.unlink(missing_ok=True)
            except (StoreError, OSError, RuntimeError) as error:  # RuntimeError: no thread left
                log.error("process-waits", child=child.name, error=str(error))
                child.started_at = time.monotonic()
                continue
            child.start()

    def _heed_level(self, level: Callable[[], str | None]) -> None:
        try:
            wanted = level()
        except ConfigError as error:
            log.error("configuration-refused", error=str(error))
            return
        if wanted is not None:
            log.info("configuration-read", log_level=wanted)
            self._log_level.value = logging.getLevelNamesMapping()[wanted]
            logs.set_level(self._log_level.value)
            for child in self._children:
                if child.process.is_alive():
                    os.kill(child.process.pid, signal.SIGHUP)

    def _stop_children(self) -> None:
        processes = [child.process for child in self._children if child.process is not None]
        for process in processes:
            if process.is_alive():
                process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                log.warning("process-killed", child=process.name)
                process.kill()
                process.join()

    def _start_acceptor(self, number: int) -> Callable[[str, Any, Any], Any]:
        def start(incarnation: str, pipe: Any, beats: Any) -> Any:
            arguments = (self._config, self._dicom, incarnation, pipe, self._refusing[number])
            return self._spawn("diptych-accept", "acceptor", ACCEPTOR, beats, arguments)

        return start

    def _start_worker(self, incarnation: str, pipe: Any, beats: Any) -> Any:
        arguments = (self._config, incarnation, pipe)
        return self._spawn("diptych-worker", "worker", WORKER, beats, arguments)

    def _start_forwarder(self, incarnation: str, pipe: Any, beats: Any) -> Any:
        arguments = (self._config, incarnation, pipe)
        return self._spawn("diptych-forward", "forwarder", FORWARDER, beats, arguments)

    def _spawn(
        self, name: str, said: str, target: str, beats: Any, arguments: tuple[Any, ...]
    ) -> Any:
        logging_there = replace(self._logging, process=said)
        process = self._context.Process(
            target=child_main,
            args=(os.getpid(), name, logging_there, target, beats, arguments),
            name=name,
        )
        # They reach the whole process group: a child still importing must not hear them.
        signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_GROUP)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_THE_GROUP)
        return process

    def _web(self) -> uvicorn.Server:
        readings = self._readings
        exposition = Exposition(
            self._store,
            self._config.source_names(),
            readings.gauges,
            self._config.destination_names(),
        )
        app = application(exposition, readings.conditions, self._config.http.token())
        shown = self._certificates
        return uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                loop="asyncio",
                ssl_context_factory=None if shown is None else lambda *_: shown.for_asyncio(),
            )
        )

    def _receiving(self) -> str:
        if not all(child.working for child in self._acceptors):
            return "an acceptor is down, starting or gives no sign of life"
        refusing = any(flag.value for flag in self._refusing)
        return "what was sent last could not be kept" if refusing else ""

    def _judging(self) -> str:
        down = "the worker is down, still loading the index or gives no sign of life"
        return "" if self._worker.working else down
