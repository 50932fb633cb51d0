"""One query, asked of the ladder: once as it is, or once per variant of the ablation."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diptych.evaluate.ablation import VARIANTS, Alignments, ablated, margin, mistaken
from diptych.evaluate.populate import Archive
from diptych.evaluate.product_results import FOUND
from diptych.judge.ladder import Judgement
from diptych.judge.policy import Policy
from diptych.lookup import Finding, read_proxy
from diptych.ready import Ready


@dataclass(frozen=True, eq=False)
class Query:
    """One volume made ready: prepared float32 (n, size, size), every slice; ready and digest: for
    the ladder. seconds: what making it ready took, the transform not counted."""

    prepared: NDArray[np.float32]
    ready: Ready | None
    digest: bytes | None
    seconds: float


def judged(
    archive: Archive, query: Query, vectors: NDArray[np.float32], embedding: float
) -> tuple[str, int | None, float]:
    """(relation, place of the matched case in the archive, seconds) of the ladder."""
    found, seconds = _found(archive, query, vectors, embedding, archive.product.policy)
    return (*_said(archive, found.judgement), round(seconds, 5))


def _found(
    archive: Archive,
    query: Query,
    vectors: NDArray[np.float32],
    embedding: float,
    policy: Policy,
) -> tuple[Finding, float]:
    """What a look-up finds, and the seconds from the volume to there.

    The vectors are those of paper mode, of which the ladder takes the informative ones, so it is
    charged their share of the embedding.
    """
    ready = query.ready
    assert ready is not None
    began = time.perf_counter()
    found = archive.product.judge(ready, query.digest, lambda: vectors[ready.kept], policy)
    seconds = query.seconds + time.perf_counter() - began
    if not found.reused:
        seconds += embedding * float(ready.kept.mean())
    return found, seconds


def _said(archive: Archive, judgement: Judgement) -> tuple[str, int | None]:
    """(relation, place of the matched case in the archive)."""
    matched = judgement.matched_case
    return judgement.relation.value, None if matched is None else archive.places[matched]


def by_variant(
    archive: Archive,
    query: Query,
    vectors: NDArray[np.float32],
    embedding: float,
    place: int | None,
) -> tuple[float, list[list[object]], list[object] | None]:
    """(seconds up to the candidates; per variant relation, place of the matched case and seconds of
    alignment; where the complete ladder is wrong, what a :class:`Mistake` says of it)."""
    policy = archive.product.policy
    unverified = replace(policy, most_verified=0)
    found, seconds = _found(archive, query, vectors, embedding, unverified)
    assert query.ready is not None
    ours = read_proxy(query.ready.proxy[1])
    alignments = Alignments(lambda case: archive.product.align(case, ours))
    each = [ablated(variant, found.evidence, policy, alignments) for variant in VARIANTS]
    said: list[list[object]] = [
        [*_said(archive, one.judgement), round(one.seconds, 5)] for one in each
    ]
    complete = each[0]
    wrong: list[object] | None = None
    true = next((case for case, where in archive.places.items() if where == place), None)
    if mistaken(complete.judgement, true):
        called = complete.judgement.relation in FOUND
        against = complete.judgement.matched_case if called else true
        assert against is not None
        tried = any(check.case == against for check in complete.checks)
        above = margin(alignments(against), found.evidence, policy)
        wrong = [archive.places[against], round(above, 4), tried]
    return round(seconds, 5), said, wrong
