"""The verification proxy: a small picture of a case that stays after its pixels are purged.

An old case can then still be aligned with a new one. The volume is turned to a canonical
orientation, averaged onto an isotropic grid fixed in millimetres, quantised to 8 bits and
compressed. A proxy shows anatomy: it is PHI.

**Canonical orientation**: axes permuted and flipped, never interpolated, so that (slice, row,
column) run as nearly as they can towards head, posterior, left (+S, +P, +L; PS3.3 C.7.6.2.1.1).
What tilt remains stays in the affine.

**Grid**: the finest step of :data:`SPACINGS_MM` that is not finer than the volume's own finest
voxel and keeps the proxy within :data:`MAX_VOXELS`. Steps are fixed lengths, not fractions of the
array, so a cropped copy falls on the same grid or a neighbouring step, and the finer of two proxies
can be averaged to the coarser.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from diptych.errors import StoreError

Geometry = Literal["known", "inferred"]

SPACINGS_MM = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
"""Grid steps. A whole-body CT falls on 6–8 mm, an abdomen on 4, a head on 3, a hippocampus on 1."""

MAX_VOXELS = 96**3
"""Voxels of a proxy, 885 kB before compression; about one per cent of a CT's pixels."""

ROBUST_PERCENTILES = (0.1, 99.9)
"""Intensities beyond are clipped: one metal voxel must not use up the 255 levels."""

VERSION = 3
LEVELS = 254
"""Code 0 is "outside the valid mask"; codes 1…255 are low + (code - 1)·step."""

_HEADER = struct.Struct("<4sBBHHHf12dffBBHfff")
_HEADER_2 = struct.Struct("<4sBBHHHf12dffBBHf")
"""Version 2 did not know the voxel across the stack; that of the grid stands in."""
_MAGIC = b"DPXY"
_GEOMETRIES: tuple[Geometry, ...] = ("known", "inferred")


@dataclass(frozen=True)
class Proxy:
    """A decoded proxy.

    values: float32 (slice, row, column), the volume's units; 0 where not valid.
    valid: bool of the same shape. affine: 4×4 float64, (slice, row, column, 1) → LPS mm.
    spacing_mm: the grid step, on all three axes. geometry: 'inferred' when the affine was guessed
    from missing headers; lengths are then not to be relied on.
    stack: how the acquired slices lie in it. voxel_mm: the acquired voxel along the three axes.
    """

    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    affine: NDArray[np.float64]
    spacing_mm: float
    geometry: Geometry
    stack: Stack
    voxel_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Stack:
    """The acquired slices in a proxy. axis: the array axis they are stacked along, 0…2.
    backwards: the first slice is at that axis' far end. slices: how many; pitch_mm: from one to the
    next."""

    axis: int
    backwards: bool
    slices: int
    pitch_mm: float

    def first_mm(self, extent_mm: float) -> float:
        """Where the stack begins, from the outer corner of the proxy's first cell; the last cell
        may reach beyond the stack, and a flip brings it to the front."""
        return extent_mm - self.slices * self.pitch_mm if self.backwards else 0.0


def encode(
    volume: NDArray[np.float32],
    affine: NDArray[np.float64],
    *,
    valid: NDArray[np.bool_] | None = None,
    geometry: Geometry = "known",
) -> bytes:
    """The proxy of a volume.

    volume: finite (slice, row, column). affine: 4×4, (slice, row, column, 1) → LPS mm.
    valid: bool of the same shape, False where padding; None: all valid. Averages ignore the rest.

    ValueError: not 3-D, empty, affine not 4×4, not finite or singular.
    """
    if volume.ndim != 3 or not volume.size:
        raise ValueError(f"a volume must be (slice, row, column), not {volume.shape}")
    if valid is not None and valid.shape != volume.shape:
        raise ValueError(f"the mask is {valid.shape}, the volume {volume.shape}")
    lengths = _lengths(affine)
    spacing = grid_spacing(volume.shape, lengths)
    values, weights, grid_affine = _average(volume, affine, valid, spacing)
    order, flips = closest_axes(grid_affine)
    axis = order.index(0)
    values, weights, grid_affine = _canonical(values, weights, grid_affine, order, flips)

    inside = weights > 0.5  # at least half of the cell is valid
    known = values[inside] if inside.any() else np.zeros(1, dtype=np.float32)
    low, high = (float(p) for p in np.percentile(known, ROBUST_PERCENTILES))
    step = (high - low) / LEVELS or 1.0
    codes = np.clip(np.rint((values - low) / step), 0, LEVELS).astype(np.uint8) + np.uint8(1)
    codes[~inside] = 0
    header = _HEADER.pack(
        _MAGIC,
        VERSION,
        _GEOMETRIES.index(geometry),
        *codes.shape,
        spacing,
        *grid_affine[:3].ravel(),
        low,
        step,
        axis,
        flips[axis],
        min(len(volume), 2**16 - 1),
        *(lengths[i] for i in (0, *(i for i in order if i))),
    )
    return header + zlib.compress(codes.tobytes(), level=6)


def decode(content: bytes) -> Proxy:
    """What :func:`encode` wrote. StoreError: not a proxy, another version, torn or oversized."""
    if len(content) < _HEADER.size or content[:4] != _MAGIC:
        raise StoreError("not a verification proxy")
    header = _HEADER_2 if content[4] == 2 else _HEADER
    fields = header.unpack_from(content)
    version, geometry, shape, spacing = fields[1], fields[2], fields[3:6], fields[6]
    affine, (low, step) = np.eye(4), fields[19:21]
    axis, backwards, slices, pitch = fields[21:25]
    voxel = list(fields[25:] or (spacing, spacing))
    voxel.insert(axis, pitch)
    affine[:3] = np.reshape(fields[7:19], (3, 4))
    size = int(np.prod(shape, dtype=np.int64))
    if version not in (2, VERSION) or geometry >= len(_GEOMETRIES):
        raise StoreError(f"proxy version {version}, this version reads 2 and {VERSION}")
    if not 0 < size <= MAX_VOXELS:
        raise StoreError(f"a proxy of {shape} voxels; at most {MAX_VOXELS} are written")
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(content[header.size :], size + 1)
    except zlib.error as error:
        raise StoreError(f"proxy cannot be decompressed: {error}") from error
    if len(raw) != size or not inflate.eof:
        raise StoreError(f"proxy of {shape} voxels holds {len(raw)}")
    codes = np.frombuffer(raw, dtype=np.uint8).reshape(shape)
    valid = codes > 0
    values = np.where(valid, np.float32(low) + (codes - np.float32(1)) * np.float32(step), 0)
    stack = Stack(axis, bool(backwards), slices, pitch)
    return Proxy(
        values.astype(np.float32),
        valid,
        affine,
        spacing,
        _GEOMETRIES[geometry],
        stack,
        (voxel[0], voxel[1], voxel[2]),
    )


def turned_round(proxy: Proxy) -> Proxy:
    """The stack as it would be had its slices been placed in the other order, anatomy with them."""
    axis = proxy.stack.axis
    return replace(
        proxy,
        values=np.ascontiguousarray(np.flip(proxy.values, axis)),
        valid=np.ascontiguousarray(np.flip(proxy.valid, axis)),
        stack=replace(proxy.stack, backwards=not proxy.stack.backwards),
    )


def averaged(
    values: NDArray[np.float32], mask: NDArray[np.bool_], step: float, wanted: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Masked means on a grid of ``wanted``, not finer than ``step``; each cell's known share."""
    weight = mask.astype(np.float32)
    value = np.where(mask, values, 0).astype(np.float32)
    if wanted == step:
        return value, weight
    return _masked_means(value, weight, [overlaps(n, step, wanted) for n in values.shape])


def spread(
    values: NDArray[np.float32], mask: NDArray[np.bool_], cells: tuple[int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Masked means on a grid of so many cells over the whole array; each cell's known share."""
    matrices = [overlaps(n, 1.0, n / wanted) for n, wanted in zip(mask.shape, cells, strict=True)]
    known = np.where(mask, values, 0).astype(np.float32)
    return _masked_means(known, mask.astype(np.float32), matrices)


def _masked_means(
    value: NDArray[np.float32], weight: NDArray[np.float32], matrices: list[sparse.csr_array]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    share, means = _apply(weight, matrices), _apply(value, matrices)
    means /= np.maximum(share, np.float32(1e-6))
    return means, share


def grid_spacing(shape: tuple[int, ...], lengths: NDArray[np.float64]) -> float:
    """The grid step in mm for an array of this shape and these voxel lengths in mm."""
    for spacing in SPACINGS_MM:
        cells = np.ceil(np.array(shape) * lengths / spacing - 1e-6)
        if spacing >= lengths.min() - 1e-3 and np.prod(np.maximum(cells, 1)) <= MAX_VOXELS:
            return spacing
    longest = float(np.max(np.array(shape) * lengths))  # absurd geometry: still bounded
    return max(SPACINGS_MM[-1], longest / 90.0)


def _lengths(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) voxel edges in mm."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ValueError("the affine must be 4×4 and finite")
    lengths: NDArray[np.float64] = np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(affine[:3, :3])) < 1e-9 * np.prod(lengths) or not lengths.all():
        raise ValueError("the affine is singular: two axes point the same way")
    return lengths


def _average(
    volume: NDArray[np.float32],
    affine: NDArray[np.float64],
    valid: NDArray[np.bool_] | None,
    spacing: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Mean of each grid cell, its valid share (0…1), and the grid's affine.

    The grid starts at the first voxel's outer corner; voxels are weighted by overlap.
    """
    lengths = _lengths(affine)
    matrices = [
        overlaps(count, length, spacing)
        for count, length in zip(volume.shape, lengths, strict=True)
    ]
    if valid is None:
        values = _apply(volume, matrices)
        weights = np.ones(values.shape, dtype=np.float32)
    else:
        weights = _apply(valid.astype(np.float32), matrices)
        values = _apply(np.where(valid, volume, np.float32(0)), matrices)
        values /= np.maximum(weights, np.float32(1e-6))
    grid = affine.copy()
    grid[:3, :3] = affine[:3, :3] / lengths * spacing
    first_centre = (spacing / lengths - 1.0) / 2.0  # in voxels, from the first voxel's centre
    grid[:3, 3] = affine[:3, :3] @ first_centre + affine[:3, 3]
    return values, weights, grid


def overlaps(count: int, length: float, spacing: float) -> sparse.csr_array:
    """(cells, count): averages ``count`` voxels of ``length`` to cells of ``spacing``.

    The share of each cell that each voxel fills; rows sum to 1.
    """
    cells = max(1, int(np.ceil(count * length / spacing - 1e-6)))
    start = np.arange(cells)[:, None] * spacing
    voxel = np.arange(count)[None, :] * length
    overlap = np.minimum(start + spacing, voxel + length) - np.maximum(start, voxel)
    overlap = np.maximum(overlap, 0.0)
    return sparse.csr_array((overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32))


def _apply(volume: NDArray[np.float32], matrices: list[sparse.csr_array]) -> NDArray[np.float32]:
    """Contract each axis with its (cells, count) matrix, plane by plane, slices last.

    Sparse, because a cell spans few voxels; and a dense product would wake one BLAS thread per
    core, which on a busy machine took ten times as long. Slices last, because temporaries of the
    whole volume cost more in fresh memory than the arithmetic.
    """
    slices, rows, columns = matrices
    small = np.empty((len(volume), rows.shape[0], columns.shape[0]), np.float32)
    for index, plane in enumerate(volume):
        narrowed = rows @ np.ascontiguousarray(plane, dtype=np.float32)
        small[index] = (columns @ np.ascontiguousarray(narrowed.T)).T
    result: NDArray[np.float32] = slices @ small.reshape(len(small), -1)
    return result.reshape(-1, *small.shape[1:])


def _canonical(
    values: NDArray[np.float32],
    weights: NDArray[np.float32],
    affine: NDArray[np.float64],
    order: list[int],
    flips: list[bool],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Axes permuted and flipped as :func:`closest_axes` says, the affine with them."""
    turned = np.eye(4)
    turned[:, :3] = affine[:, order]
    turned[:, 3] = affine[:, 3]
    arrays = [values.transpose(order), weights.transpose(order)]
    for axis, flip in enumerate(flips):
        if flip:
            turned[:3, 3] += turned[:3, axis] * (arrays[0].shape[axis] - 1)
            turned[:3, axis] *= -1
            arrays = [np.flip(array, axis) for array in arrays]
    return np.ascontiguousarray(arrays[0]), np.ascontiguousarray(arrays[1]), turned


def closest_axes(affine: NDArray[np.float64]) -> tuple[list[int], list[bool]]:
    """Which array axis goes where: (order, flips) so that the axes run nearest +S, +P, +L.

    Of the six permutations the one with the largest sum of |cosines|: an oblique volume still gets
    three different axes.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    wanted = directions[[2, 1, 0]]  # rows: S, P, L (LPS coordinates are L, P, S)
    permutations = ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
    order = max(
        permutations, key=lambda p: float(sum(abs(wanted[row, p[row]]) for row in range(3)))
    )
    return order, [bool(wanted[row, order[row]] < 0) for row in range(3)]
