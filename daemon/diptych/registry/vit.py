"""The Vision Transformer of DINO and DINOv2, its weights named as Meta's checkpoints name them.

A published checkpoint loads with ``strict=True``. Caron et al. 2021 (DINO), Oquab et al. 2023
(DINOv2: LayerScale, 14-pixel patches, a mask token that only training uses). The bundled models are
the same class, smaller, with one channel and every slice standardised inside the network.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import nn

FLAT = 0.02
"""Added to a slice's standard deviation (in units of the volume's range) before dividing by it:
a nearly flat slice keeps its small contrast instead of having its noise blown up."""

OFFSET = 0.1
"""Added to the target grid when positions are interpolated, as both publishers do: their models are
only themselves with it."""


class PatchEmbed(nn.Module):
    """(n, in_chans, h, w) → (n, patches, embed_dim)."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches: torch.Tensor = self.proj(x)
        return patches.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention; query, key and value are one layer."""

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
        attended: torch.Tensor = self.proj((weight @ v).transpose(1, 2).reshape(b, n, c))
        return attended


class Mlp(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mapped: torch.Tensor = self.fc2(F.gelu(self.fc1(x)))
        return mapped


class LayerScale(nn.Module):
    """A learned factor per channel (DINOv2)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block; ``layer_scale`` adds DINOv2's ls1 and ls2."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, layer_scale: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads)
        self.ls1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        mapped: torch.Tensor = self.ls2(self.mlp(self.norm2(x)))
        return x + mapped


class VisionTransformer(nn.Module):
    """(n, in_chans, h, w) → (n, embed_dim), not yet of unit length (see :meth:`embed`).

    ``pool`` is ``cls`` (the paper: the CLS token) or ``cls+mean`` (CLS plus the mean of the patch
    tokens, both after the last norm). ``layer_scale`` and ``mask_token`` are DINOv2's. h and w are
    multiples of ``patch_size``; sizes other than ``img_size`` interpolate the positions.
    ValueError: sizes that do not divide, or another pool.
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
        layer_scale: bool = False,
        mask_token: bool = False,
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
        if mask_token:  # of masked training; here so that the checkpoint loads strictly
            self.mask_token = nn.Parameter(torch.zeros(1, embed_dim))
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, layer_scale) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self._initialise()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens(x)
        if self.pool == "cls":
            return tokens[:, 0]
        return tokens[:, 0] + tokens[:, 1:].mean(dim=1)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """The embedding: unit length."""
        return F.normalize(self(x).float(), dim=-1)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """CLS and patch tokens after the last norm, (n, 1 + patches, embed_dim)."""
        if self.standardise:
            x = standardise(x)
        rows, columns = x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self.positions(rows, columns)
        for block in self.blocks:
            x = block(x)
        normed: torch.Tensor = self.norm(x)
        return normed

    def positions(self, rows: int, columns: int) -> torch.Tensor:
        """Position embeddings of a grid, (1, 1 + rows · columns, embed_dim)."""
        if (rows, columns) == (self.grid, self.grid):
            return self.pos_embed
        patches = self.pos_embed[:, 1:].reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        scale = ((rows + OFFSET) / self.grid, (columns + OFFSET) / self.grid)
        patches = F.interpolate(patches, scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    def fit(self, img_size: int) -> VisionTransformer:
        """Interpolate the positions once and for all, so that an export holds them as numbers."""
        grid = img_size // self.patch_size
        with torch.no_grad():
            self.pos_embed = nn.Parameter(self.positions(grid, grid).clone())
        self.grid = grid
        return self

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


def standardise(x: torch.Tensor) -> torch.Tensor:
    """(n, 1, h, w): every slice to mean 0 and about unit deviation: blind to contrast.

    Averages by pooling: ONNX Runtime's plain mean of a small slice depends, in the last bit, on
    where the slice lies in the batch.
    """
    centred = x - F.adaptive_avg_pool2d(x, 1)
    deviation = F.adaptive_avg_pool2d(centred.square(), 1).sqrt()
    return centred / (deviation + FLAT)
