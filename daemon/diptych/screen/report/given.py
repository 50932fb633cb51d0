"""Where the pictures of a report come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.screen.findings import Ref


@dataclass(frozen=True)
class Pictures:
    """Where pixels come from. proxy_of: as ``judge.proxy.encode`` wrote it; vectors_of: float32
    (slice, dimension) of the informative slices, in order. None: not kept."""

    proxy_of: Callable[[Ref], bytes | None]
    vectors_of: Callable[[Ref], NDArray[np.float32] | None]
