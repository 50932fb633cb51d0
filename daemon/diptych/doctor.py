"""Can the daemon run here, and does it? Each finding says what was looked at and, if it is bad,
how to repair it. Looking changes nothing: no folder, file or row is made.

The index is imported by the functions that need it: USearch loaded before ONNX Runtime crashes the
interpreter (usearch 2.26, onnxruntime 1.31).
"""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

from sqlalchemy import text

from diptych import __version__
from diptych.active import model_in_use
from diptych.audit import archive, migrate, models, postgres
from diptych.audit.store import Store
from diptych.config import Config
from diptych.embed.manifest import ModelEntry
from diptych.errors import ConfigError, DiptychError, IndexCorrupt, ModelError, StoreError

PACKAGES = ("pynetdicom", "pydicom", "highdicom", "usearch", "sqlalchemy", "numpy")
# The daemon answers /readyz from memory; who takes longer is stuck.
ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    ok: bool
    what: str
    said: str


def examine(config: Config) -> list[Finding]:
    """Look at everything ``serve`` needs; when a daemon runs on the folder, ask it as well."""
    findings = [
        _find("versions", _versions),
        _find("provider and model", lambda: _model(config)),
        _find("data folder", lambda: _folder(config)),
        _find("database", lambda: _database(config)),
        _find("disk", lambda: _disk(config)),
        _find("TLS", lambda: ", ".join(config.look_at_certificates()) or "used by nobody"),
    ]
    if holder := _holder(config.data):
        return [*findings, _find("running daemon", lambda: _daemon(config, holder))]
    dicom, http = config.dicom, config.http
    return [
        *findings,
        _find("DICOM port", lambda: _port(dicom.host, dicom.port, "dicom.port (--dicom-port)")),
        _find("HTTP port", lambda: _port(http.host, http.port, "http.port (--http-port)")),
    ]


def check_index(config: Config, store: Store) -> tuple[list[str], str]:
    """Problems of the last snapshot in words, and one line about it."""
    from diptych.search import snapshot

    model = model_in_use(config, store)
    # Before the database is read: a running daemon may add to both meanwhile.
    try:
        loaded = snapshot.load(
            snapshot.folder(config.index_folder, model.fingerprint),
            fingerprint=model.fingerprint,
            dimension=model.dimension,
        )
    except IndexCorrupt as error:
        return [f"{error}; it will be rebuilt from the database"], "no usable snapshot"
    fingerprint_id = archive.fingerprint_id(store, model.fingerprint, model.name, model.dimension)
    with store.read() as connection:
        wanted = archive.node_keys(connection, fingerprint_id)
        newest = archive.next_key(connection, fingerprint_id) - 1
    if loaded is None:
        return [], f"no snapshot yet; the database holds {len(wanted)} vectors"
    index, said = loaded
    held = {int(key) for key in index.keys()}  # noqa: SIM118 - not a dict
    problems = []
    if said.watermark > newest:
        problems.append(
            f"it knows vector {said.watermark}, the database none above {newest}: one of them is "
            "of another archive or from a backup; it will be rebuilt from the database"
        )
    missing = {key for key in wanted - held if key <= said.watermark}
    if missing:
        problems.append(f"{len(missing)} vectors below the watermark are missing")
    if held - wanted:
        problems.append(f"{len(held - wanted)} vectors are not in the database (forgotten since)")
    problems += _changed(store, fingerprint_id, model.dimension, index)
    behind = sum(1 for key in wanted if key > said.watermark)
    return problems, (
        f"generation {said.generation}: {len(held)} vectors, {behind} newer ones to be replayed"
    )


def rebuild_index(config: Config, store: Store) -> int:
    """Build the index from the database and save it; returns the number of vectors."""
    from diptych.search import snapshot

    model = model_in_use(config, store)
    vectors = index_of(config, store, model)
    # What was forgotten must not stay in the snapshots of models that are not in use.
    snapshot.discard_others(config.index_folder, model.fingerprint)
    return vectors


def index_of(config: Config, store: Store, model: ModelEntry) -> int:
    """The same for a model that need not be in use."""
    from diptych.search.archive import SearchIndex

    fingerprint_id = archive.fingerprint_id(store, model.fingerprint, model.name, model.dimension)
    index = SearchIndex(model.dimension, model.fingerprint, mode="hnsw")
    for keys, vectors in archive.all_nodes(store, fingerprint_id, model.dimension):
        index.add(keys, vectors)
    index.save(config.index_folder)
    return len(index)


def _changed(store: Store, fingerprint_id: int, dimension: int, index: object) -> Iterator[str]:
    changed = 0
    for keys, vectors in archive.all_nodes(store, fingerprint_id, dimension):
        known = [i for i, key in enumerate(keys) if int(key) in index]  # type: ignore[operator]
        if known:
            held = index.vectors(keys[known])  # type: ignore[attr-defined]
            changed += int((held != vectors[known]).any(axis=1).sum())
    if changed:
        yield f"{changed} vectors differ from the database"


def _find(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(True, what, look())
    except (DiptychError, OSError) as error:
        return Finding(False, what, str(error))


def _versions() -> str:
    said = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return f"diptych {__version__}, Python {platform.python_version()}, {said}"


def _model(config: Config) -> str:
    try:
        from diptych.embed.session import Embedder
    except ImportError as error:
        raise ModelError(f"{error}: install diptych[cpu] or diptych[gpu]") from error
    store = _archive(config)
    embedder = Embedder(model_in_use(config, store), threads=1)
    said = f"{embedder.model.name} ({embedder.dimension}-d) on {embedder.provider}"
    if store is None:
        return said
    with store.read() as connection:
        found = models.coverage(connection, embedder.fingerprint)
        chosen = models.in_use(connection)
    known = chosen.missing if chosen and chosen.fingerprint == embedder.fingerprint else 0
    if found.missing > known:
        raise ModelError(
            f"{said}: {found.missing} of {found.embedded + found.missing} cases are embedded by "
            "another model only and are found by their pixels alone; "
            f"`diptych model use {embedder.model.name}` embeds them"
        )
    return f"{said}, {found.embedded} cases embedded" + (
        f", {found.missing} left behind" if found.missing else ""
    )


def _archive(config: Config) -> Store | None:
    """The database, if there is one of this version; its own finding says what is wrong with it."""
    if not config.database.url and not (config.data / "diptych.sqlite3").exists():
        return None
    store = Store(config.database_url)
    try:
        return store if migrate.current_revision(store) == migrate.newest_revision() else None
    except StoreError:
        return None


def _holder(folder: Path) -> str | None:
    """The process that holds the folder's lock, or None; takes no lock that ``serve`` would see."""
    try:
        with (folder / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "unknown"
    except OSError:
        pass  # no lock, or no folder: its own finding says so
    return None


def _folder(config: Config) -> str:
    there = _existing(config.data)
    if not there.is_dir():
        raise ConfigError(f"{there} is not a folder: choose another with --data or DIPTYCH_DATA")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{there} cannot be written by user {os.getuid()}: give it to that user, or choose "
            "another folder with --data or DIPTYCH_DATA"
        )
    if there != config.data:
        return f"{config.data} will be made"
    holder = _holder(config.data)
    return f"{config.data}" + (f", in use by a daemon (process {holder})" if holder else "")


def _existing(path: Path) -> Path:
    """The path itself, or the nearest thing above it that is there."""
    return next(p for p in (path, *path.parents) if os.path.lexists(p))


def _database(config: Config) -> str:
    if not config.database.url and not (config.data / "diptych.sqlite3").exists():
        return "a new SQLite database will be made"
    store = Store(config.database_url)
    try:
        current, newest = migrate.current_revision(store), migrate.newest_revision()
        if current is not None and current not in migrate.known_revisions():
            migrate.check(store)
        if store.is_postgresql:
            with store.read() as connection:
                postgres.check_server(connection)
        if not config.database.url:
            with store.read() as connection:
                found = connection.execute(text("PRAGMA quick_check(1)")).scalar_one()
            if found != "ok":
                raise StoreError(f"audit database: {found}")
    except StoreError as error:
        raise StoreError(
            f"{error}; stop the daemon and bring {store.engine.url.database} back from a backup"
            if not config.database.url
            else f"{error}; see that the server runs and that database.url is right"
        ) from error
    finally:
        store.close()
    if current == newest:
        return f"schema {current}"
    if store.is_postgresql:
        raise ConfigError(
            f"schema {current or 'none'}: `diptych db upgrade` brings it to {newest}; until then "
            "`diptych serve` refuses to start"
        )
    return f"schema {current or 'none'}; `diptych serve` will migrate it to {newest}"


def _daemon(config: Config, holder: str) -> str:
    try:
        ports = json.loads((config.data / "ports.json").read_text("ascii"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"process {holder} holds the folder but is not ready: it is starting, stopping, or no "
            "daemon; its log says which"
        ) from error
    where = f"process {holder}, DICOM port {ports['dicom']}, HTTP port {ports['http']}"
    http, tls = config.http, config.http.locally
    if tls is None:
        asked = HTTPConnection(http.local, ports["http"], timeout=ANSWER_SECONDS)
    else:
        asked = HTTPSConnection(
            http.local, ports["http"], timeout=ANSWER_SECONDS, context=tls.context()
        )
    try:
        asked.request("GET", "/readyz")
        said = json.loads(asked.getresponse().read())
    except (OSError, HTTPException, ValueError) as error:
        raise ConfigError(f"{where}: does not answer /readyz ({error}); restart it") from error
    finally:
        asked.close()
    if said["ready"]:
        return f"{where}, ready"
    bad = "; ".join(
        f"{name}: {words}" for name, words in said["conditions"].items() if words != "ok"
    )
    raise ConfigError(f"{where}, not ready: {bad}")


def _port(host: str, port: int, key: str) -> str:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            repair = {
                errno.EADDRINUSE: f"stop what listens there, or choose another {key}",
                errno.EACCES: f"ports below 1024 are root's: choose another {key}",
            }.get(error.errno or 0, f"choose another {key.partition('.')[0]}.host")
            raise ConfigError(f"{host}:{port}: {error.strerror}; {repair}") from error
    return f"{host}:{port} is free" if port else f"{host}, any free one"


def _disk(config: Config) -> str:
    free = shutil.disk_usage(_existing(config.data)).free
    if free < config.spool.min_free_bytes:
        raise ConfigError(
            f"{free} bytes free, spool.min_free_bytes is {config.spool.min_free_bytes}: nothing "
            "would be accepted; make room or lower it"
        )
    return f"{free} bytes free"
