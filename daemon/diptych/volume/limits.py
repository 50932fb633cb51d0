"""How much one instance may ask for. Declared sizes are checked before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SAMPLES = 256 * 1024 * 1024
"""Samples (rows × columns × samples × frames) of one instance: 1,000 frames of 512², at two
bytes half a GiB; larger objects (whole slides, hour-long cine) are refused, not swapped."""

MAX_SIDE = 32768
"""Rows or Columns of one frame: above every detector and scanner; only garbage exceeds it."""

MAX_INFLATED_BYTES = 1024 * 1024 * 1024
"""Bytes a deflated data set may become: MAX_SAMPLES at four bytes each."""

MAX_PLANES = 128 * 1024
"""Planes of one 4D file: 1,200 volumes of 100 slices, the longest functional series in use."""

MAX_DIGESTED = 4 * 1024 * 1024 * 1024
"""Samples of one 4D file, whose volumes pass one by one; the time limit ends most before it."""

MEMORY_BYTES = 4 * 1024 * 1024 * 1024
"""Address space of one decoder child: twice the largest instance, plus libraries."""

SECONDS_PER_INSTANCE = 60.0
"""Wall-clock for one instance: the slowest honest one (JPEG 2000, 1,000 frames) needs about 20."""


@dataclass(frozen=True)
class Limits:
    """The limits a decoder child works under; sizes in samples and bytes."""

    max_samples: int = MAX_SAMPLES
    max_side: int = MAX_SIDE
    max_inflated_bytes: int = MAX_INFLATED_BYTES
    max_planes: int = MAX_PLANES
    max_digested: int = MAX_DIGESTED
