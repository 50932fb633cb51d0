"""Evidence as it is stored beside a verdict, and back: enough to judge again without pixels.

Written and read here and nowhere else, so that what is judged again is what was judged: the
evidence that :func:`rebuilt` gives is the one that :func:`written` was given, and under the same
policy it has the same judgement. ``version`` says how a row was written:

1. (no ``version``) distances rounded to six decimals; nothing was aligned.
2. distances in full; ``flags``, and the ``checks`` of the candidates that were aligned.
3. the nearest ``layouts``, and ``groups``: which of the cases were copies of which; the ``noise``
   of a check is a share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from diptych.errors import DiptychError
from diptych.judge import ladder
from diptych.judge.check import Band, Check, Impossible, Interval
from diptych.judge.ladder import Evidence, Flag, Judgement, LayoutHit, SliceHit
from diptych.judge.policy import Policy

VERSION = 3
READABLE = (1, 2, 3)


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
        "layouts": [[hit.case, hit.distance] for hit in evidence.layouts],
        "groups": sorted(evidence.groups.items()),
        "digest_match": evidence.digest_match,
        "same_study": sorted(evidence.same_study),
        "flags": sorted(evidence.flags),
        "checks": [asdict(check) for check in evidence.checks],
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
            layouts=[LayoutHit(*hit) for hit in said["layouts"]] if version > 2 else (),
            groups=dict(said["groups"]) if version > 2 else ladder.NO_GROUPS,
            digest_match=said["digest_match"],
            same_study=said["same_study"],
            flags=[Flag(flag) for flag in said["flags"]] if version > 1 else (),
            checks=[_check(each, version) for each in said["checks"]] if version > 1 else (),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableEvidence(f"evidence of version {version} is damaged: {error}") from error


def renumbered(said: Mapping[str, Any], number: Callable[[int], int | None]) -> dict[str, Any]:
    """What :func:`written` gave, with cases by the numbers of another archive; what that does not
    hold was no hit."""
    called: dict[int | None, int | None] = {}

    def of(case: int | None) -> int | None:
        if case not in called:
            called[case] = None if case is None else number(case)
        return called[case]

    cases = [of(case) for case in said["cases"]]
    groups = [(of(case), of(other)) for case, other in said["groups"]]
    return {
        **said,
        "cases": cases,
        "distances": [
            None if case is None else distance
            for case, distance in zip(cases, said["distances"], strict=True)
        ],
        "layouts": [[of(case), far] for case, far in said["layouts"] if of(case) is not None],
        "groups": sorted(pair for pair in groups if None not in pair),
        "digest_match": of(said["digest_match"]),
        "same_study": sorted(c for case in said["same_study"] if (c := of(case)) is not None),
        "checks": [
            {**check, "case": of(check["case"])}
            for check in said["checks"]
            if of(check["case"]) is not None
        ],
    }


def _check(said: Mapping[str, Any], version: int) -> Check:
    values = dict(said)
    if version < 3:
        values["noise"] = 0.0  # it was a standard deviation
    impossible, ours, theirs = (values.pop(name) for name in ("impossible", "ours", "theirs"))
    shift, overlap = (
        tuple(float(value) for value in values.pop(name)) for name in ("shift_mm", "overlap")
    )
    return Check(
        impossible=None if impossible is None else Impossible(impossible),
        ours=None if ours is None else Interval(**ours),
        theirs=None if theirs is None else Interval(**theirs),
        shift_mm=(shift[0], shift[1], shift[2]),
        overlap=(overlap[0], overlap[1]),
        bands=tuple(Band(**band) for band in values.pop("bands")),
        **values,
    )
