"""The network, its training and its export. Needs torch, which the runtime does not have."""

# ruff: noqa: E402 - the imports follow the check for torch

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from support import REPOSITORY

NO_TORCH = "missing: torch (training and export only; pip install torch onnx)"
try:
    import onnx  # noqa: F401
    import torch
except ModuleNotFoundError:
    if os.environ.get("REQUIRE") == "all":
        pytest.fail(NO_TORCH, pytrace=False)
    pytest.skip(NO_TORCH, allow_module_level=True)

sys.path.insert(0, str(REPOSITORY / "models"))
import augment
import export
import train
import vit

torch.set_num_threads(1)  # tensors this small are slower on several

TINY = {"img_size": 32, "patch_size": 8, "in_chans": 1, "embed_dim": 24, "depth": 2,
        "num_heads": 3, "standardise": True, "pool": "cls+mean"}  # fmt: skip


def dino_names(depth: int) -> set[str]:
    """The keys of Meta's ``dino_deitsmall16_pretrain.pth``, as published."""
    block = [
        "norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight",
        "attn.proj.bias", "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias",
        "mlp.fc2.weight", "mlp.fc2.bias",
    ]  # fmt: skip
    outer = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias",
             "norm.weight", "norm.bias"]  # fmt: skip
    return {*outer, *(f"blocks.{i}.{name}" for i in range(depth) for name in block)}


def test_weights_are_named_and_shaped_as_metas_dino_vit_small():
    state = vit.VisionTransformer(**vit.VIT_SMALL_16).state_dict()
    assert set(state) == dino_names(depth=12)
    assert state["pos_embed"].shape == (1, 197, 384)
    assert state["patch_embed.proj.weight"].shape == (384, 3, 16, 16)
    assert state["blocks.0.attn.qkv.weight"].shape == (1152, 384)
    assert state["blocks.11.mlp.fc1.weight"].shape == (1536, 384)
    assert sum(p.numel() for p in state.values()) == 21_665_664


def test_the_bundled_network_has_the_same_names():
    state = vit.VisionTransformer(**vit.BUNDLED).state_dict()
    assert set(state) == dino_names(depth=vit.BUNDLED["depth"])


def test_local_crops_interpolate_the_positions():
    network = vit.VisionTransformer(**TINY)
    assert network(torch.rand(2, 1, 16, 24)).shape == (2, 24)


def test_brightness_and_contrast_hardly_move_the_embedding():
    network = vit.VisionTransformer(**TINY).eval()
    x = torch.rand(4, 1, 32, 32)
    assert (network.embed(x) - network.embed(0.7 * x + 0.2)).norm(dim=1).max() < 0.05


def test_impossible_networks_are_refused():
    with pytest.raises(ValueError, match="33 px / 8 px"):
        vit.VisionTransformer(**(TINY | {"img_size": 33}))
    with pytest.raises(ValueError, match="pool is"):
        vit.VisionTransformer(**(TINY | {"pool": "max"}))


@pytest.fixture
def slices() -> train.Slices:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(60, 1, 9, 9, generator=generator)
    pixels = torch.nn.functional.interpolate(pixels, train.SOURCE, mode="bicubic").clamp(0, 1)
    volume = torch.arange(6).repeat_interleave(10)
    return train.Slices(
        pixels[:, 0].half(), torch.ones(60), volume, volume // 2, torch.arange(10).repeat(6)
    )


@pytest.fixture
def small(monkeypatch) -> None:
    """The whole training on a network and a batch that take a second, with easy views."""
    config = {"img_size": 64, "patch_size": 16, "in_chans": 1, "embed_dim": 32, "depth": 1,
              "num_heads": 2, "standardise": True, "pool": "cls+mean"}  # fmt: skip
    monkeypatch.setattr(train.vit, "BUNDLED", config)
    monkeypatch.setattr(train, "BATCH", 24)
    monkeypatch.setattr(train, "PROTOTYPES", 32)
    monkeypatch.setattr(train, "LOCAL", 32)
    monkeypatch.setattr(augment, "damaged_view", augment.light_view)


def options(folder: Path, steps: int) -> argparse.Namespace:
    return argparse.Namespace(out=folder, steps=steps, minutes=1, seed=0)


def test_training_brings_the_loss_down_and_resumes_where_it_stopped(tmp_path, slices, small):
    torch.manual_seed(0)
    trainer = train.Trainer(slices, options(tmp_path, steps=40))
    first = [trainer.one_step()["instance"] for _ in range(40)]
    assert np.isfinite(first).all()
    assert np.mean(first[-8:]) < np.mean(first[:8]) - 0.4
    trainer.save(tmp_path / "checkpoint.pt")
    again = train.Trainer(slices, options(tmp_path, steps=40))
    again.restore(tmp_path / "checkpoint.pt")
    assert again.step == 40
    for mine, theirs in zip(again.teacher.parameters(), trainer.teacher.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_teacher_follows_the_student_slowly(tmp_path, slices, small):
    trainer = train.Trainer(slices, options(tmp_path, steps=10))
    before = [p.clone() for p in trainer.teacher.parameters()]
    trainer.one_step()

    def moved(network: torch.nn.Module) -> float:
        pairs = zip(network.parameters(), before, strict=True)
        return max(float((p - q).detach().abs().max()) for p, q in pairs)

    assert 0 < moved(trainer.teacher) < 0.1 * moved(trainer.student)


def test_neighbours_and_other_volumes_of_a_patient_are_not_held_against_a_slice(slices):
    usable = train.comparable(slices, torch.tensor([0, 1, 2, 3, 15, 25]))
    assert usable[0].tolist() == [False, False, False, True, False, True]


def test_sinkhorn_targets_are_distributions_and_use_every_prototype():
    targets = train.sinkhorn(torch.randn(64, 16) / 0.05, rounds=20)
    assert torch.allclose(targets.sum(1), torch.ones(64), atol=1e-4)
    assert targets.sum(0).min() > 1


def test_doing_nothing_is_resampling_without_a_change():
    x = torch.rand(3, 1, 48, 48)
    zero, one = torch.zeros(3), torch.ones(3)
    same = augment.resample(x, one, zero, torch.zeros(3, 2), torch.ones(3, 2), 48)
    assert torch.allclose(same, x, atol=1e-4)


def test_a_positive_shift_moves_to_the_right_and_down():
    x = torch.zeros(1, 1, 40, 40)
    x[0, 0, 10, 10] = 1
    move = torch.tensor([[0.25, 0.5]])
    moved = augment.resample(x, torch.ones(1), torch.zeros(1), move, torch.ones(1, 2), 40)
    assert moved[0, 0].argmax().item() == 30 * 40 + 20


def test_blur_keeps_the_mean_and_quality_100_keeps_the_picture():
    x = torch.rand(2, 1, 48, 48)
    chosen = torch.ones(2, dtype=torch.bool)
    blurred = augment.blur(x, torch.full((2,), 0.05), chosen)
    assert torch.allclose(blurred.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=2e-3)
    assert blurred.std() < 0.2 * x.std()
    assert (augment.jpeg(x, torch.full((2,), 100.0), chosen) - x).abs().max() < 0.02
    assert (augment.jpeg(x, torch.full((2,), 10.0), chosen) - x).abs().max() > 0.1


def test_export_agrees_with_torch_and_takes_any_number_of_slices(tmp_path):
    network = vit.VisionTransformer(**TINY)
    target = tmp_path / "tiny.onnx"
    export.export(network, target)
    assert export.parity(network, target) <= export.PARITY
    other = vit.VisionTransformer(**TINY)
    with pytest.raises(SystemExit, match="differs from torch"):
        export.parity(other, target)
