"""What is registered: the manifest of the data folder, and how a model gets into it and out again.

Bundled models cannot be changed here; a registered one never takes the name of a bundled one.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from diptych.active import REGISTERED, model_in_use
from diptych.audit import models
from diptych.audit.store import Store
from diptych.config import Config
from diptych.embed.manifest import (
    LARGEST_DISTANCE,
    MANIFEST_VERSION,
    ModelEntry,
    bundled_manifest,
)
from diptych.embed.manifest import models as entries
from diptych.embed.mask import FINE_CELLS
from diptych.embed.prepare import PREPARATION_VERSION
from diptych.embed.session import Embedder
from diptych.errors import ConfigError, ModelError, UsageError
from diptych.registry import calibrate
from diptych.registry.calibrate import Progress
from diptych.registry.fetch import fetch, sha256_of
from diptych.registry.official import IMAGENET_MEAN, IMAGENET_STD, SIZE, Checkpoint
from diptych.registry.probe import dimension_of
from diptych.search import snapshot

COPIES = "checkpoints"
"""Folder of fetched checkpoints beside the manifest: kept until their model is registered, so that
a second attempt need not fetch again."""
TEMPORARY = ".new.onnx"


@dataclass(frozen=True)
class Listed:
    """A model and its place in the archive."""

    entry: ModelEntry
    bundled: bool
    in_use: bool
    coverage: models.Coverage


def listing(config: Config, store: Store | None) -> list[Listed]:
    """Every bundled and registered model; ``store`` None: no archive yet."""
    bundled = entries(bundled_manifest())
    registered = _registered(config)
    try:
        chosen = model_in_use(config, store).name
    except ModelError:  # it is gone: then none is
        chosen = ""
    found = []
    for entry in (*bundled, *registered):
        coverage = models.Coverage(0, 0)
        if store is not None:
            with store.read() as connection:
                coverage = models.coverage(connection, entry.fingerprint)
        found.append(Listed(entry, entry in bundled, entry.name == chosen, coverage))
    return found


def add_official(
    config: Config,
    store: Store | None,
    checkpoint: Checkpoint,
    file: Path | None,
    sha256: str | None,
    calibration: Path | None,
    progress: Progress,
) -> ModelEntry:
    """Fetch (or take ``file``), check, export, compare, measure and register.

    ``sha256`` overrules the pinned checksum. Raises UsageError (name taken, torch missing),
    ModelError (anything about the file).
    """
    from diptych.registry import export

    export.require_torch()
    with locked(config) as folder:
        _refuse_taken(config, checkpoint.name)
        expected = sha256.lower() if sha256 else checkpoint.sha256
        kept = folder / COPIES / checkpoint.file_name
        path = file or kept
        if file is None and not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            fetch(checkpoint.url, kept, expected, lambda *at: progress("fetching", *at))
        found = sha256_of(path)
        if expected is not None and found != expected:
            if file is None:
                kept.unlink()
            raise ModelError(f"{path}: its checksum is {found}, not {expected}")
        how = "as pinned" if checkpoint.sha256 else "recorded at first use, pinned nowhere"
        how = "as given" if sha256 else how
        progress("exporting", 0, None)
        network = export.load(path, checkpoint)
        temporary = folder / TEMPORARY
        try:
            export.export(network, temporary)
            progress("comparing with torch", 0, None)
            difference = export.parity(network, temporary)
            entry = _entry(
                checkpoint.name, temporary, SIZE, IMAGENET_MEAN, IMAGENET_STD,
                checkpoint.embed_dim, "fp32", checkpoint.licence,
                f"{checkpoint.url if file is None else checkpoint.file_name}, sha256 {found} "
                f"({how}); exported here, within {difference:.1e} of torch",
            )  # fmt: skip
            entry = _measured(config, store, entry, None, calibration, progress)
            entry = _register(config, entry)
        finally:
            temporary.unlink(missing_ok=True)
        shutil.rmtree(folder / COPIES, ignore_errors=True)
    return entry


def add_onnx(
    config: Config,
    store: Store | None,
    file: Path,
    name: str,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    precision: str,
    licence: str,
    d_max: float | None,
    calibration: Path | None,
    progress: Progress,
) -> ModelEntry:
    """Register any image encoder: one float input (n, channels, size, size), one output (n, d).

    ``mean`` and ``std``: one number per channel. ``d_max`` None: it is measured. The file is run
    before it is believed. Raises UsageError, ModelError.
    """
    if size < FINE_CELLS:
        raise UsageError(f"--size {size}: below {FINE_CELLS} no slice can be told from a blank one")
    with locked(config) as folder:
        _refuse_taken(config, name)
        temporary = folder / TEMPORARY
        try:
            try:
                shutil.copyfile(file, temporary)
            except OSError as error:
                raise UsageError(f"{file}: {error.strerror}") from error
            dimension = dimension_of(temporary, name, len(mean), size)
            said = f"{file.name}, registered as it was"
            entry = _entry(
                name, temporary, size, mean, std, dimension, precision, licence, said
            )  # fmt: skip
            entry = _measured(config, store, entry, d_max, calibration, progress)
            return _register(config, entry)
        finally:
            temporary.unlink(missing_ok=True)


def remove(config: Config, store: Store | None, name: str, allow_missing: bool) -> int:
    """Remove a registered model with its file, its vectors and its index; returns how many vectors.

    Raises UsageError: bundled, unknown or in use; or, unless ``allow_missing``, cases would lose
    their only vectors.
    """
    with locked(config) as folder:
        found = {entry.name: entry for entry in _registered(config)}
        if name not in found:
            if name in {entry.name for entry in entries(bundled_manifest())}:
                raise UsageError(f"{name} is bundled and cannot be removed")
            raise UsageError(f"no model {name!r} is registered; there are {sorted(found)}")
        entry, removed = found[name], 0
        if name == config.model.name or _is_in_use(store, entry):
            raise UsageError(f"{name} is in use: switch first with `diptych model use NAME`")
        shared = any(
            other.fingerprint == entry.fingerprint and other.name != name
            for other in (*found.values(), *entries(bundled_manifest()))
        )
        if store is not None and not shared:
            with store.read() as connection:
                only = models.only_here(connection, entry.fingerprint)
            if only and not allow_missing:
                raise UsageError(
                    f"{only} cases are embedded by {name} only, and would be found by their pixels "
                    "alone; --allow-missing removes it all the same"
                )
            removed = models.remove(store, name, entry.fingerprint)
            index = snapshot.folder(config.index_folder, entry.fingerprint)
            shutil.rmtree(index, ignore_errors=True)
        _write(folder / REGISTERED, [other for other in found.values() if other.name != name])
        if not any(other.path == entry.path for other in found.values() if other.name != name):
            entry.path.unlink(missing_ok=True)
    return removed


@contextmanager
def locked(config: Config) -> Iterator[Path]:
    """The models folder, for one command at a time. ConfigError while another is at work."""
    folder = config.models_folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another `diptych model` command is at work in {folder}: wait for its end"
            ) from error
        yield folder


def _registered(config: Config) -> list[ModelEntry]:
    manifest = config.models_folder / REGISTERED
    return entries(manifest) if manifest.exists() else []


def _is_in_use(store: Store | None, entry: ModelEntry) -> bool:
    if store is None:
        return False
    with store.read() as connection:
        chosen = models.in_use(connection)
    return chosen is not None and chosen.fingerprint == entry.fingerprint


def _refuse_taken(config: Config, name: str) -> None:
    if name in {entry.name for entry in entries(bundled_manifest())}:
        raise UsageError(f"a bundled model is called {name!r}: choose another name")
    if name in {entry.name for entry in _registered(config)}:
        raise UsageError(
            f"a model is registered as {name!r}: choose another name, or `diptych model remove "
            f"{name}` first"
        )


def _entry(
    name: str,
    path: Path,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dimension: int,
    precision: str,
    licence: str,
    source: str,
) -> ModelEntry:
    """An entry that still has to be measured: every distance is a hit. UsageError: impossible."""
    try:
        return ModelEntry(
            name=name, path=path, sha256=sha256_of(path), input_size=size, channels=len(mean),
            mean=mean, std=std, dimension=dimension, precision=precision, licence=licence,
            preparation=PREPARATION_VERSION, d_max=LARGEST_DISTANCE, source=source,
        )  # fmt: skip
    except ModelError as error:
        raise UsageError(str(error)) from error


def _measured(
    config: Config,
    store: Store | None,
    entry: ModelEntry,
    d_max: float | None,
    calibration: Path | None,
    progress: Progress,
) -> ModelEntry:
    if d_max is not None:
        try:
            return replace(entry, d_max=d_max, calibration="given by hand")
        except ModelError as error:
            raise UsageError(str(error)) from error
    embedder = Embedder(entry, config.model.threads)
    found = calibrate.calibrate(embedder, config, store, calibration, progress)
    return replace(entry, d_max=found.d_max, calibration=found.said)


def _register(config: Config, entry: ModelEntry) -> ModelEntry:
    """File first, manifest last: the model exists once the manifest names it."""
    folder = config.models_folder
    target = folder / f"{entry.name}.onnx"
    entry.path.rename(target)
    entry = replace(entry, path=target)
    _write(folder / REGISTERED, [*_registered(config), entry])
    return entry


def _write(manifest: Path, known: list[ModelEntry]) -> None:
    tables = [_table(entry, manifest.parent) for entry in known]
    content = {"version": MANIFEST_VERSION, "default": "", "model": tables}
    temporary = manifest.with_suffix(".tmp")
    temporary.write_bytes(tomli_w.dumps(content).encode())
    entries(temporary)  # what was written is what will be read
    temporary.replace(manifest)


def _table(entry: ModelEntry, folder: Path) -> dict[str, Any]:
    return {
        "name": entry.name, "file": str(entry.path.relative_to(folder)), "sha256": entry.sha256,
        "input_size": entry.input_size, "channels": entry.channels, "mean": list(entry.mean),
        "std": list(entry.std), "dimension": entry.dimension, "precision": entry.precision,
        "licence": entry.licence, "preparation": entry.preparation, "d_max": entry.d_max,
        "source": entry.source, "calibration": entry.calibration,
    }  # fmt: skip
