"""The near-duplicate operations of the paper as batched augmentations, in torch.

Every function takes and gives (n, 1, h, w) in about [0, 1]. Flips are not among them: a mirrored
slice is another slice. Strengths reach a little beyond the paper's. Blur over three dimensions is
not done here but once, on the volumes (``train.read_slices``). Random numbers come from torch's
default device, which the trainer sets.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F  # noqa: N812

ROTATION = 22.0  # degrees; the paper goes to 20
SHIFT = 0.22  # of the side; the paper goes to 20 %
ZOOM = 1.3  # cropping 20 % in total per axis is a zoom of 1.25
LOCAL_ZOOM = (1.3, 2.2)  # DINO's local crops
GRIDS = (24, 32, 40, 52, 68, 88, 112)  # pixels: noise of smaller planes is drawn on these

# ISO/IEC 10918-1 table K.1
LUMINANCE = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=torch.float32,
)  # fmt: skip


def light_view(x: torch.Tensor, aspect: torch.Tensor, size: int) -> torch.Tensor:
    """What the teacher sees as "clean": the slice itself, hardly moved."""
    n = len(x)
    turn = torch.zeros(n)
    move = (torch.rand(n, 2) * 2 - 1) * 0.01
    zoom = 1 + torch.rand(n, 2) * 0.02
    return resample(x, aspect, turn, move, zoom, size)


def damaged_view(
    x: torch.Tensor, aspect: torch.Tensor, native: torch.Tensor, size: int
) -> torch.Tensor:
    """Rotation, shift and crop, then blur, intensity map, noise and JPEG, each only sometimes.

    Half of the slices stay where they are, as the paper's single operations leave them, and take
    the whole damage; those that move take half the noise. ``native``: see :func:`noise`.
    """
    n = len(x)
    moved = torch.rand(n) < 0.55
    turn = _signed(n) * ROTATION * (moved & (torch.rand(n) < 0.6))
    move = (torch.rand(n, 2) * 2 - 1) * SHIFT * (moved & (torch.rand(n) < 0.6)).view(n, 1)
    zoom = 1 + torch.rand(n, 1) * (ZOOM - 1) * (moved & (torch.rand(n) < 0.6)).view(n, 1)
    zoom = zoom * (1 + (torch.rand(n, 2) - 0.5) * 0.06 * moved.view(n, 1))
    x = resample(x, aspect, turn, move, zoom, size)
    return damage(x, torch.where(moved, 0.5, 1.0), native)


def local_view(
    x: torch.Tensor, aspect: torch.Tensor, native: torch.Tensor, size: int
) -> torch.Tensor:
    """A small part of the slice: DINO's local crop."""
    n = len(x)
    low, high = LOCAL_ZOOM
    zoom = (low + (high - low) * torch.rand(n, 1)).expand(n, 2)
    move = (torch.rand(n, 2) * 2 - 1) * (1 - 1 / zoom) / 2 * zoom
    x = resample(x, aspect, _signed(n) * ROTATION / 2, move, zoom, size)
    return damage(x, torch.full((n,), 0.3), native)


def damage(x: torch.Tensor, strength: torch.Tensor, native: torch.Tensor) -> torch.Tensor:
    n = len(x)
    x = blur(x, 0.004 * torch.exp(torch.rand(n) * 2.9), torch.rand(n) < 0.15)
    mapped = (torch.rand(n) < 0.6).view(n, 1, 1, 1)
    x = torch.where(mapped, x.clamp(0, 1) ** torch.exp(_signed(n) * 0.35).view(n, 1, 1, 1), x)
    gain, offset = torch.exp(_signed(n) * 0.25), _signed(n) * 0.1
    x = torch.where(mapped, x * gain.view(n, 1, 1, 1) + offset.view(n, 1, 1, 1), x)
    # Weak noise is learned at a glance; strong noise is what copies are lost under.
    weak = 0.02 * torch.exp(torch.rand(n) * math.log(10))
    heavy = 0.2 + 0.7 * torch.rand(n)
    deviation = torch.where(torch.rand(n) < 0.4, weak, heavy) * (torch.rand(n) < 0.7)
    x = x + noise(x.shape, native) * (deviation * strength).view(n, 1, 1, 1)
    return jpeg(x, 15 + 85 * torch.rand(n), torch.rand(n) < 0.25)


def noise(shape: torch.Size, native: torch.Tensor) -> torch.Tensor:
    """White noise of deviation 1 of the *native* plane, as it looks after the preparation's resize.

    ``native`` is the geometric mean of the plane's rows and columns. Small planes are enlarged: the
    noise becomes coarse. Large ones are averaged: it becomes weak.
    """
    n, _, size, _ = shape
    # the triangle filter over s pixels leaves sqrt(2 / 3s) of the deviation, along either axis
    factor = torch.where(native > size, (2 * size / (3 * native)).clamp(max=1), 1.0)
    out = torch.randn(shape) * factor.view(n, 1, 1, 1)
    bounds = [0, *((a + b) / 2 for a, b in itertools.pairwise(GRIDS)), GRIDS[-1]]
    for grid, low, high in zip(GRIDS, bounds, bounds[1:], strict=False):
        rows = torch.nonzero((native >= low) & (native < high)).flatten()
        if len(rows) and grid < size:
            coarse = torch.randn(len(rows), 1, grid, grid)
            out[rows] = F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
    return out


def resample(
    x: torch.Tensor,
    aspect: torch.Tensor,
    turn: torch.Tensor,
    move: torch.Tensor,
    zoom: torch.Tensor,
    size: int,
) -> torch.Tensor:
    """Turn (degrees), move (fractions of the side) and zoom about the middle.

    ``aspect`` is columns per row of the native plane: rotation happened there, before the slice was
    made square. What comes from outside is 0, or now and then the repeated border.
    """
    angle = turn * math.pi / 180
    cos, sin = torch.cos(angle), torch.sin(angle)
    matrix = torch.zeros(len(x), 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = cos / zoom[:, 0], -sin / aspect / zoom[:, 1]
    matrix[:, 1, 0], matrix[:, 1, 1] = sin * aspect / zoom[:, 0], cos / zoom[:, 1]
    matrix[:, :, 2] = -2 * move / zoom
    grid = F.affine_grid(matrix, [len(x), 1, size, size], align_corners=False)
    border = "border" if torch.rand(()) < 0.15 else "zeros"
    return F.grid_sample(x, grid, mode="bilinear", padding_mode=border, align_corners=False)


def blur(x: torch.Tensor, sigma: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Gaussian of ``sigma`` (fraction of the side), reflected at the border, where chosen."""
    if not chosen.any():
        return x
    size = x.shape[-1]
    place = torch.arange(size, dtype=torch.float32)
    distance = (torch.arange(-size, 2 * size) - place[:, None]) / (sigma[chosen] * size)[
        :, None, None
    ]
    weight = torch.exp(-0.5 * distance.square())
    weight = weight / weight.sum(-1, keepdim=True)
    left, middle, right = weight.split(size, dim=-1)
    kernel = middle + left.flip(-1) + right.flip(-1)
    x = x.clone()
    x[chosen] = (kernel @ x[chosen, 0] @ kernel.transpose(1, 2)).unsqueeze(1)
    return x


def jpeg(x: torch.Tensor, quality: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """JPEG's loss without its entropy coding: 8×8 DCT, quantised by table K.1, where chosen."""
    if not chosen.any():
        return x
    size = x.shape[-1]
    if size % 8:
        raise ValueError(f"JPEG blocks are 8 pixels, the side is {size}")
    k = torch.arange(8, dtype=torch.float32)
    dct = torch.cos(math.pi / 8 * (k + 0.5) * k[:, None]) * math.sqrt(2 / 8)
    dct[0] /= math.sqrt(2)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)[chosen].clamp(min=0.01)
    table = (LUMINANCE.to(x.device) * scale.view(-1, 1, 1)).clamp(1, 255).view(-1, 1, 1, 8, 8)
    part = x[chosen, 0].clamp(0, 1) * 255 - 128
    blocks = part.view(-1, size // 8, 8, size // 8, 8).transpose(2, 3)
    blocks = dct.T @ (torch.round(dct @ blocks @ dct.T / table) * table) @ dct
    back = blocks.transpose(2, 3).reshape(-1, 1, size, size)
    x = x.clone()
    x[chosen] = (back + 128) / 255
    return x


def _signed(n: int) -> torch.Tensor:
    return torch.rand(n) * 2 - 1
