"""The numbers a verdict depends on, frozen, named and written into the audit."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from hashlib import sha256

PAPER_THRESHOLD = 0.7711
"""t_opt of the paper (Algorithm 1, top-3, HNSW, DINOv1). c(3) must be *above* it."""

BLURRED = 8.0
NOISY = 0.5
SURE = 0.98
"""A candidate so well confirmed ends the search for others; no policy may ask for more."""


@dataclass(frozen=True)
class Policy:
    """What separates the relations of :mod:`diptych.judge.ladder`.

    ValueError when a number is impossible. Fractions are of informative slices.
    """

    name: str
    version: int
    d_max: float
    """Euclidean distance of unit vectors, (0, 2]: a slice further from its neighbour is no
    evidence. From the model's manifest: the 0.1 % quantile of stranger nearest-neighbour
    distances, so one slice in a thousand of a stranger's lies below it."""
    threshold: float = PAPER_THRESHOLD
    min_coverage: float = 0.5
    """Slices that must hit the top case within d_max before anything is a near-duplicate."""
    min_related: float = 0.25
    """The same for ``related``. A stranger's slices lie within d_max once in a thousand, so a
    quarter of them on *one* case is resemblance, though not enough to call it a copy."""
    max_layout: float = 1.0
    """Euclidean distance of coarse layouts beyond which a case is no candidate: a correlation of
    one half."""
    most_verified: int = 4
    """Candidates that are aligned in 3D, those with most evidence first."""
    min_correlation: float = 0.95
    """Corrected correlation of :class:`diptych.judge.check.Check` that confirms a candidate when
    neither side is blurred or noisy. Two contrasts of one head in one place reach 0.944."""
    min_correlation_noisy: float = 0.92
    """The same when :data:`NOISY` of the compared power is noise or more: the correlation is then
    known less well, of copies and of strangers. In between, in between."""
    min_correlation_blurred: float = 0.97
    """The same when one side is blurred by :data:`BLURRED` voxels of the compared grid or more:
    what is left then is what people have in common. In between, in between."""
    max_error: float = 0.105
    """Standard error of the corrected correlation beyond which nothing is known: where one side is
    nearly all noise, little divided by little can be anything."""
    min_overlap: float = 0.15
    """Of the foreground of whichever side has less of it in common."""
    whole: float = 0.8
    """Slices of either side with a counterpart in the other, below which a copy is ``partial``."""

    def __post_init__(self) -> None:
        if not self.name or self.version < 1:
            raise ValueError(
                f"a policy needs a name and a version, not {self.name!r} {self.version}"
            )
        if not (math.isfinite(self.d_max) and 0.0 < self.d_max <= 2.0):
            raise ValueError(f"d_max must be in (0, 2], not {self.d_max}")
        if not 0.0 <= self.threshold < 1.0:
            raise ValueError(f"threshold must be in [0, 1), not {self.threshold}")
        if not 0.0 < self.min_related <= self.min_coverage <= 1.0:
            raise ValueError(
                "0 < min_related <= min_coverage <= 1 does not hold for "
                f"{self.min_related} and {self.min_coverage}"
            )
        asked = self.min_correlation_noisy, self.min_correlation, self.min_correlation_blurred
        if not 0.0 < asked[0] <= asked[1] <= asked[2] <= SURE:
            raise ValueError(
                "0 < min_correlation_noisy <= min_correlation <= min_correlation_blurred <= "
                f"{SURE} does not hold for {', '.join(map(str, asked))}"
            )
        if not (math.isfinite(self.max_layout) and 0.0 <= self.max_layout <= 2.0):
            raise ValueError(f"max_layout must be in [0, 2], not {self.max_layout}")
        if not 0.0 < self.max_error <= 1.0:
            raise ValueError(f"max_error must be in (0, 1], not {self.max_error}")
        if not (0.0 < self.min_overlap < 1.0 and 0.0 < self.whole <= 1.0):
            raise ValueError(
                "min_overlap and whole must be shares above 0, not "
                f"{self.min_overlap} and {self.whole}"
            )
        if self.most_verified < 0:
            raise ValueError(f"most_verified must not be negative: {self.most_verified}")

    @property
    def label(self) -> str:
        """What a verdict names: name, version and the beginning of the hash of the numbers."""
        return f"{self.name}/{self.version}+{self.sha256()[:12]}"

    def canonical_json(self) -> str:
        """The same text for the same policy, whatever wrote it: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def sha256(self) -> str:
        """Hex digest of the canonical JSON."""
        return sha256(self.canonical_json().encode()).hexdigest()
