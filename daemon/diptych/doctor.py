"""Can the daemon run here? Each finding says what was looked at and, if bad, how to repair it."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from diptych import __version__
from diptych.audit import archive, migrate
from diptych.audit.store import Store
from diptych.config import Config
from diptych.embed.manifest import load_model
from diptych.embed.session import Embedder
from diptych.errors import ConfigError, DiptychError, IndexCorrupt
from diptych.search import snapshot
from diptych.search.archive import SearchIndex
from diptych.service import Occupied, locked

PACKAGES = ("pynetdicom", "pydicom", "highdicom", "usearch", "sqlalchemy", "numpy")


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    ok: bool
    what: str
    said: str


def examine(config: Config) -> list[Finding]:
    """Look at everything ``serve`` will need; changes nothing but creates no folder either."""
    findings = [
        _find("versions", _versions),
        _find("provider and model", lambda: _model(config)),
        _find("data folder", lambda: _folder(config)),
        _find("database", lambda: _database(config)),
    ]
    running = _running(config)
    for name, host, port in (
        ("DICOM port", config.dicom.host, config.dicom.port),
        ("HTTP port", config.http.host, config.http.port),
    ):
        findings.append(_find(name, lambda h=host, p=port: _port(h, p, running)))  # type: ignore[misc]
    findings.append(_find("disk", lambda: _disk(config)))
    return findings


def check_index(config: Config, store: Store) -> tuple[list[str], str]:
    """Problems of the last snapshot in words, and one line about it."""
    model = load_model(config.model.name or None)
    fingerprint_id = archive.fingerprint_id(store, model.fingerprint, model.name, model.dimension)
    with store.read() as connection:
        wanted = archive.node_keys(connection, fingerprint_id)
        newest = archive.next_key(connection, fingerprint_id) - 1
    try:
        loaded = snapshot.load(
            config.index_folder,
            fingerprint=model.fingerprint,
            dimension=model.dimension,
            newest_key=newest,
        )
    except IndexCorrupt as error:
        return [f"{error}; it will be rebuilt from the database"], "no usable snapshot"
    if loaded is None:
        return [], f"no snapshot yet; the database holds {len(wanted)} vectors"
    index, said = loaded
    held = {int(key) for key in index.keys()}  # noqa: SIM118 - not a dict
    problems = []
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
    model = load_model(config.model.name or None)
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
    embedder = Embedder(load_model(config.model.name or None), threads=1)
    return f"{embedder.model.name} ({embedder.dimension}-d) on {embedder.provider}"


def _running(config: Config) -> bool:
    if not config.data.exists():
        return False
    try:
        with locked(config.data):
            return False
    except Occupied:
        return True


def _folder(config: Config) -> str:
    if not config.data.exists():
        parent = next(p for p in config.data.parents if p.exists())
        usage = shutil.disk_usage(parent)
        return f"{config.data} will be made; {usage.free} bytes free there"
    return f"{config.data}{' (in use by a running daemon)' if _running(config) else ''}"


def _database(config: Config) -> str:
    if not config.database.url and not (config.data / "diptych.sqlite3").exists():
        return "a new SQLite database will be made"
    store = Store(config.database_url)
    try:
        current, newest = migrate.current_revision(store), migrate.newest_revision()
        if current is not None and current not in migrate.known_revisions():
            migrate.check(store)
        return f"schema {current}, newest {newest}"
    finally:
        store.close()


def _port(host: str, port: int, running: bool) -> str:
    if running:
        return f"{host}:{port} (a daemon runs on this data folder)"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"{host}:{port}: {error.strerror}; stop what listens there, or choose another "
                "port with --dicom-port, --http-port or the configuration"
            ) from error
    return f"{host}:{port} is free"


def _disk(config: Config) -> str:
    folder = next(p for p in (config.data, *config.data.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if free < config.spool.min_free_bytes:
        raise ConfigError(
            f"{free} bytes free, spool.min_free_bytes is {config.spool.min_free_bytes}: nothing "
            "would be accepted; make room or lower it"
        )
    return f"{free} bytes free"
