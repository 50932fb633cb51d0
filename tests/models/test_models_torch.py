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
import losses
import networks
import train
import trainset
from diptych.embed.prepare import prepare
from diptych.registry import vit

torch.set_num_threads(1)  # tensors this small are slower on several

TINY = {"img_size": 32, "patch_size": 8, "in_chans": 1, "embed_dim": 24, "depth": 2,
        "num_heads": 3, "standardise": True, "pool": "cls+mean"}  # fmt: skip


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


@pytest.mark.parametrize("name", sorted(networks.CONFIGS))
def test_every_candidate_gives_unit_vectors_of_its_dimension_and_takes_local_crops(name):
    network = networks.build(networks.CONFIGS[name]).eval()
    for size in (networks.SIZE, train.LOCAL):
        vectors = network.embed(torch.rand(3, 1, size, size))
        assert vectors.shape == (3, networks.dimension(networks.CONFIGS[name]))
        assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)


@pytest.fixture
def slices() -> trainset.Slices:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(60, 1, 9, 9, generator=generator)
    pixels = torch.nn.functional.interpolate(pixels, trainset.SOURCE, mode="bicubic").clamp(0, 1)
    volume = torch.arange(6).repeat_interleave(10)
    return trainset.Slices(
        pixels[:, 0].half().repeat(1 + len(trainset.BLURS), 1, 1, 1),
        torch.ones(60),
        torch.full((60,), 64.0),
        volume,
        volume // 2,
        volume % 2,
        torch.arange(10).repeat(6),
    )


@pytest.fixture
def small(monkeypatch) -> None:
    """The whole training on a network and a batch that take a second, with easy views."""
    config = {"network": "vit", "img_size": 64, "patch_size": 16, "in_chans": 1, "embed_dim": 32,
              "depth": 1, "num_heads": 2, "standardise": True, "pool": "cls+mean"}  # fmt: skip
    monkeypatch.setitem(networks.CONFIGS, "vit", config)
    monkeypatch.setattr(train, "PROTOTYPES", 32)
    monkeypatch.setattr(train, "LOCAL", 32)

    def easy(x, aspect, native, size):
        return augment.light_view(x, aspect, size)

    monkeypatch.setattr(augment, "damaged_view", easy)


def options(folder: Path, steps: int) -> argparse.Namespace:
    return argparse.Namespace(
        out=folder, steps=steps, minutes=1, seed=0, network="vit", batch=24, device="cpu",
        dino=0.5, instance=1.0, koleo=0.1,
    )  # fmt: skip


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
    usable = trainset.comparable(slices, torch.tensor([0, 1, 2, 3, 15, 25]))
    assert usable[0].tolist() == [False, False, False, True, False, True]


def test_sinkhorn_targets_are_distributions_and_use_every_prototype():
    targets = losses.sinkhorn(torch.randn(64, 16) / 0.05, rounds=20)
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


def test_noise_is_coarse_on_small_planes_and_weak_on_large_ones():
    torch.manual_seed(0)
    small, same, large = (
        augment.noise(torch.Size((16, 1, 112, 112)), torch.full((16,), native))
        for native in (30.0, 112.0, 448.0)
    )

    def likeness(x: torch.Tensor) -> float:
        return float((x[..., 1:] * x[..., :-1]).mean() / x.square().mean())

    assert abs(float(same.std()) - 1) < 0.02
    assert abs(likeness(same)) < 0.02
    assert likeness(small) > 0.7
    assert 0.12 < large.std() < 0.22


def test_noise_after_the_resize_is_what_the_preparation_leaves_of_it():
    random = np.random.default_rng(0)
    for native in (40, 224):
        volume = random.normal(size=(8, native, native)).astype(np.float32)
        volume[0, 0, :2] = -12, 12  # so that min-max scales all by 1 / 24
        expected = prepare(volume, 112)[1:].std() * 24
        torch.manual_seed(0)
        found = augment.noise(torch.Size((8, 1, 112, 112)), torch.full((8,), float(native))).std()
        assert abs(float(found) - expected) < 0.15 * expected


def test_export_agrees_with_torch_and_takes_any_number_of_slices(tmp_path):
    config = networks.CONFIGS["pyramid"] | {"widths": [4, 4, 8, 8], "dim": 12}
    network = networks.build(config)
    target = tmp_path / "tiny.onnx"
    export.export(network, target)
    assert export.parity(network, target) <= export.PARITY
    other = networks.build(config)
    with pytest.raises(SystemExit, match="differs from torch"):
        export.parity(other, target)
