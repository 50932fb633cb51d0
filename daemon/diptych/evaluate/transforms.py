"""The paper's transforms: what becomes of a volume on its way through somebody else's hands.

Truong et al. 2023, section III-A. Arrays are float32 (slice, row, column), scaled to [0, 1] by
minimum and maximum of the whole volume. What the paper leaves open is decided here: a crop takes
its share in total from each of the three axes; rotation is in plane, in pixels, and keeps the
array's size; a translation moves along rows and columns alike, by whole pixels, and leaves zeros
behind; blur is in 3D; JPEG has 8 bits; noise is not clipped.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diptych.embed.prepare import LARGEST_SPAN
from diptych.evaluate.answers import DUPLICATE, Transform
from diptych.volume.digest import plane_digest
from diptych.volume.orient import canonical_slices
from diptych.volume.value import Volume

Array = NDArray[np.float32]


def transformed(volume: Volume, transform: Transform, case: str) -> Volume:
    """The volume as a copy of it would arrive: oriented, changed, in the same place in space.

    A duplicate is the volume itself. Anything else has values of its own and so digests of its
    own. ``case`` and transform seed the noise: the same in every run.
    """
    if transform == DUPLICATE:
        return volume
    oriented = canonical_slices(volume)
    array = apply(unit(oriented.array), transform, f"{case} {transform.name} {transform.strength}")
    kept = _kept(oriented.array.shape, transform)
    affine = oriented.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [each.start for each in kept]
    return replace(
        oriented,
        array=array,
        valid=None,
        affine=affine,
        positions=oriented.positions[kept[0]],
        digests=tuple(plane_digest(plane, *plane.shape) for plane in array),
        constant=tuple(bool(plane.min() == plane.max()) for plane in array),
        gaps=(),
        completeness=1.0,
    )


def apply(volume: Array, transform: Transform, seed: str) -> Array:
    """One transform of a [0, 1] volume. ValueError: a transform the paper does not name."""
    strength = transform.strength
    if transform == DUPLICATE:
        return volume
    if strength is not None:
        match transform.name:
            case "crop":
                return crop(volume, strength)
            case "rotation":
                return rotate(volume, strength)
            case "translation":
                return translate(volume, strength)
            case "blur":
                return blur(volume, strength)
            case "jpeg":
                return jpeg(volume, round(strength))
            case "noise":
                return noise(volume, strength, np.random.default_rng(zlib.crc32(seed.encode())))
    raise ValueError(f"no such transform: {transform}")


def unit(volume: Array) -> Array:
    """Minimum to 0, maximum to 1; a volume of one value to 0."""
    low, high = float(volume.min()), float(volume.max())
    if not high > low:
        return np.zeros(volume.shape, np.float32)
    wide = volume.astype(np.float64) if high - low > LARGEST_SPAN else volume
    return np.asarray((wide - low) / (high - low), np.float32)


def crop(volume: Array, share: float) -> Array:
    """``share`` of every axis gone in total, half on either side to the voxel."""
    return np.ascontiguousarray(volume[_margins(volume.shape, share)])


def rotate(volume: Array, degrees: float) -> Array:
    """In the plane of rows and columns, linear, corners lost and filled with 0."""
    return np.asarray(
        ndimage.rotate(volume, degrees, axes=(1, 2), reshape=False, order=1), np.float32
    )


def translate(volume: Array, share: float) -> Array:
    """Down and to the right by ``share`` of each size, filled with 0."""
    moved = np.zeros_like(volume)
    down, right = (round(n * share) for n in volume.shape[1:])
    rows, columns = volume.shape[1:]
    moved[:, down:, right:] = volume[:, : rows - down, : columns - right]
    return moved


def blur(volume: Array, sigma: float) -> Array:
    """Gaussian of ``sigma`` voxels along all three axes, mirrored at the borders."""
    return np.asarray(ndimage.gaussian_filter(volume, sigma), np.float32)


def jpeg(volume: Array, quality: int) -> Array:
    """Each slice as an 8-bit JPEG of this quality and back."""
    planes = np.empty_like(volume)
    for index, plane in enumerate(volume):
        file = io.BytesIO()
        Image.fromarray(np.rint(plane * 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
        with Image.open(file) as image:
            planes[index] = np.asarray(image, np.float32) / 255
    return planes


def noise(volume: Array, deviation: float, random: np.random.Generator) -> Array:
    """Gaussian noise on every voxel; values leave [0, 1], and min-max brings them back later."""
    return volume + np.float32(deviation) * random.standard_normal(volume.shape, np.float32)


def _kept(shape: tuple[int, ...], transform: Transform) -> tuple[slice, ...]:
    """Which part of the array a transform leaves."""
    share = transform.strength if transform.name == "crop" else None
    return _margins(shape, share or 0.0)


def _margins(shape: tuple[int, ...], share: float) -> tuple[slice, ...]:
    gone = [round(n * share) for n in shape]
    return tuple(slice(g // 2, n - (g - g // 2)) for n, g in zip(shape, gone, strict=True))
