"""Embedding an archive again, in this process: what is kept, what is lost, what waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from diptych.active import model_in_use
from diptych.audit import models, work
from diptych.audit.store import Store
from diptych.config import Config
from diptych.demo.phantoms import Recipe, generate
from diptych.embed.manifest import ModelEntry, load_model
from diptych.embed.prepare import prepare
from diptych.embed.session import Embedder
from diptych.errors import ConfigError, ModelError, StoreError
from diptych.registry import calibrate, register
from diptych.registry.switch import LeftBehind, switch
from diptych.volume.decoders import DecoderPool
from judged import Archive
from registry.conftest import TINY, TINY_SIZE, phantom

Progress = Callable[[str, int, int | None], None]


def quiet(what: str, done: int, total: int | None) -> None:
    pass


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    with DecoderPool(children=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def bundled() -> Embedder:
    return Embedder(load_model(), threads=1)


@pytest.fixture
def archive(data: Path, bundled: Embedder, decoders: DecoderPool) -> Archive:
    """Three phantoms, judged under the bundled model."""
    data.mkdir()
    made = Archive(data, bundled, decoders)
    for seed in (1, 2, 3):
        made.add(phantom(seed, slices=6))
    return made


@pytest.fixture
def tiny(config: Config) -> ModelEntry:
    return register.add_onnx(
        config, None, TINY, "tiny", TINY_SIZE, (0.5,) * 3, (0.5,) * 3, "fp32", "MIT", 0.1, None,
        quiet,
    )  # fmt: skip


def coverage(archive: Archive, entry: ModelEntry) -> models.Coverage:
    with archive.store.read() as connection:
        return models.coverage(connection, entry.fingerprint)


def test_who_is_interrupted_resumes_and_nothing_has_changed_till_then(
    archive: Archive, config: Config, tiny: ModelEntry
) -> None:
    def interrupt(what: str, done: int, total: int | None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        switch(config, archive.store, tiny, False, interrupt)
    assert coverage(archive, tiny) == models.Coverage(2, 1)
    assert model_in_use(config, archive.store).name == load_model().name
    done = switch(config, archive.store, tiny, False, quiet)
    assert (done.embedded, done.lost) == (1, {})
    assert model_in_use(config, archive.store) == tiny
    assert switch(config, archive.store, tiny, False, quiet).embedded == 0
    assert archive.rows("SELECT count(*) FROM event WHERE kind = 'model-use'") == [(1,)]


def test_the_vectors_are_those_the_path_would_have_made(
    archive: Archive,
    config: Config,
    tiny: ModelEntry,
    decoders: DecoderPool,
    tmp_path: Path,
) -> None:
    switch(config, archive.store, tiny, False, quiet)
    (tmp_path / "beside").mkdir()
    beside = Archive(tmp_path / "beside", Embedder(tiny, threads=1), decoders)
    for seed in (1, 2, 3):
        beside.add(phantom(seed, slices=6))
    query = (
        "SELECT n.key, n.prepared_digest, n.case_id, n.vector FROM node n "
        "JOIN fingerprint f ON f.id = n.fingerprint_id WHERE f.model = 'tiny' ORDER BY n.key"
    )
    assert len(beside.rows(query)) == 18
    assert archive.rows(query) == beside.rows(query)
    kept = "SELECT slice_keys, shared FROM embedding e JOIN fingerprint f " + (
        "ON f.id = e.fingerprint_id WHERE f.model = 'tiny' ORDER BY case_id"
    )
    assert archive.rows(kept) == beside.rows(kept)


def test_the_switch_waits_for_what_is_being_judged_and_embeds_it(
    archive: Archive, config: Config, tiny: ModelEntry
) -> None:
    archive.receive(phantom(4, slices=6))
    work.seal_complete(archive.store, work.Quiet(0, 0, 1), {})
    claimed = work.claim(archive.store, "test", 60)
    assert claimed is not None
    switching = threading.Thread(target=switch, args=(config, archive.store, tiny, False, quiet))
    switching.start()
    deadline = time.monotonic() + 30
    while coverage(archive, tiny).embedded < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert switching.is_alive()
    assert work.claim(archive.store, "another", 60) is None
    assert model_in_use(config, archive.store) != tiny
    archive.pipeline.judge(claimed)
    switching.join(30)
    assert not switching.is_alive()
    assert model_in_use(config, archive.store) == tiny
    assert coverage(archive, tiny) == models.Coverage(4, 0)


def test_a_file_that_is_not_what_was_judged_is_not_embedded(
    archive: Archive, config: Config, tiny: ModelEntry
) -> None:
    series = {
        dcmread(file, stop_before_pixels=True).SeriesInstanceUID: file
        for file in (config.spool_folder / "instances").glob("*/*/*.dcm")
    }
    altered, missing, _ = series.values()
    content = bytearray(altered.read_bytes())
    content[-40] ^= 0xFF
    altered.write_bytes(content)
    missing.unlink()
    with pytest.raises(LeftBehind, match="2 cases cannot be embedded by tiny") as refused:
        switch(config, archive.store, tiny, False, quiet)
    assert "no longer give what was judged" in str(refused.value)
    assert "files missing" in str(refused.value)
    assert model_in_use(config, archive.store) != tiny
    done = switch(config, archive.store, tiny, True, quiet)
    assert len(done.lost) == 2
    assert coverage(archive, tiny) == models.Coverage(1, 2)


def test_d_max_is_measured_on_the_archive_when_it_has_enough_patients(
    archive: Archive, config: Config, tiny: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Embedder(tiny, threads=1)
    found = calibrate.calibrate(embedder, config, archive.store, None, quiet)
    assert found.said.endswith("generated phantoms")
    monkeypatch.setattr(calibrate, "FEWEST_SUBJECTS", 3)
    monkeypatch.setattr(calibrate, "FEWEST_SLICES", 18)
    found = calibrate.calibrate(embedder, config, archive.store, None, quiet)
    assert found.said.endswith("of 18 slices of 3 cases of the archive")
    assert 0 < found.d_max < 2


def test_d_max_is_measured_on_a_folder_or_refused_when_that_holds_too_little(
    config: Config, tiny: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2, 3):
        folder = tmp_path / "cases" / str(seed)
        folder.mkdir(parents=True)
        for number, instance in enumerate(phantom(seed, slices=6)):
            instance.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    embedder = Embedder(tiny, threads=1)
    with pytest.raises(ModelError, match="3 cases with 18 informative slices are too few"):
        calibrate.calibrate(embedder, config, None, tmp_path / "cases", quiet)
    monkeypatch.setattr(calibrate, "FEWEST_SUBJECTS", 3)
    monkeypatch.setattr(calibrate, "FEWEST_SLICES", 18)
    found = calibrate.calibrate(embedder, config, None, tmp_path / "cases", quiet)
    assert found.said.endswith("of 18 slices of 3 cases of cases")


def test_a_model_that_tells_nobody_apart_is_refused(tiny: ModelEntry) -> None:
    embedder = Embedder(tiny, threads=1)
    body = generate(Recipe("x", "head", 1, (6, 64, 64), (4.0, 3.0, 3.0)))
    same = [prepare(body.pixels.astype(np.float32), TINY_SIZE)] * 2
    with pytest.raises(ModelError, match="no distance tells a copy from a stranger"):
        calibrate.measure(embedder, same, "phantoms", quiet)


def test_two_commands_do_not_work_at_once(config: Config) -> None:
    with (
        register.locked(config),
        pytest.raises(ConfigError, match="another `diptych model` command"),
        register.locked(config),
    ):
        pass


def test_a_database_that_is_away_is_said(tiny: ModelEntry, config: Config) -> None:
    away = Store(f"sqlite:///{config.data}/nowhere/x.sqlite3")
    with pytest.raises(StoreError):
        switch(config, away, tiny, False, quiet)
