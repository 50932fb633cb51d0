"""What one volume is to an archive, from its prepared slices to its verdict.

    embed → search → count c(1), c(3) → candidates → verify → verdict

``serve`` asks the archive in SQL (:mod:`diptych.recorded`), ``evaluate`` one in memory, and
``calibrate`` the one in SQL without some of its cases; the way is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diptych.embed.manifest import ModelEntry
from diptych.errors import StoreError
from diptych.judge import ladder, proxy
from diptych.judge.check import Check
from diptych.judge.count import CaseId
from diptych.judge.definition import BUNDLED
from diptych.judge.ladder import LayoutHit, SliceHit
from diptych.judge.layout import Layout, layout
from diptych.judge.policy import SURE, Policy
from diptych.judge.verify import verify
from diptych.log import get_logger
from diptych.ready import Ready, Stages
from diptych.search.archive import SearchIndex
from diptych.search.index import MISSING, Hits, How
from diptych.search.layouts import Layouts
from diptych.search.neighbours import nearest

log = get_logger(__name__)


class Archive(Protocol):
    """What a look-up asks of an archive. Whatever belongs to the series itself is not in it."""

    def earliest_with_digest(self, case_digest: bytes) -> CaseId | None:
        """The earliest case with this digest."""
        ...

    def vectors_of(self, case: CaseId) -> NDArray[np.float32] | None:
        """The vectors of its informative slices; None when it has none of this fingerprint."""
        ...

    def owners(self, keys: Sequence[int]) -> Mapping[int, CaseId]:
        """The earliest case that holds each of these nodes; without keys that are no hit."""
        ...

    def owners_of_layouts(self, keys: Sequence[int]) -> Mapping[int, CaseId]:
        """The case of each of these layouts; without keys that are no hit."""
        ...

    def representatives(self, cases: Iterable[CaseId]) -> Mapping[CaseId, CaseId]:
        """Those of the cases that are copies of an earlier one → which. One step: the copy of a
        copy is the copy's."""
        ...

    def same_study(self, cases: Iterable[CaseId]) -> list[CaseId]:
        """Those of the cases that belong to the study of the series."""
        ...

    def proxy_of(self, case: CaseId) -> bytes | None:
        """The verification proxy of its newest revision; None when it has none."""
        ...


@dataclass(frozen=True)
class Indexes:
    """Where candidates are searched: slices by their embedding, cases by their layout."""

    slices: SearchIndex
    layouts: Layouts


@dataclass(frozen=True)
class Finding:
    """What a look-up found. vectors: float32 (n, d), of the informative slices; reused: they are
    those of the case with the same digest. how: which index answered. neighbours: per informative
    slice the cases of its nearest vectors, the nearest first. layout: the volume's own."""

    vectors: NDArray[np.float32]
    reused: bool
    how: How
    neighbours: tuple[tuple[CaseId, ...], ...]
    layout: Layout | None
    evidence: ladder.Evidence
    judgement: ladder.Judgement


def shipped_policy(model: ModelEntry) -> Policy:
    """The policy that ships, with this model's measured distance."""
    return BUNDLED.under(model.d_max)


def look_up(
    ready: Ready,
    digest: bytes | None,
    embed: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    indexes: Indexes,
    known: Archive,
    policy: Policy,
    stages: Stages,
) -> Finding:
    """Digest → embed → search → count → verify → judge: what the volume is to the archive.

    digest: the case digest; None when constant planes make it no evidence. embed: informative
    slices → unit vectors; not asked after an exact hit. indexes: the archive's.
    """
    match = None if digest is None else known.earliest_with_digest(digest)
    vectors = None if match is None else known.vectors_of(match)
    reused = vectors is not None
    if vectors is None:
        with stages("embed"):
            vectors = embed(ready.slices)
    owners: dict[int, CaseId] = {}

    def excluded(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        # Asked while searching, so that a node that was forgotten or handed over meanwhile is
        # neither a hit nor a match of the series with itself.
        found = known.owners(keys.tolist())
        owners.update(found)
        return np.array([key not in found for key in keys.tolist()], np.bool_)

    with stages("search"):
        ours = read_proxy(ready.proxy[1])
        laid_out = None if ours is None else layout(ours)
        hits = nearest(indexes.slices, vectors, excluded)
        near: dict[CaseId, float] = {}
        if laid_out is not None and match is None:
            near = indexes.layouts.nearest(laid_out, known.owners_of_layouts)
    with stages("judge"):
        slice_hits = _slice_hits(hits, owners)
        seen = {*owners.values(), *near}
        groups = known.representatives(sorted(seen))
        evidence = ladder.gather(
            slice_hits,
            policy,
            layouts=[LayoutHit(case, distance) for case, distance in near.items()],
            groups=groups,
            digest_match=match,
            same_study=known.same_study(sorted(seen | set(groups.values()))),
        )
    with stages("verify"):
        evidence = replace(
            evidence,
            checks=verified(
                evidence, policy, lambda case: verify(case, ours, read_proxy(known.proxy_of(case)))
            ),
        )
    judgement = ladder.judge(evidence, policy)
    return Finding(
        vectors, reused, hits.how, _neighbours(hits, owners), laid_out, evidence, judgement
    )


def verified(
    evidence: ladder.Evidence, policy: Policy, check: Callable[[CaseId], Check]
) -> tuple[Check, ...]:
    """The candidates aligned in 3D by ``check``, until one is beyond doubt."""
    checks: list[Check] = []
    for wanted in ladder.to_verify(evidence, policy):
        for case in wanted:
            checks.append(check(case))
            if ladder.confirms(checks[-1], policy):
                break
        if checks[-1].correlation >= SURE and ladder.confirms(checks[-1], policy):
            break
    return tuple(checks)


def read_proxy(content: bytes | None) -> proxy.Proxy | None:
    """None too for one that another version wrote: then nothing can be verified with it."""
    try:
        return proxy.decode(content) if content else None
    except StoreError as error:
        log.warning("proxy-unreadable", error=str(error))
        return None


def _slice_hits(hits: Hits, owners: Mapping[int, CaseId]) -> list[SliceHit]:
    """Nearest nodes → the cases that own them (equation (1)'s N[q_m])."""
    return [
        SliceHit(None, float("inf"))
        if key == MISSING
        else SliceHit(owners[int(key)], float(distance))
        for key, distance in zip(hits.keys[:, 0], hits.distances[:, 0], strict=True)
    ]


def _neighbours(hits: Hits, owners: Mapping[int, CaseId]) -> tuple[tuple[CaseId, ...], ...]:
    return tuple(
        tuple(dict.fromkeys(owners[key] for key in row if key != MISSING))
        for row in hits.keys.tolist()
    )
