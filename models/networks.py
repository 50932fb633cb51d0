"""The candidates: three small backbones with one interface, compared by ``compare.py``.

Every one is ``network(x)`` → (n, dimension) and ``network.embed(x)`` → unit length, for x of
(n, 1, size, size) prepared slices in [0, 1]; ``network.config`` makes the same one again.

``pyramid``  a residual convolutional network that sees the slice at four scales (the default)
``hybrid``   a convolutional stem, then transformer blocks on its 7×7 tokens
``vit``      the Vision Transformer at 112 pixels, patch 16
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from diptych.registry import vit

SIZE = 112
POWER = 3.0  # of the generalised mean (Radenović et al. 2018): between average and maximum

CONFIGS: dict[str, dict] = {
    "pyramid": {"network": "pyramid", "img_size": SIZE, "widths": [24, 40, 80, 192], "dim": 256},
    "hybrid": {"network": "hybrid", "img_size": SIZE, "widths": [24, 48, 96, 192], "depth": 3},
    "vit": {
        "network": "vit", "img_size": SIZE, "patch_size": 16, "in_chans": 1, "embed_dim": 192,
        "depth": 6, "num_heads": 3, "standardise": True, "pool": "cls+mean",
    },
}  # fmt: skip


def build(config: dict) -> nn.Module:
    """The network of a configuration, freshly initialised."""
    values = {key: value for key, value in config.items() if key != "network"}
    kinds = {"pyramid": Pyramid, "hybrid": Hybrid, "vit": vit.VisionTransformer}
    network = kinds[config["network"]](**values)
    network.config = dict(config)
    return network


def dimension(config: dict) -> int:
    return config.get("dim") or config.get("embed_dim") or config["widths"][-1]


class Pyramid(nn.Module):
    """A residual network with an image pyramid beside it.

    Averaging comes before the first non-linearity, and every scale is standardised by itself: that
    is the denoising. At 14×14 the noise of a scan is an eighth of what it was, its layout is not,
    and standardising brings the layout back to full contrast. Crop, shift and rotation are left to
    the convolutions and to the pooling, which forgets where things were.
    """

    def __init__(self, img_size: int, widths: list[int], dim: int) -> None:
        super().__init__()
        self.img_size = img_size
        first, second, third, fourth = widths
        self.stem = conv(1, first, 7, stride=2)
        self.stage2 = nn.Sequential(conv(first, second, stride=2), Residual(second))
        self.stage3 = nn.Sequential(conv(second, third, stride=2), Residual(third))
        self.stage4 = nn.Sequential(conv(third, fourth, stride=2), Residual(fourth))
        self.scale2, self.scale3 = (conv(1, width, 5, act=False) for width in (second, third))
        self.scale4 = conv(1, fourth, 5, act=False)
        self.head = nn.Linear(2 * fourth, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quarter = F.avg_pool2d(x, 4)
        eighth = F.avg_pool2d(quarter, 2)
        sixteenth = F.avg_pool2d(eighth, 2)
        out = self.stem(vit.standardise(x))
        out = self.stage2[1](F.relu(self.stage2[0](out) + self.scale2(vit.standardise(quarter))))
        out = self.stage3[1](F.relu(self.stage3[0](out) + self.scale3(vit.standardise(eighth))))
        out = self.stage4[1](F.relu(self.stage4[0](out) + self.scale4(vit.standardise(sixteenth))))
        return self.head(torch.cat([generalised_mean(out), out.float().mean((2, 3))], 1))

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(self(x).float(), dim=-1)


class Hybrid(nn.Module):
    """Four strided convolutions, then transformer blocks: early convolutions help a small
    transformer see better (Xiao et al. 2021). Gives CLS plus the generalised mean of the tokens."""

    def __init__(self, img_size: int, widths: list[int], depth: int) -> None:
        super().__init__()
        self.img_size = img_size
        channels = [1, *widths]
        self.stem = nn.Sequential(
            *(conv(a, b, 7 if a == 1 else 3, stride=2) for a, b in itertools.pairwise(channels))
        )
        dim, self.grid = widths[-1], img_size // 16
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, dim, self.grid, self.grid) * 0.02)
        self.blocks = nn.ModuleList(
            vit.Block(dim, dim // 64, 4.0, layer_scale=False) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(vit.standardise(x))
        position = self.pos_embed
        if x.shape[-1] != self.grid:
            position = F.interpolate(position, x.shape[-2:], mode="bicubic", align_corners=False)
        tokens = (x + position).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return tokens[:, 0] + tokens[:, 1:].mean(1)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(self(x).float(), dim=-1)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = conv(width, width), conv(width, width, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.second(self.first(x)))


def conv(inside: int, out: int, kernel: int = 3, stride: int = 1, act: bool = True) -> nn.Module:
    """Convolution and batch normalisation, which the export folds into one."""
    parts = [
        nn.Conv2d(inside, out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out),
    ]
    return nn.Sequential(*parts, nn.ReLU()) if act else nn.Sequential(*parts)


def generalised_mean(x: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) → (n, c): GeM with p = 3; x is not negative."""
    return x.float().clamp(min=1e-4).pow(POWER).mean((2, 3)).pow(1 / POWER)
