"""The three terms of the loss and DINO's head.

DINO (Caron et al. 2021) with Sinkhorn-Knopp targets (SwAV, DINOv2), InfoNCE (van den Oord et al.
2018), KoLeo (Sablayrolles et al. 2019).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

TEMPERATURE_INSTANCE = 0.06


def sinkhorn(scores: torch.Tensor, rounds: int = 3) -> torch.Tensor:
    """Targets in which every prototype gets its share of the batch (SwAV; used by DINOv2)."""
    q = torch.exp(scores - scores.max()).T
    prototypes, n = q.shape
    for _ in range(rounds):
        q = q / q.sum(1, keepdim=True).clamp(min=1e-12) / prototypes
        q = q / q.sum(0, keepdim=True).clamp(min=1e-12) / n
    return (q * n).T


def info_nce(
    a: torch.Tensor, b: torch.Tensor, key: torch.Tensor, usable: torch.Tensor
) -> torch.Tensor:
    """Every view of a slice against the other slices' views; ``usable[i, j]``: j is a negative."""
    views = [a, b]
    total = a.new_zeros(())
    for anchor, positives in ((a, (b, key)), (b, (a, key))):
        against = torch.cat([anchor @ other.T for other in (*views, key)], 1) / TEMPERATURE_INSTANCE
        against = against.masked_fill(~usable.repeat(1, 3), -1e4)
        denominator = torch.logsumexp(against, 1)
        for positive in positives:
            s = (anchor * positive).sum(1) / TEMPERATURE_INSTANCE
            total = total + (torch.logaddexp(s, denominator) - s).mean() / 4
    return total


def koleo(z: torch.Tensor) -> torch.Tensor:
    """Kozachenko–Leonenko entropy: push every embedding away from its nearest neighbour."""
    with torch.no_grad():
        similarity = z @ z.T
        similarity.fill_diagonal_(-2)
        other = similarity.argmax(1)
    return -torch.log((z - z[other]).norm(dim=1) + 1e-6).mean()


@torch.no_grad()
def nearest(z: torch.Tensor, key: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """How often a damaged slice finds itself among the batch's clean ones."""
    similarity = z @ key.T
    own = similarity.diagonal()
    best = similarity.masked_fill(~usable, -2).amax(1)
    return (own > best).float().mean()


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
