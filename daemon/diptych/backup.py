"""A copy of the archive at one moment, while the daemon runs; and back.

    DIR/backup.json          what it is: format, version, schema, archive, head of the chain, counts
    DIR/diptych.sqlite3      SQLite's own online backup: the moment that all else is brought to
    DIR/spool/instances/     the files that its rows name: hard links where the file system allows
    DIR/index/               the newest snapshot of the index, if there is one: a cache
    DIR/models/              models that were registered beside the bundled ones
    DIR/audit-heads.jsonl    heads of the chain, none newer than the database
    DIR/deliveries/NAME/     what was screened: catalogue, archive, chain; the index is made again
    DIR/dismissals.json      what somebody said is no duplicate
    DIR/report-signing.pem   the key that signs reports

Files are gathered before the database is copied and again after it, so what is purged meanwhile is
in the one and what is received meanwhile in the other; a file is whole before its row is written,
and never changed after it. A backup is in DIR.unfinished until everything is on disk. It holds
patient data.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import func, select

from diptych import __version__
from diptych.audit import blobs, migrate
from diptych.audit.chain import head
from diptych.audit.schema import blob, receipt, site, verdict
from diptych.audit.store import Store, now
from diptych.audit.verify import verify
from diptych.config import Config
from diptych.data_folder import RESTORE_UNFINISHED, Occupied, locked
from diptych.errors import ConfigError, StoreError, UsageError
from diptych.receive import journal
from diptych.receive.spool import Spool, content_sha256, data_set_offset, sync_folder

FORMAT = 1
_DATABASE, _HEADS, _DESCRIPTION = "diptych.sqlite3", "audit-heads.jsonl", "backup.json"
_ABOUT = "delivery.json"
_SMALL = ("dismissals.json", "report-signing.pem")
# A purge in the moment between gathering and copying the database means another round.
_ROUNDS = 5
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Description:
    """``backup.json``: what the database in it holds, and its own SHA-256."""

    format: int
    diptych: str
    created_at: int
    schema: str
    archive_uuid: str
    database_sha256: str
    head: str
    receipts: int
    verdicts: int
    files: int
    bytes: int
    deliveries: int = 0


def back_up(config: Config, store: Store, into: Path) -> Description:
    """Write a backup into the new folder ``into``. Raises UsageError, ConfigError or StoreError;
    then there is none."""
    if store.engine.dialect.name != "sqlite":
        raise UsageError(
            "this archive's database is not SQLite: back it up with the database's own means "
            f"(pg_dump), and copy the spool folder, deliveries and {', '.join(_SMALL)} after it"
        )
    migrate.check(store)
    if into.exists():
        raise UsageError(f"{into} exists: a backup goes into a new folder")
    unfinished = into.with_name(f"{into.name}.unfinished")
    if unfinished.exists():
        raise UsageError(f"{unfinished} is left of a backup that was cut off: remove it")
    spool = Spool(config.spool_folder, config.source_names())
    try:
        # After a power cut the journal may hold what files have lost.
        with suppress(Occupied), locked(config.data):
            journal.recover(store, spool)
        unfinished.mkdir(mode=0o700, parents=True)
        made = _gather(config, store, spool, unfinished)
        _write(unfinished / _DESCRIPTION, json.dumps(asdict(made), indent=1).encode() + b"\n")
        _sync_below(unfinished)
        unfinished.rename(into)
        sync_folder(into.parent)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise StoreError(f"backup: {error.strerror}: {error.filename or unfinished}") from error
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return made


def restore(config: Config, backup: Path) -> Description:
    """Fill the new or empty data folder from a backup. Raises UsageError or ConfigError; a folder
    that is not restored whole is never served from."""
    said = describe(backup)
    if config.database_url != f"sqlite:///{config.data / _DATABASE}":
        raise UsageError(
            "a backup is restored into SQLite in the data folder: leave database.url out"
        )
    if config.data.exists() and any(config.data.iterdir()):
        raise UsageError(f"{config.data} is not empty: restore into a new data folder")
    if _sha256(backup / _DATABASE) != said.database_sha256:
        raise ConfigError(f"{backup / _DATABASE} is not what was backed up: its SHA-256 differs")
    try:
        config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(config.data / RESTORE_UNFINISHED, b"")
        for folder in (
            config.spool_folder,
            config.index_folder,
            config.models_folder,
            config.deliveries_folder,
        ):
            if (backup / folder.name).is_dir():
                shutil.copytree(backup / folder.name, folder)
        for name in (*_SMALL, _HEADS, _DATABASE):
            if (backup / name).exists():
                shutil.copy2(backup / name, config.data / name)
        _sync_below(config.data)
        (config.data / RESTORE_UNFINISHED).unlink()
        sync_folder(config.data)
    except OSError as error:
        raise ConfigError(
            f"not restored: {error.strerror}: {error.filename or config.data}; empty the data "
            "folder and begin again"
        ) from error
    return said


def describe(backup: Path) -> Description:
    """What a backup says it is. Raises UsageError when it is none, ConfigError when this version
    cannot read it."""
    try:
        found = json.loads((backup / _DESCRIPTION).read_text())
        if found["format"] != FORMAT:
            raise ConfigError(f"{backup}: format {found['format']}, this version reads {FORMAT}")
        return Description(**found)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{backup} is no backup: no readable {_DESCRIPTION}") from error


def problems(config: Config, store: Store, said: Description) -> list[str]:
    """What is not as it was backed up, in words: database, every file, the chain."""
    found = []
    for database in (
        config.data / _DATABASE,
        *sorted(config.deliveries_folder.glob("*/*.sqlite3")),
    ):
        if (answer := _integrity(database)) != "ok":
            found.append(f"{database.relative_to(config.data)}: {answer}")
    with store.read() as connection:
        verified = verify(connection, config.data / _HEADS)
        counts = _counts(store)
        rows = connection.execute(
            select(blob.c.locator, blob.c.sha256).where(
                blob.c.purged_at.is_(None), blob.c.store == "spool"
            )
        ).all()
    found += verified.problems
    for what, (is_, was) in {
        "head of the chain": (verified.head, said.head),
        "receipts": (counts[0], said.receipts),
        "verdicts": (counts[1], said.verdicts),
        "files": (len(rows), said.files),
        "deliveries": (len(list(config.deliveries_folder.glob(f"*/{_ABOUT}"))), said.deliveries),
    }.items():
        if is_ != was:
            found.append(f"{what}: {is_}, when it was backed up {was}")
    for locator, sha256 in rows:
        path = config.spool_folder / locator
        try:
            if content_sha256(path, data_set_offset(path))[0] != sha256:
                found.append(f"{locator}: other bytes than were received")
        except (OSError, StoreError):
            found.append(f"{locator}: missing or not to be read")
    return found


def _gather(config: Config, store: Store, spool: Spool, into: Path) -> Description:
    place = _Placing()
    # What it says of the database, the database has by the time it is copied.
    _copy_index(config.index_folder, into / config.index_folder.name)
    if config.models_folder.is_dir():
        shutil.copytree(config.models_folder, into / config.models_folder.name)
    target = into / config.spool_folder.name
    for _, locator in spool.kept():
        with suppress(FileNotFoundError):  # purged meanwhile
            place(spool.path(locator), target / locator)
    for name in _SMALL:
        with suppress(FileNotFoundError):
            shutil.copy2(config.data / name, into / name)
    deliveries = sum(
        _copy_delivery(folder.parent, into / config.deliveries_folder.name / folder.parent.name)
        for folder in sorted(config.deliveries_folder.glob(f"*/{_ABOUT}"))
    )
    for _ in range(_ROUNDS):
        _copy_database(config.data / _DATABASE, into / _DATABASE)
        copy = Store(f"sqlite:///{into / _DATABASE}")
        try:
            known = blobs.known_locators(copy)
            if not list(_missing(place, spool, target, known)):
                break
        finally:
            copy.close()
    else:
        raise StoreError("backup: files went away in every round: is something else removing them?")
    for path in sorted(target.rglob("*.dcm")):
        if str(path.relative_to(target)) not in known:
            path.unlink()
    copy = Store(f"sqlite:///{into / _DATABASE}")
    try:
        kept, judged = _counts(copy)
        with copy.read() as connection:
            seq, newest = head(connection)
            archive = connection.execute(select(site.c.archive_uuid)).scalar_one()
        schema = migrate.current_revision(copy) or ""
        copy.scrub()
    finally:
        copy.close()
    _write(into / _HEADS, b"".join(_heads(config.data / _HEADS, seq)))
    for left in into.glob(f"{_DATABASE}-*"):
        left.unlink()
    return Description(
        format=FORMAT,
        diptych=__version__,
        created_at=now(),
        schema=schema,
        archive_uuid=str(archive),
        database_sha256=_sha256(into / _DATABASE),
        head=newest,
        receipts=kept,
        verdicts=judged,
        files=len(known),
        bytes=sum(known.values()),
        deliveries=deliveries,
    )


def _missing(
    place: Callable[[Path, Path], None], spool: Spool, target: Path, known: dict[str, int]
) -> Iterator[str]:
    """Bring what came after the first gathering, or was being written; the locators that are gone
    again."""
    for locator in known:
        path, copy = spool.path(locator), target / locator
        try:
            if not copy.exists():
                place(path, copy)
            elif copy.stat().st_size != path.stat().st_size:
                copy.unlink()
                place(path, copy)
        except FileNotFoundError:
            if not copy.exists():
                yield locator


class _Placing:
    """Hard links as long as the file system allows them, then copies."""

    def __init__(self) -> None:
        self._links = True

    def __call__(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if self._links:
            try:
                os.link(source, target)
                return
            except FileNotFoundError:
                raise
            except OSError:
                self._links = False
        shutil.copy2(source, target)


def _copy_database(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as whole,
            closing(sqlite3.connect(target)) as copy,
        ):
            whole.backup(copy)
    except sqlite3.Error as error:
        raise StoreError(f"{source.name}: {error}") from error


def _copy_delivery(source: Path, target: Path) -> bool:
    """False when it was forgotten meanwhile. Raises StoreError."""
    said = "it is judged anew again and again"
    for _ in range(_ROUNDS):
        try:
            about = (source / _ABOUT).read_bytes()
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            for database in source.glob("*.sqlite3"):
                _copy_database(database, target / database.name)
            with suppress(FileNotFoundError):  # nothing of it is judged yet
                shutil.copy2(source / _HEADS, target / _HEADS)
            # What was judged anew meanwhile, under other settings, is another screening.
            if (source / _ABOUT).read_bytes() == about:
                _write(target / _ABOUT, about)
                return True
        except (FileNotFoundError, StoreError) as error:
            if not source.exists():
                shutil.rmtree(target, ignore_errors=True)
                return False
            said = str(error)
    raise StoreError(f"backup: delivery {source.name}: {said}")


def _integrity(database: Path) -> str:
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as found:
            return str(found.execute("PRAGMA integrity_check").fetchone()[0])
    except sqlite3.Error as error:
        return str(error)


def _copy_index(source: Path, target: Path) -> None:
    """The newest whole generation of each model; what is replaced meanwhile is left out."""
    for graph in sorted(source.rglob("index-*.usearch")):
        sidecar = graph.with_suffix(".json")
        folder = target / graph.parent.relative_to(source)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(graph, folder / graph.name)
            shutil.copy2(sidecar, folder / sidecar.name)
        except FileNotFoundError:
            (folder / graph.name).unlink(missing_ok=True)


def _heads(path: Path, newest: int) -> Iterator[bytes]:
    """Lines of the head file, but those of events after ``newest``."""
    with suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines(keepends=True):
            with suppress(ValueError, KeyError, TypeError):
                if line.endswith(b"\n") and json.loads(line)["seq"] <= newest:
                    yield line


def _counts(store: Store) -> tuple[int, int]:
    with store.read() as connection:
        return (
            int(connection.execute(select(func.count(receipt.c.id))).scalar_one()),
            int(connection.execute(select(func.count(verdict.c.id))).scalar_one()),
        )


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)


def _sync_below(folder: Path) -> None:
    for where, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(where) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(where))
    sync_folder(folder.parent)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return digest.hexdigest()
