"""Manifest entries that cannot be right are refused in words."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from diptych.embed.manifest import bundled_manifest, load_model
from diptych.errors import ModelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest with one model, whose file is the bundled one."""
    bundled = load_model()
    (tmp_path / "m.onnx").write_bytes(bundled.path.read_bytes())
    (tmp_path / "manifest.toml").write_text(
        f"""
version = 1
default = "mine"
[[model]]
name = "mine"
file = "m.onnx"
sha256 = "{bundled.sha256}"
input_size = {bundled.input_size}
channels = 1
mean = [0.0]
std = [1.0]
dimension = {bundled.dimension}
precision = "fp32"
licence = "Apache-2.0"
preparation = "{bundled.preparation}"
d_max = 0.3
"""
    )
    return tmp_path


def changed(folder: Path, old: str, new: str) -> Path:
    path = folder / "manifest.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_the_bundled_model_is_found_and_its_file_is_what_the_manifest_says():
    model = load_model()
    assert hashlib.sha256(model.read()).hexdigest() == model.sha256
    assert len(model.read()) <= 25 * 2**20
    assert 0 < model.d_max < 2
    assert bundled_manifest().name == "manifest.toml"


def test_a_manifest_of_ones_own_names_a_file_beside_it(folder):
    model = load_model(manifest=folder / "manifest.toml")
    assert model.path == folder / "m.onnx"
    assert model.read()


def test_a_wrong_checksum_names_the_expected_and_the_found_one(folder):
    (folder / "m.onnx").write_bytes(b"something else")
    model = load_model(manifest=folder / "manifest.toml")
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(ModelError, match=f"expected sha256 {model.sha256}, found {found}"):
        model.read()


def test_a_missing_file_is_named(folder):
    (folder / "m.onnx").unlink()
    with pytest.raises(ModelError, match=r"cannot read .*m\.onnx"):
        load_model(manifest=folder / "manifest.toml").read()


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(ModelError, match="cannot read the model manifest"):
        load_model(manifest=tmp_path / "manifest.toml")


def test_an_unknown_name_lists_the_known_ones(folder):
    with pytest.raises(ModelError, match=r"no model 'other'; it has \['mine'\]"):
        load_model("other", folder / "manifest.toml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version = 1", "version = 9", "version is 1, found 9"),
        ("version = 1", "version = ", "not TOML"),
        ('default = "mine"', "default = 3", "'default' names a model"),
        ('name = "mine"', 'name = "../mine"', "a name is"),
        ("d_max = 0.3", "d_max = 0", "d_max is above 0"),
        ("d_max = 0.3", "d_max = 2.5", "d_max is above 0 and at most 2, found 2.5"),
        ("d_max = 0.3", "d_max = nan", "d_max is above 0"),
        ("d_max = 0.3", "", r"missing \['d_max'\]"),
        ("d_max = 0.3", "d_max = 0.3\nd_mx = 1", r"unknown \['d_mx'\]"),
        ("d_max = 0.3", 'd_max = "0.3"', "d_max is '0.3'"),
        ("channels = 1", "channels = 2", "channels is 1 or 3, found 2"),
        ("channels = 1", "channels = 3", "3 channels, 1 means, 1 std"),
        ("channels = 1", "channels = true", "channels is True"),
        ("std = [1.0]", "std = [0.0]", "std is above 0"),
        ("std = [1.0]", 'std = ["a"]', "std is numbers"),
        ("mean = [0.0]", "mean = [inf]", "mean is finite"),
        ('precision = "fp32"', 'precision = "fp8"', "precision is one of"),
        ('preparation = "', 'preparation = "x', "made for preparation 'x"),
        ('sha256 = "', 'sha256 = "z', "64 hexadecimal digits"),
    ],
)
def test_an_impossible_entry_is_refused_in_words(folder, old, new, words):
    with pytest.raises(ModelError, match=words):
        load_model(manifest=changed(folder, old, new))


@pytest.mark.parametrize("values", [{"input_size": 0}, {"input_size": 5000}, {"dimension": 0}])
def test_impossible_sizes_are_refused(values):
    with pytest.raises(ModelError, match=f"{next(iter(values))} is"):
        replace(load_model(), **values)


def test_the_fingerprint_changes_with_file_and_precision_and_with_nothing_else():
    model = load_model()
    assert replace(model, name="other", d_max=0.1, licence="x").fingerprint == model.fingerprint
    assert replace(model, precision="int8").fingerprint != model.fingerprint
    assert replace(model, sha256="0" * 64).fingerprint != model.fingerprint
