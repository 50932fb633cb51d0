"""Official checkpoints: random weights under the published names and shapes, and the real code."""

# ruff: noqa: E402 - the imports follow the check for torch

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NO_TORCH = "missing: torch and onnx (pip install 'diptych[cpu,export]')"
try:
    import onnx  # noqa: F401
    import torch
    import torch.nn.functional as F  # noqa: N812
except ModuleNotFoundError:
    if os.environ.get("REQUIRE") == "all":
        pytest.fail(NO_TORCH, pytrace=False)
    pytest.skip(NO_TORCH, allow_module_level=True)

from diptych.active import model
from diptych.config import Config
from diptych.embed.prepare import normalise
from diptych.embed.session import Embedder
from diptych.errors import ModelError, UsageError
from diptych.registry import calibrate, export, register
from diptych.registry.official import IMAGENET_MEAN, IMAGENET_STD, OFFICIAL, Checkpoint

torch.set_num_threads(2)

# As published: parameters of each checkpoint (facebookresearch/dino and dinov2, and their files).
PARAMETERS = {
    "dinov1-vits16": 21_665_664,
    "dinov1-vits8": 21_670_272,
    "dinov1-vitb16": 85_798_656,
    "dinov2-vits14": 22_056_576,
    "dinov2-vitb14": 86_580_480,
}


def published(checkpoint: Checkpoint, seed: int = 0) -> dict[str, torch.Tensor]:
    """Names and shapes as in the publisher's file, written down independently of our class."""
    second = checkpoint.name.startswith("dinov2")
    d, p = checkpoint.embed_dim, checkpoint.patch_size
    side = (518 if second else 224) // p
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, 1 + side * side, d),
        "patch_embed.proj.weight": (d, 3, p, p),
        "patch_embed.proj.bias": (d,),
        "norm.weight": (d,),
        "norm.bias": (d,),
    }
    if second:
        shapes["mask_token"] = (1, d)
    for block in range(12):
        of = {
            "norm1.weight": (d,), "norm1.bias": (d,),
            "attn.qkv.weight": (3 * d, d), "attn.qkv.bias": (3 * d,),
            "attn.proj.weight": (d, d), "attn.proj.bias": (d,),
            "norm2.weight": (d,), "norm2.bias": (d,),
            "mlp.fc1.weight": (4 * d, d), "mlp.fc1.bias": (4 * d,),
            "mlp.fc2.weight": (d, 4 * d), "mlp.fc2.bias": (d,),
        }  # fmt: skip
        if second:
            of |= {"ls1.gamma": (d,), "ls2.gamma": (d,)}
        shapes |= {f"blocks.{block}.{name}": shape for name, shape in of.items()}
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        values = 0.04 * torch.randn(shape, generator=generator)
        around_one = name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "gamma"))
        state[name] = values + 1 if around_one else values
    return state


def answer(state: dict[str, torch.Tensor], heads: int, x: torch.Tensor) -> torch.Tensor:
    """The published forward pass from the weights alone: CLS after the last norm, unit length."""

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, eps=1e-6)

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    weight = state["patch_embed.proj.weight"]
    x = F.conv2d(x, weight, state["patch_embed.proj.bias"], stride=weight.shape[-1])
    n, d, rows, columns = x.shape
    x = torch.cat([state["cls_token"].expand(n, -1, -1), x.flatten(2).transpose(1, 2)], 1)
    positions = state["pos_embed"]
    side = int((positions.shape[1] - 1) ** 0.5)
    if side != rows:
        grid = positions[:, 1:].reshape(1, side, side, d).permute(0, 3, 1, 2)
        scale = ((rows + 0.1) / side, (columns + 0.1) / side)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        assert grid.shape[-2:] == (rows, columns)
        grid = grid.permute(0, 2, 3, 1).reshape(1, -1, d)
        positions = torch.cat([positions[:, :1], grid], 1)
    x = x + positions
    for block in range(12):
        of = f"blocks.{block}"
        qkv = linear(f"{of}.attn.qkv", norm(f"{of}.norm1", x))
        q, k, v = qkv.reshape(n, -1, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, d)
        x = x + state.get(f"{of}.ls1.gamma", 1.0) * linear(f"{of}.attn.proj", y)
        y = F.gelu(linear(f"{of}.mlp.fc1", norm(f"{of}.norm2", x)))
        x = x + state.get(f"{of}.ls2.gamma", 1.0) * linear(f"{of}.mlp.fc2", y)
    return F.normalize(norm("norm", x)[:, 0], dim=-1)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration that takes seconds."""
    monkeypatch.setattr(calibrate, "BODIES", 2)
    monkeypatch.setattr(calibrate, "SLICES", 2)
    small = dict.fromkeys(calibrate.PHANTOMS, (8, 64, 64))
    monkeypatch.setattr(calibrate, "PHANTOMS", small)


def quiet(what: str, done: int, total: int | None) -> None:
    pass


def saved(folder: Path, state: Any) -> tuple[Path, str]:
    path = folder / "checkpoint.pth"
    torch.save(state, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_published_name_and_shape_is_loaded_and_answers_as_published(
    tmp_path: Path, name: str
) -> None:
    checkpoint = OFFICIAL[name]
    state = published(checkpoint)
    assert sum(values.numel() for values in state.values()) == PARAMETERS[name]
    path, _ = saved(tmp_path, state)
    network = export.load(path, checkpoint)
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = answer(state, checkpoint.num_heads, x)
        assert (network.embed(x) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "given", "how"),
    [
        ("dinov1-vits16", False, "recorded at first use, pinned nowhere"),
        ("dinov2-vits14", True, "as given"),
    ],
)
def test_a_checkpoint_becomes_a_registered_model_that_answers_as_torch_does(
    tmp_path: Path, config: Config, few: None, name: str, given: bool, how: str
) -> None:
    checkpoint = OFFICIAL[name]
    state = published(checkpoint)
    path, digest = saved(tmp_path, state)
    sha256 = digest if given else None
    added = register.add_official(config, None, checkpoint, path, sha256, None, quiet)
    found = model(config, name)
    assert found == added
    assert (found.input_size, found.channels, found.dimension) == (224, 3, 384)
    assert (found.mean, found.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert f"sha256 {digest} ({how})" in found.source
    assert re.search(r"within \d\.\de-\d\d of torch", found.source)
    assert found.calibration.endswith("of 8 generated phantoms")
    slices = np.random.default_rng(0).random((3, 224, 224), np.float32)
    vectors = Embedder(found, threads=2).embed(slices)
    inputs = torch.from_numpy(normalise(slices, IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = answer(state, checkpoint.num_heads, inputs).numpy()
    assert np.abs(vectors - expected).max() <= export.PARITY
    left = {each.name for each in config.models_folder.iterdir()}
    assert left == {"lock", "manifest.toml", f"{name}.onnx"}
    with pytest.raises(UsageError, match="model remove"):
        register.add_official(config, None, checkpoint, path, None, None, quiet)


def test_a_wrong_checksum_is_refused_before_anything_is_read(
    tmp_path: Path, config: Config
) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(b"anything")
    with pytest.raises(ModelError, match=r"its checksum is [0-9a-f]{64}, not b938bf1b"):
        register.add_official(config, None, OFFICIAL["dinov2-vits14"], path, None, None, quiet)
    assert path.exists()
    assert not (config.models_folder / "manifest.toml").exists()


def _without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: _without(s, "norm.bias"), r"1 missing \(norm.bias\)"),
        (lambda s: {**s, "head.weight": torch.zeros(2)}, r"1 unknown \(head.weight\)"),
        (lambda s: {**s, "cls_token": torch.zeros(1, 1, 5)}, r"cls_token \(1, 1, 5\), not"),
        (lambda s: {"teacher": s}, "not a dictionary of weights"),
        (lambda s: {f"module.{key}": value for key, value in s.items()}, "150 missing"),
        (lambda s: [1, 2], "not a dictionary of weights"),
    ],
)
def test_a_checkpoint_of_anything_else_is_refused_in_words(
    tmp_path: Path, change: Any, said: str
) -> None:
    checkpoint = OFFICIAL["dinov1-vits16"]
    path, _ = saved(tmp_path, change(published(checkpoint)))
    with pytest.raises(ModelError, match=said):
        export.load(path, checkpoint)


class _Evil:
    def __reduce__(self) -> Any:
        return (os.system, ("touch /tmp/diptych-evil",))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_checkpoint_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="no checkpoint that torch reads as weights"):
        export.load(path, OFFICIAL["dinov1-vits16"])


def test_nothing_that_a_file_brings_along_is_executed(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, {"cls_token": _Evil()})
    with pytest.raises(ModelError, match="no checkpoint that torch reads as weights"):
        export.load(path, OFFICIAL["dinov1-vits16"])
    assert not Path("/tmp/diptych-evil").exists()


def test_an_export_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    checkpoint = OFFICIAL["dinov1-vits16"]
    one, other = (
        export.load(saved(tmp_path, published(checkpoint, seed))[0], checkpoint) for seed in (0, 1)
    )
    export.export(one, tmp_path / "one.onnx")
    assert export.parity(one, tmp_path / "one.onnx") <= export.PARITY
    with pytest.raises(ModelError, match="differs from torch"):
        export.parity(other, tmp_path / "one.onnx")


def test_a_download_that_fails_says_what_to_do_by_hand(config: Config) -> None:
    nowhere = replace(OFFICIAL["dinov1-vits16"], url="http://127.0.0.1:9/x/weights.pth")
    with pytest.raises(ModelError, match=r"127.0.0.1:9/x/weights.pth could .*--file weights.pth"):
        register.add_official(config, None, nowhere, None, None, None, quiet)
