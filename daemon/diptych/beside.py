"""What a case is to other archives than its own: a delivery to what is owned, and to test sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diptych.audit.store import Store
from diptych.audit.work import Work
from diptych.judge import replay
from diptych.judge.policy import Policy
from diptych.lookup import Indexes, look_up
from diptych.ready import Ready, Stages
from diptych.recorded import Recorded

# Ids of rows begin at 1: nothing in another archive is the series itself.
NO_SERIES = 0


@dataclass(frozen=True)
class Beside:
    """Another archive, of the same fingerprint, that every case is looked up in too."""

    name: str
    store: Store
    indexes: Indexes
    fingerprint_id: int


def looked_up(
    others: Sequence[Beside],
    work: Work,
    ready: Ready,
    digest: bytes | None,
    vectors: NDArray[np.float32],
    policy: Policy,
    stages: Stages,
) -> dict[str, object]:
    """A part of the case's evidence: under ``beside`` what it is to each of them.

    digest: as in ``look_up``. vectors: float32 (n, d), of the informative slices.
    """
    said: dict[str, object] = {}
    for other in others:
        known = Recorded(
            other.store,
            other.fingerprint_id,
            vectors.shape[1],
            replace(work, series_id=NO_SERIES),
        )
        found = look_up(ready, digest, lambda _: vectors, other.indexes, known, policy, stages)
        evidence, judgement = found.evidence, found.judgement
        match = evidence.digest_match
        said[other.name] = {
            "relation": judgement.relation,
            "flags": sorted(judgement.flags),
            "detail": judgement.reason,
            "matched_case": match if match is not None else judgement.matched_case,
            "c1": evidence.counts.c1 if evidence.counts else None,
            "c3": evidence.counts.c3 if evidence.counts else None,
            "search": found.how,
            "watermark": known.watermark,
            "evidence": replay.written(evidence, judgement),
        }
    return {"beside": said} if said else {}
