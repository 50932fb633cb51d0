"""Any ONNX encoder: run before it is believed, registered, listed, removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.active import REGISTERED, model
from diptych.config import Config
from diptych.demo.phantoms import Recipe, generate
from diptych.embed.manifest import bundled_manifest, models
from diptych.embed.prepare import normalise, prepare
from diptych.embed.session import Embedder
from diptych.errors import ModelError, UsageError
from diptych.registry import register
from registry.conftest import BUNDLED, FIXED, TINY, TINY_SIZE, Run

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def quiet(what: str, done: int, total: int | None) -> None:
    pass


def add(config: Config, file: Path = TINY, name: str = "tiny", **changed: Any) -> Any:
    given = {
        "size": TINY_SIZE, "mean": MEAN, "std": STD, "precision": "fp32", "licence": "MIT",
        "d_max": 0.1, "calibration": None,
    } | changed  # fmt: skip
    return register.add_onnx(config, None, file, name, progress=quiet, **given)


@pytest.fixture(scope="module")
def slices() -> np.ndarray:
    phantom = generate(Recipe("a", "abdomen", 5, (9, 64, 64), (4.0, 2.0, 2.0)))
    return prepare(phantom.pixels.astype(np.float32), TINY_SIZE)


def test_what_is_registered_is_found_by_name_and_lies_in_the_data_folder(config: Config) -> None:
    added = add(config)
    found = model(config, "tiny")
    assert found == added
    assert found.path == config.models_folder / "tiny.onnx"
    assert found.read() == TINY.read_bytes()
    assert (found.dimension, found.channels, found.licence) == (24, 3, "MIT")
    assert found.calibration == "given by hand"
    assert models(config.models_folder / REGISTERED) == [found]
    assert model(config).name == BUNDLED


@pytest.mark.parametrize("file", [TINY, FIXED])
def test_vectors_are_of_unit_length_whatever_the_model_answers(
    config: Config, slices: np.ndarray, file: Path
) -> None:
    embedder = Embedder(add(config, file), threads=1)
    vectors = embedder.embed(slices)
    raw = embedder._session.run(
        None, {"slices": normalise(slices[:4], MEAN, STD)}
    )[0]  # fmt: skip
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 0.1
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)
    assert vectors[:4] == pytest.approx(raw / np.linalg.norm(raw, axis=1, keepdims=True), abs=1e-6)


def test_a_fixed_batch_is_filled_up_and_gives_each_slice_its_own_vector(
    config: Config, slices: np.ndarray
) -> None:
    embedder = Embedder(add(config, FIXED), threads=1)
    assert len(slices) % 4
    alone = np.concatenate([embedder.embed(one[np.newaxis]) for one in slices])
    assert np.array_equal(embedder.embed(slices), alone)


def test_d_max_is_measured_on_generated_strangers_and_says_so(config: Config) -> None:
    found = add(config, d_max=None)
    assert 0 < found.d_max < 0.5
    assert found.calibration.endswith("slices of 32 generated phantoms")


@pytest.mark.parametrize(
    ("changed", "refused"),
    [
        ({"name": BUNDLED}, "a bundled model is called"),
        ({"name": "../escape"}, "a name is up to 64"),
        ({"name": "Upper"}, "a name is up to 64"),
        ({"size": 64}, "cannot run it on \\(n, 3, 64, 64\\)"),
        ({"size": 16}, "below 28"),
        ({"mean": (0.5,), "std": (0.5,)}, "cannot run it on \\(n, 1, 32, 32\\)"),
        ({"std": (0.2, 0.2, 0.0)}, "std is above 0"),
        ({"precision": "fp8"}, "precision is one of"),
        ({"d_max": 3.0}, "d_max is above 0 and at most 2"),
        ({"file": Path("/nonexistent.onnx")}, "No such file"),
        ({"file": Path(__file__)}, "ONNX Runtime cannot run it"),
        ({"file": bundled_manifest().parent / "bundled" / f"{BUNDLED}.onnx"}, "cannot run it"),
    ],
)
def test_what_cannot_be_is_refused_in_words_and_leaves_nothing(
    config: Config, changed: dict[str, Any], refused: str
) -> None:
    with pytest.raises((UsageError, ModelError), match=refused):
        add(config, **changed)
    left = {path.name for path in config.models_folder.glob("*")} - {"lock"}
    assert left == set()


def test_a_name_is_taken_once(config: Config) -> None:
    add(config)
    with pytest.raises(UsageError, match="model remove tiny"):
        add(config, FIXED)
    assert model(config, "tiny").read() == TINY.read_bytes()


def test_a_bundled_name_in_the_manifest_of_a_data_folder_is_nobodys(config: Config) -> None:
    add(config)
    manifest = config.models_folder / REGISTERED
    manifest.write_text(manifest.read_text().replace('"tiny"', f'"{BUNDLED}"'))
    with pytest.raises(ModelError, match=f"two models are called '{BUNDLED}'.*model remove"):
        model(config)
    register.remove(config, None, BUNDLED, allow_missing=False)
    assert model(config).name == BUNDLED


def test_removing_takes_file_and_entry_and_nothing_else(config: Config) -> None:
    add(config)
    add(config, FIXED, "other")
    register.remove(config, None, "tiny", allow_missing=False)
    assert [entry.name for entry in models(config.models_folder / REGISTERED)] == ["other"]
    assert {path.name for path in config.models_folder.glob("*.onnx")} == {"other.onnx"}
    with pytest.raises(UsageError, match="no model 'tiny' is registered"):
        register.remove(config, None, "tiny", allow_missing=False)
    with pytest.raises(UsageError, match="is bundled"):
        register.remove(config, None, BUNDLED, allow_missing=False)


def test_the_commands_refuse_with_the_right_status(
    diptych: Run, listed: Callable[[], dict[str, Any]], data: Path
) -> None:
    for arguments, words in (
        (("add",), "name one of dinov1-vits16"),
        (("add", "resnet50"), "name one of dinov1-vits16"),
        (("add", "--onnx", TINY), "give --onnx FILE --name NAME"),
        (("add", "--onnx", TINY, "--name", "x", "--mean", "a"), "--mean 'a'"),
        (("add", "--onnx", TINY, "--name", "x", "--mean", "1,2"), "2 numbers for 3 channels"),
        (("remove", "nothing"), "no model 'nothing'"),
    ):
        done = diptych("model", *arguments)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
    assert list(listed()) == [BUNDLED]
    assert diptych("model", "use", "tiny").returncode == 4  # no archive yet


def test_the_table_marks_the_model_in_use(diptych: Run, add_tiny: Callable[[], None]) -> None:
    add_tiny()
    lines = diptych("model", "list", COLUMNS="80").stdout.splitlines()
    assert lines[0].split() == [
        "model", "px", "dim", "d_max", "fingerprint", "from", "embedded", "missing"
    ]  # fmt: skip
    assert lines[1].startswith(f"*  {BUNDLED}")
    assert lines[2].split()[:2] == ["tiny", "32"]
