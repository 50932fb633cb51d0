"""The plane digest: what a 2D plane *is*, whatever it was wrapped in.

It lives here and not in ``judge``: the decoder child computes it beside the pixels, so that the
hashing is spread over processes, and ``volume`` may not import ``judge``.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import numpy.typing as npt

DIGEST_VERSION = 1
"""Stored beside every digest; raise it whenever a byte of the recipe below changes."""

DIGEST_BYTES = 32

_HEADER = struct.Struct("<16sHHIII")  # magic, version, value type, rows, columns, samples
_MAGIC = b"diptych.plane"
_INT32, _FLOAT32, _FLOAT64 = 1, 2, 3


def plane_digest(
    stored: npt.NDArray[np.generic], rows: int, columns: int, samples: int = 1
) -> bytes:
    """SHA-256 of one plane's *stored* values with a typed header; 32 bytes.

    ``stored`` has shape (rows, columns) or (rows, columns, samples) and holds the values before
    rescale, inversion and padding, overlay bits already cleared (PS3.5 §8.1.1). Integers of any
    width are sign-extended to int32 little endian (an unsigned 32-bit value keeps its bit
    pattern), so the width in which a decoder returned them does not matter. Float Pixel Data and
    Double Float Pixel Data (PS3.3 §C.7.6.24, §C.7.6.25) have their own value type in the header
    and are hashed as IEEE little endian bytes.

    Raises ``ValueError`` when the shape contradicts the header.
    """
    if stored.size != rows * columns * samples or stored.shape[:2] != (rows, columns):
        raise ValueError(f"plane of shape {stored.shape}, header says {rows}×{columns}×{samples}")
    if stored.dtype.kind in "iub":
        kind, values = _INT32, stored.astype("<i4", copy=False)
    elif stored.dtype == np.float32:
        kind, values = _FLOAT32, stored.astype("<f4", copy=False)
    elif stored.dtype == np.float64:
        kind, values = _FLOAT64, stored.astype("<f8", copy=False)
    else:
        raise ValueError(f"no digest is defined for values of type {stored.dtype}")
    digest = hashlib.sha256(_HEADER.pack(_MAGIC, DIGEST_VERSION, kind, rows, columns, samples))
    digest.update(np.ascontiguousarray(values).data)
    return digest.digest()
