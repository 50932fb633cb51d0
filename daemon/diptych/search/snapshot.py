"""The index on disk: a cache that is verified whole or refused in words, never trusted.

Two files a generation, in one folder a fingerprint::

    31f2a9…/index-0000000007.usearch    the graph
    31f2a9…/index-0000000007.json       its sidecar, renamed last: the generation exists once this
                                        does

``Index.save`` neither syncs nor renames, and a flipped byte loads without complaint, so the sidecar
carries the graph's SHA-256 and its own. A crash leaves at worst temporary files or a graph without
a sidecar; the next :func:`save` or :func:`tidy` removes both.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from diptych.errors import IndexCorrupt
from diptych.faults import point
from diptych.search.hnsw import WORKER_THREADS, HnswIndex, Parameters

FORMAT = 1
"""Version of the sidecar. Another version is refused: the index is rebuilt from SQL."""

TEMPORARY = ".tmp"
FOLDER_DIGITS = 16
"""Of the fingerprint in a folder's name; the sidecar has it whole."""
HASH_BLOCK = 1 << 20
"""Bytes hashed at a time."""

_NAME = re.compile(r"index-(\d{10})\.(usearch|json)")


@dataclass(frozen=True)
class Snapshot:
    """What the sidecar says of one generation."""

    generation: int
    fingerprint: str
    """Hex SHA-256 of model, preparation and precision: other fingerprints never meet."""
    dimension: int
    count: int
    tombstones: int
    watermark: int
    """The highest vector key ever added; SQL rows with higher keys are replayed."""
    parameters: Parameters
    graph_bytes: int
    graph_sha256: str
    format: int = FORMAT


def folder(index_folder: Path, fingerprint: str) -> Path:
    """Where the snapshots of a fingerprint lie: those of several models stay beside each other."""
    return index_folder / fingerprint[:FOLDER_DIGITS]


def discard_others(index_folder: Path, fingerprint: str) -> None:
    """Remove the snapshots of every other fingerprint: they hold what was forgotten since, and SQL
    has the rest."""
    for path in index_folder.iterdir() if index_folder.is_dir() else ():
        if path.is_dir() and path != folder(index_folder, fingerprint):
            shutil.rmtree(path)


def save(index: HnswIndex, directory: Path, fingerprint: str) -> Snapshot:
    """Write the next generation durably, then remove the older ones.

    Order: graph → fsync → SHA-256 → sidecar → fsync → rename graph → rename sidecar → fsync folder.
    Adding and searching wait only while USearch writes the graph. The folder is created when it is
    not there. OSError: the disk is full or the folder cannot be written; the old generation stands.

    One process saves into a folder at a time (the daemon's lock on its data folder).
    """
    directory.mkdir(parents=True, exist_ok=True)
    tidy(directory)
    generation = max(_generations(directory), default=0) + 1
    graph, sidecar = _paths(directory, generation)
    new_graph = graph.with_name(graph.name + TEMPORARY)
    new_sidecar = sidecar.with_name(sidecar.name + TEMPORARY)
    try:
        saved = index.save(new_graph)
        _sync(new_graph)
        snapshot = Snapshot(
            generation=generation,
            fingerprint=fingerprint,
            dimension=index.dimension,
            count=saved.count,
            tombstones=saved.tombstones,
            watermark=saved.newest_key,
            parameters=index.parameters,
            graph_bytes=new_graph.stat().st_size,
            graph_sha256=_sha256(new_graph),
        )
        new_sidecar.write_text(_encode(snapshot))
        _sync(new_sidecar)
        point("index.after-temporary-write")
        point("index.before-rename")
        new_graph.rename(graph)
        new_sidecar.rename(sidecar)
        _sync(directory)
    except OSError:
        new_graph.unlink(missing_ok=True)
        new_sidecar.unlink(missing_ok=True)
        raise
    point("index.after-rename")
    tidy(directory)
    return snapshot


def load(
    directory: Path,
    *,
    fingerprint: str,
    dimension: int,
    newest_key: int | None = None,
    parameters: Parameters | None = None,
    threads: int = WORKER_THREADS,
) -> tuple[HnswIndex, Snapshot] | None:
    """The newest generation, verified whole; None when the folder holds none. Writes nothing.

    newest_key: the highest vector key in SQL. An index that knows a higher one belongs to another
    database (or SQL was restored from a backup) and is refused; one that knows fewer is returned,
    and the caller replays the keys above ``Snapshot.watermark``, then drops the ``keys()`` that
    SQL no longer has.

    IndexCorrupt, in words: torn or changed graph or sidecar, other format, fingerprint, dimension
    or graph parameters, count that does not fit, watermark ahead of SQL.
    """
    wanted = parameters or Parameters()
    for generation in reversed(_generations(directory)):
        graph, sidecar = _paths(directory, generation)
        try:
            snapshot = _decode(sidecar)
            _check(snapshot, generation, fingerprint, dimension, newest_key, wanted)
            _check_graph(graph, snapshot)
            index = HnswIndex.load(graph, dimension, wanted, snapshot.watermark, threads=threads)
        except FileNotFoundError:
            if _generations(directory)[-1:] != [generation]:
                return load(  # a newer one replaced it while we were reading
                    directory,
                    fingerprint=fingerprint,
                    dimension=dimension,
                    newest_key=newest_key,
                    parameters=parameters,
                    threads=threads,
                )
            raise IndexCorrupt(f"{graph.name} is missing beside {sidecar.name}") from None
        except (RuntimeError, ValueError) as error:
            raise IndexCorrupt(f"{graph.name} cannot be loaded: {error}") from error
        if len(index) != snapshot.count:
            raise IndexCorrupt(
                f"{graph.name} holds {len(index)} vectors, its sidecar says {snapshot.count}"
            )
        return index, snapshot
    return None


def tidy(directory: Path) -> int:
    """Remove temporary files, graphs without a sidecar and all but the newest generation.

    Only the process that saves may call it. Returns how many files were removed.
    """
    newest = max(_generations(directory), default=0)
    removed = 0
    for path in directory.iterdir() if directory.is_dir() else ():
        match = _NAME.fullmatch(path.name.removesuffix(TEMPORARY))
        if match and (path.name.endswith(TEMPORARY) or int(match[1]) != newest):
            path.unlink()
            removed += 1
    return removed


def _generations(directory: Path) -> list[int]:
    """Generations that exist, that is, have a sidecar; ascending."""
    matches = (_NAME.fullmatch(path.name) for path in directory.glob("index-*.json"))
    return sorted(int(match[1]) for match in matches if match)


def _paths(directory: Path, generation: int) -> tuple[Path, Path]:
    stem = f"index-{generation:010d}"
    return directory / f"{stem}.usearch", directory / f"{stem}.json"


def _check(
    snapshot: Snapshot,
    generation: int,
    fingerprint: str,
    dimension: int,
    newest_key: int | None,
    parameters: Parameters,
) -> None:
    name = f"index generation {generation}"
    if snapshot.generation != generation:
        raise IndexCorrupt(f"{name} was written as generation {snapshot.generation}: files moved")
    if snapshot.fingerprint != fingerprint:
        raise IndexCorrupt(
            f"{name} was built with fingerprint {snapshot.fingerprint}, not {fingerprint}"
        )
    if snapshot.dimension != dimension:
        raise IndexCorrupt(f"{name} has {snapshot.dimension} dimensions, the model {dimension}")
    built = (snapshot.parameters.connectivity, snapshot.parameters.expansion_add)
    wanted = (parameters.connectivity, parameters.expansion_add)
    if built != wanted:
        raise IndexCorrupt(f"{name} was built with (M, efC) {built}, configured are {wanted}")
    if newest_key is not None and snapshot.watermark > newest_key:
        raise IndexCorrupt(
            f"{name} knows vector {snapshot.watermark}, the database none above {newest_key}"
        )


def _check_graph(graph: Path, snapshot: Snapshot) -> None:
    size = graph.stat().st_size
    if size != snapshot.graph_bytes:
        raise IndexCorrupt(f"{graph.name} has {size} bytes, {snapshot.graph_bytes} were written")
    found = _sha256(graph)
    if found != snapshot.graph_sha256:
        raise IndexCorrupt(
            f"{graph.name} has checksum {found}, {snapshot.graph_sha256} was written"
        )


def _encode(snapshot: Snapshot) -> str:
    """Canonical JSON of the snapshot with the SHA-256 of itself without that field."""
    fields = asdict(snapshot)
    return json.dumps({**fields, "sha256": _digest(fields)}, sort_keys=True, indent=1) + "\n"


def _decode(sidecar: Path) -> Snapshot:
    text = sidecar.read_bytes()
    try:
        fields = json.loads(text)
        claimed = fields.pop("sha256")
        version = fields["format"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IndexCorrupt(f"{sidecar.name} is not a sidecar: {error!r}") from error
    if claimed != _digest(fields):
        raise IndexCorrupt(f"{sidecar.name} does not agree with its own checksum {claimed}")
    if version != FORMAT:
        raise IndexCorrupt(f"{sidecar.name} has format {version}, this version reads {FORMAT}")
    return Snapshot(**{**fields, "parameters": Parameters(**fields["parameters"])})


def _digest(fields: dict[str, object]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
