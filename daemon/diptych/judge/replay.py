"""Evidence as it is stored beside a verdict, and back: enough to judge again without pixels.

Written and read here and nowhere else, so that what is judged again is what was judged: the
evidence that :func:`rebuilt` gives is the one that :func:`written` was given, and under the same
policy it has the same judgement. ``version`` says how a row was written:

1. (no ``version``) distances rounded to six decimals; what the verify step answered is that of the
   verdict, not of the evidence.
2. distances in full; ``flags`` and ``verification`` of the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from diptych.errors import DiptychError
from diptych.judge import ladder
from diptych.judge.ladder import Evidence, Flag, Judgement, SliceHit, Verification, Verified
from diptych.judge.policy import Policy

VERSION = 2
READABLE = (1, 2)


class UnreadableEvidence(DiptychError):
    """Stored evidence of a version that is not known, or not as any version wrote it."""


def written(evidence: Evidence, judgement: Judgement) -> dict[str, object]:
    """What can be said in JSON. verified, verified_reason: of the verdict, for its readers."""
    return {
        "version": VERSION,
        "cases": [hit.case for hit in evidence.slices],
        "distances": [
            hit.distance if math.isfinite(hit.distance) else None for hit in evidence.slices
        ],
        "digest_match": evidence.digest_match,
        "same_study": sorted(evidence.same_study),
        "flags": sorted(evidence.flags),
        "verification": _said(evidence.verification),
        "verified": judgement.verification.verified,
        "verified_reason": judgement.verification.reason,
    }


def rebuilt(said: Mapping[str, Any], policy: Policy) -> Evidence:
    """The evidence, counted under ``policy``. Raises UnreadableEvidence."""
    version = said.get("version", 1)
    if version not in READABLE:
        raise UnreadableEvidence(
            f"evidence of version {version!r}: this Diptych reads {READABLE[0]} to {READABLE[-1]}"
        )
    try:
        cases, distances = said["cases"], said["distances"]
        return ladder.gather(
            [
                SliceHit(case, math.inf if distance is None else float(distance))
                for case, distance in zip(cases, distances, strict=True)
            ],
            policy,
            digest_match=said["digest_match"],
            same_study=said["same_study"],
            flags=[Flag(flag) for flag in said["flags"]] if version > 1 else (),
            verification=_verification(said["verification"]) if version > 1 else _first(said),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableEvidence(f"evidence of version {version} is damaged: {error}") from error


def _said(verification: Verification) -> dict[str, str]:
    return {"verified": verification.verified, "reason": verification.reason}


def _verification(said: Mapping[str, Any]) -> Verification:
    return Verification(Verified(said["verified"]), str(said["reason"]))


def _first(said: Mapping[str, Any]) -> Verification:
    """Version 1 had the verdict's: these two come from the ladder, not from the evidence."""
    verification = Verification(Verified(said["verified"]), str(said["verified_reason"]))
    from_ladder = verification in (ladder.BY_DIGEST, ladder.NO_CANDIDATE)
    return ladder.NOT_YET if from_ladder else verification
