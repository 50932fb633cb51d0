"""Leave one case out: what would the ladder call this case if it and its kin were not there?

Any answer that names a copy is then a false alarm, or a real copy that nobody had found. The same
look-up as the daemon's (:func:`diptych.lookup.look_up`); clean from the stored vectors, and
transformed (Truong et al. 2023, section III-A) from pixels that are still kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diptych.audit import archive, models
from diptych.audit.population import Member
from diptych.calibration.strangers import Groups, Population, Without
from diptych.embed.session import Embedder
from diptych.evaluate.answers import DUPLICATE, SEVEN, Transform
from diptych.evaluate.protocol import digest_of
from diptych.evaluate.transforms import transformed
from diptych.judge import proxy
from diptych.judge.count import CaseId
from diptych.judge.ladder import Relation
from diptych.judge.policy import Policy
from diptych.lookup import Finding, Indexes, look_up
from diptych.ready import Ready, Stages, make_ready
from diptych.registry import volumes
from diptych.volume.value import Volume

COPIES = (Relation.EXACT, Relation.NEAR_DUPLICATE, Relation.PARTIAL)


@dataclass(frozen=True)
class Null:
    """One case against its strangers. alarm: the case it was called a copy of, and why; score:
    c(3) among the strangers, None without a stranger or an informative slice."""

    case_id: CaseId
    modality: str | None
    transform: Transform
    strangers: int
    alarm: CaseId | None
    relation: str
    detail: str
    score: float | None


@dataclass(frozen=True)
class Copy:
    """One transformed copy looked up in the whole archive: c(3), and whether it was found."""

    case_id: CaseId
    transform: Transform
    score: float
    found: bool


@dataclass
class Asked:
    """What one case gave. clean: as judged; doubted: where verdicts that rest on slices are not
    believed (None: there are none). gone: why it could not be transformed."""

    clean: Null
    doubted: Null | None = None
    transformed: list[Null] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    gone: str | None = None


class Nulls:
    """Asks one case after the other. believed: groups by every verdict; certain: by series, patient
    and equal pixels alone. read: the volume of a case; raises volumes.Lost."""

    def __init__(
        self,
        everything: Population,
        indexes: Indexes,
        embedder: Embedder,
        policy: Policy,
        believed: Groups,
        certain: Groups,
        read: Callable[[models.Wanted], dict[int, Volume]],
    ) -> None:
        self._all, self._indexes, self._embedder = everything, indexes, embedder
        self._policy, self._read = policy, read
        self._believed, self._certain = believed, certain

    def ask(self, member: Member, transforms: Sequence[Transform]) -> Asked:
        """Clean, and under each of these transforms while its pixels are there."""
        case = member.case_id
        group, certain = self._believed[case], self._certain[case]
        vectors, ready = self._all.vectors(case), self._stored(member)
        clean = self._null(member, DUPLICATE, ready, member.digest, vectors, group)
        asked = Asked(clean)
        if group != certain:
            asked.doubted = self._null(member, DUPLICATE, ready, member.digest, vectors, certain)
        if not transforms:
            return asked
        try:
            volume = self._volume(member)
        except volumes.Lost as error:
            asked.gone = str(error)
            return asked
        for transform, changed, digest in _copies(volume, member, transforms):
            made = make_ready(changed, self._embedder.model.input_size, Stages())
            found = self._embedder.embed(made.slices)
            if transform != DUPLICATE:
                asked.transformed.append(self._null(member, transform, made, digest, found, group))
            if transform in SEVEN:
                # As a new series of no known study: in its own it would be related at most.
                whole = self._look_up(made, digest, found, self._all.without(frozenset(), None))
                counts = whole.evidence.counts
                if counts is not None:
                    judgement = whole.judgement
                    right = judgement.relation in COPIES and judgement.matched_case in group
                    asked.copies.append(Copy(case, transform, counts.c3, right))
        return asked

    def _null(
        self,
        member: Member,
        transform: Transform,
        ready: Ready,
        digest: bytes | None,
        vectors: NDArray[np.float32],
        left_out: frozenset[CaseId],
    ) -> Null:
        known = self._all.without(left_out, member.study)
        found = self._look_up(ready, digest, vectors, known)
        strangers, counts = len(self._all.members) - len(left_out), found.evidence.counts
        judgement = found.judgement
        alarm = judgement.matched_case if judgement.relation in COPIES else None
        return Null(
            member.case_id,
            member.modality,
            transform,
            strangers,
            alarm,
            judgement.relation.value,
            judgement.reason,
            counts.c3 if counts is not None and strangers else None,
        )

    def _look_up(
        self, ready: Ready, digest: bytes | None, vectors: NDArray[np.float32], known: Without
    ) -> Finding:
        return look_up(
            ready, digest, lambda _: vectors, self._indexes, known, self._policy, Stages()
        )

    def _stored(self, member: Member) -> Ready:
        """A case without its pixels: what a look-up needs beside the vectors is its proxy."""
        with self._all.store.read() as connection:
            kept = archive.proxy(connection, member.case_id)
        nothing = np.zeros((0, 1, 1), np.float32)
        return Ready(nothing, np.zeros(0, np.bool_), (), (proxy.VERSION, kept or b""))

    def _volume(self, member: Member) -> Volume:
        with self._all.store.read() as connection:
            wanted = models.wanted(connection, member.revision_id, [member.case_id])
        found = self._read(wanted)
        if member.case_id not in found:
            raise volumes.Lost("no digest")
        return found[member.case_id]


def _copies(
    volume: Volume, member: Member, transforms: Sequence[Transform]
) -> Iterator[tuple[Transform, Volume, bytes | None]]:
    for transform in transforms:
        changed = transformed(volume, transform, str(member.case_id))
        yield transform, changed, digest_of(changed)
