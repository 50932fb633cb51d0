"""The network: a Vision Transformer whose weights are named as Meta's DINO checkpoints name them.

A checkpoint of Meta's (``dino_deitsmall16_pretrain.pth``, Apache-2.0) loads into
``VisionTransformer(**VIT_SMALL_16)`` with ``strict=True``; the bundled model is the same class,
smaller, with one channel and a standardisation of every slice inside the network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

VIT_SMALL_16 = {
    "img_size": 224, "patch_size": 16, "in_chans": 3, "embed_dim": 384, "depth": 12,
    "num_heads": 6, "standardise": False, "pool": "cls",
}  # fmt: skip
BUNDLED = {
    "img_size": 112, "patch_size": 16, "in_chans": 1, "embed_dim": 192, "depth": 6,
    "num_heads": 3, "standardise": True, "pool": "cls+mean",
}  # fmt: skip

FLAT = 0.02
"""Added to a slice's standard deviation (in units of the volume's range) before dividing by it:
a nearly flat slice keeps its small contrast instead of having its noise blown up."""


class PatchEmbed(nn.Module):
    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        # written out: with 50 tokens this is faster to train on a CPU than the fused kernel
        weight = (q @ k.transpose(-2, -1) * (c // self.num_heads) ** -0.5).softmax(dim=-1)
        return self.proj((weight @ v).transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """(n, in_chans, h, w) → (n, embed_dim), not yet of unit length (see :meth:`embed`).

    ``pool`` is ``cls`` (the paper: the CLS token) or ``cls+mean`` (CLS plus the mean of the patch
    tokens, both after the last norm). h and w are multiples of ``patch_size``; sizes other than
    ``img_size`` interpolate the positions, as DINO does for its local crops.
    """

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        standardise: bool = False,
        pool: str = "cls",
    ) -> None:
        super().__init__()
        if img_size % patch_size or embed_dim % num_heads:
            raise ValueError(f"{img_size} px / {patch_size} px, {embed_dim} / {num_heads} heads")
        if pool not in ("cls", "cls+mean"):
            raise ValueError(f"pool is cls or cls+mean, found {pool!r}")
        self.grid = img_size // patch_size
        self.patch_size = patch_size
        self.standardise = standardise
        self.pool = pool
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, embed_dim))
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self._initialise()

    def forward(self, x: torch.Tensor, kept: float = 1.0) -> torch.Tensor:
        tokens = self.tokens(x, kept)
        if self.pool == "cls":
            return tokens[:, 0]
        return tokens[:, 0] + tokens[:, 1:].mean(dim=1)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """The embedding: unit length."""
        return F.normalize(self(x).float(), dim=-1)

    def tokens(self, x: torch.Tensor, kept: float = 1.0) -> torch.Tensor:
        """CLS and patch tokens after the last norm, (n, 1 + patches, embed_dim).

        Below 1, only that share of the patches, drawn anew for every slice, is looked at: cheaper
        training (FLIP, Li et al. 2023).
        """
        if self.standardise:
            x = standardise(x)
        rows, columns = x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self.positions(rows, columns)
        if kept < 1:
            x = _some(x, kept)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def positions(self, rows: int, columns: int) -> torch.Tensor:
        if (rows, columns) == (self.grid, self.grid):
            return self.pos_embed
        patches = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


def _some(x: torch.Tensor, kept: float) -> torch.Tensor:
    """CLS and a random share of the patch tokens."""
    n, tokens, dim = x.shape
    chosen = torch.rand(n, tokens - 1, device=x.device).topk(round((tokens - 1) * kept)).indices + 1
    return torch.cat([x[:, :1], x.gather(1, chosen.unsqueeze(-1).expand(-1, -1, dim))], dim=1)


def standardise(x: torch.Tensor) -> torch.Tensor:
    """Every slice to mean 0 and about unit deviation: blind to brightness and contrast."""
    centred = x - x.mean(dim=(-3, -2, -1), keepdim=True)
    deviation = centred.square().mean(dim=(-3, -2, -1), keepdim=True).sqrt()
    return centred / (deviation + FLAT)


class DinoHead(nn.Module):
    """DINO's projection head: MLP, bottleneck of unit length, prototypes of unit length.

    Batch normalisation in the hidden layers and an input that is *not* of unit length: with a small
    batch the head collapses otherwise.
    """

    def __init__(self, dim: int, prototypes: int, hidden: int = 512, bottleneck: int = 128) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.GELU(),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )  # fmt: skip
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.normalize(self.mlp(x).float(), dim=-1)
        return x @ F.normalize(self.prototypes, dim=-1).T
