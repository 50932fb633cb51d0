"""A baseline without any learning: each slice as a 16 × 16 thumbnail.

What a model must beat: a picture this small already finds duplicates, JPEG, mild noise and blur,
and loses shifts, rotations and larger crops.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from diptych.embed.prepare import PREPARATION_VERSION

SIDE = 16


class Thumbnail:
    """Embeds like a model: mean-subtracted pixels of a slice, at unit length.

    Slices come prepared at ``input_size``. A slice of one value has no direction of its own; it
    gets the one that no other slice can have, all components equal.
    """

    name = "thumbnail-16"
    input_size = SIDE
    dimension = SIDE * SIDE
    fingerprint = hashlib.sha256(f"{name}\n{PREPARATION_VERSION}".encode()).hexdigest()

    def embed(self, prepared: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (n, 256) of prepared slices (n, 16, 16); ValueError for another shape."""
        if prepared.ndim != 3 or prepared.shape[1:] != (SIDE, SIDE):
            raise ValueError(f"prepared slices are (n, {SIDE}, {SIDE}), found {prepared.shape}")
        flat = prepared.reshape(len(prepared), self.dimension).astype(np.float64)
        flat -= flat.mean(axis=1, keepdims=True)
        lengths = np.linalg.norm(flat, axis=1, keepdims=True)
        blank = lengths < 1e-6
        unit = np.where(blank, 1.0 / SIDE, flat / np.where(blank, 1.0, lengths))
        return unit.astype(np.float32)
