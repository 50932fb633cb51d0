"""The one path, from a sealed series to its verdict, readable from top to bottom.

    decode → assemble volumes → digest (exact tier) → prepare slices → embed → search
      → count c(1), c(3) → candidates → verify → verdict → record → index

``serve`` runs it; ``screen`` and ``evaluate`` will run the same. Judging is serial per archive
(search → verdict → commit → add): otherwise two simultaneous copies would both be unique.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diptych import faults
from diptych.audit import archive, chain, collisions, verdicts
from diptych.audit.store import Store
from diptych.audit.work import InstanceRow, Work
from diptych.embed.mask import informative
from diptych.embed.prepare import digest_slices, prepare
from diptych.embed.session import Embedder
from diptych.errors import NotScreenable, Reason
from diptych.judge import ladder, proxy
from diptych.judge.digest import DIGEST_VERSION, case_digest
from diptych.judge.ladder import Flag, Relation, SliceHit
from diptych.judge.policy import Policy
from diptych.search.archive import SearchIndex
from diptych.search.index import MISSING, Hits
from diptych.search.neighbours import nearest
from diptych.volume.assemble import assemble
from diptych.volume.decoders import DecoderPool
from diptych.volume.orient import canonical_slices
from diptych.volume.plan import Stack, plan
from diptych.volume.plane import Instance, Refusal

log = logging.getLogger(__name__)

COUNT_MODE = "informative"


@dataclass(frozen=True)
class Decoded:
    """The instances of a revision: the images among them, and what became of each."""

    images: tuple[Instance, ...]
    outcomes: tuple[verdicts.InstanceOutcome, ...]
    reasons: tuple[Reason, ...]
    modality: str | None
    # Judged slices are gone, purged perhaps: what is left is a fragment of what was judged.
    fragment: bool


@dataclass(frozen=True)
class Prepared:
    """A stack made ready: ``slices`` float32 (n, size, size), informative slices only."""

    stack: Stack
    total: int
    slices: NDArray[np.float32]
    slice_digests: tuple[bytes, ...]
    digests: verdicts.Digests
    proxy: tuple[int, bytes]
    inferred: bool


class Stages:
    """Seconds spent per stage; stages of several stacks add up."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started


class Pipeline:
    """The path with its tools. One thread calls ``judge``."""

    def __init__(
        self,
        store: Store,
        decoders: DecoderPool,
        embedder: Embedder,
        index: SearchIndex,
        fingerprint_id: int,
        policy: Policy,
        path_of: Callable[[str], Path],
        head_file: Path,
    ) -> None:
        self._store, self._decoders, self._embedder = store, decoders, embedder
        self.index, self._fingerprint_id = index, fingerprint_id
        self._policy, self._path_of, self._head_file = policy, path_of, head_file
        with store.read() as connection:
            self._hmac_key = archive.hmac_key(connection)

    def judge(self, work: Work) -> Sequence[verdicts.CaseVerdict]:
        """Judge one revision and record everything it leaves, exactly once.

        Raises StoreError when the database is away: the claim then lapses and work resumes.
        """
        faults.point("judge.begin")
        started, stages = time.perf_counter(), Stages()
        with stages("decode"):
            decoded = self._decode(work)
        cases = self._judge_stacks(work, decoded, stages)
        collided = self._collisions(work, decoded)
        if not cases:
            cases = [_without_a_stack(decoded)]
        cases = _name_principal(_flag(cases, decoded, bool(collided)))
        parts = Counter(part for differing in collided.values() for part in differing)
        self._record(
            verdicts.Judged(
                work,
                cases,
                decoded.outcomes,
                time.perf_counter() - started,
                dict(stages.seconds),
                dict(parts),
            )
        )
        return cases

    def give_up(self, work: Work, detail: str) -> None:
        """The verdict on a revision that nobody could judge: not-screenable, internal-error."""
        case = verdicts.CaseVerdict(
            signature=None,
            principal=True,
            relation=Relation.NOT_SCREENABLE,
            reason=Reason.INTERNAL,
            detail=detail,
        )
        outcomes = [
            verdicts.InstanceOutcome(row.instance_id, Reason.INTERNAL)
            for row in work.instances
            if not row.judged_before
        ]
        self._record(verdicts.Judged(work, [case], outcomes, 0.0, {}))

    def _decode(self, work: Work) -> Decoded:
        """Every instance becomes planes, not-an-image, or a reason."""
        rows, paths, results = [], [], []
        lost: list[InstanceRow] = []
        for row in work.instances:
            path = self._path_of(row.locator)
            if row.purged or not path.exists():
                lost.append(row)
            else:
                rows.append(row)
                paths.append(path)
        results = list(self._decoders.decode(paths))
        images: list[Instance] = []
        outcomes = [verdicts.InstanceOutcome(r.instance_id, Reason.SPOOL_FILE_LOST) for r in lost]
        reasons = [Reason.SPOOL_FILE_LOST for _ in lost]
        modalities: Counter[str] = Counter()
        for row, result in zip(rows, results, strict=True):
            if result.header is not None and result.header.Modality:
                modalities[result.header.Modality] += 1
            if isinstance(result, Refusal):
                reasons.append(result.reason)
                outcomes.append(verdicts.InstanceOutcome(row.instance_id, result.reason))
                continue
            images.append(result)
            header = result.header
            outcomes.append(
                verdicts.InstanceOutcome(
                    row.instance_id,
                    "image",
                    case_digest(plane.digest for plane in result.planes),
                    header.identity_hash,
                    header.private_hash,
                    header.rest_hash,
                )
            )
        modality = modalities.most_common(1)[0][0] if modalities else None
        fragment = any(row.judged_before for row in lost)
        return Decoded(tuple(images), tuple(outcomes), tuple(reasons), modality, fragment)

    def _judge_stacks(
        self, work: Work, decoded: Decoded, stages: Stages
    ) -> list[verdicts.CaseVerdict]:
        if not decoded.images or decoded.fragment:
            # The whole that was judged stays the archive's: its digest, its vectors, its proxy.
            return []
        cases = []
        for stack in plan(decoded.images).stacks:
            try:
                cases.append(self._judge_stack(work, decoded, stack, stages))
            except NotScreenable as error:
                cases.append(
                    verdicts.CaseVerdict(
                        signature=stack.signature,
                        principal=False,
                        relation=Relation.NOT_SCREENABLE,
                        modality=stack.Modality or decoded.modality,
                        slices=len(stack.slices),
                        reason=error.reason,
                        detail=error.detail,
                        digests=self._digests(stack),
                    )
                )
        return cases

    def _judge_stack(
        self, work: Work, decoded: Decoded, stack: Stack, stages: Stages
    ) -> verdicts.CaseVerdict:
        digests = self._digests(stack)
        prepared = self._prepare(stack, digests, stages)
        with self._store.read() as connection:
            # Constant planes are no evidence: two blank series are not copies of each other.
            match = (
                None
                if all(digests.constant)
                else archive.earliest_with_digest(
                    connection, digests.case_digest, DIGEST_VERSION, work.series_id
                )
            )
            reused = (
                archive.slice_keys(connection, self._fingerprint_id, match.case_id) if match else []
            )
            watermark = archive.next_key(connection, self._fingerprint_id) - 1
            if reused:
                vectors = archive.vectors(
                    connection, self._fingerprint_id, reused, self._embedder.dimension
                )
                nodes = verdicts.Nodes(reused=reused)
        if not reused:
            with stages("embed"):
                vectors = self._embedder.embed(prepared.slices)
            nodes = verdicts.Nodes(digests=prepared.slice_digests, vectors=vectors)
        with stages("search"):
            hits, by_key = self._search(vectors, work.series_id)
            slices = _slice_hits(hits, by_key)
            owners = {owner.case_id: owner for owner in by_key.values()}
        with stages("judge"):
            evidence = ladder.gather(
                slices,
                self._policy,
                digest_match=match.case_id if match else None,
                same_study=[
                    owner.case_id
                    for owner in owners.values()
                    if owner.study_instance_uid == work.study_instance_uid
                ],
            )
            judgement = ladder.judge(evidence, self._policy)
        matched = match if match else owners.get(judgement.matched_case or -1)
        flags = set(judgement.flags)
        if matched is not None and judgement.relation != Relation.UNIQUE:
            flags |= {Flag.CROSS_SOURCE} if matched.source != work.source else set()
        if prepared.inferred:
            flags.add(Flag.GEOMETRY_INFERRED)
        counts = evidence.counts
        return verdicts.CaseVerdict(
            signature=stack.signature,
            principal=False,
            relation=judgement.relation,
            modality=stack.Modality or decoded.modality,
            slices=prepared.total,
            informative_slices=len(slices),
            c1=counts.c1 if counts else None,
            c3=counts.c3 if counts else None,
            count_mode=COUNT_MODE,
            threshold=self._policy.threshold,
            flags=tuple(sorted(flags)),
            matched=matched,
            search=hits.how,
            reason=Reason.NO_INFORMATIVE_SLICE
            if judgement.relation == Relation.NOT_SCREENABLE
            else None,
            detail=judgement.reason,
            model=self._embedder.model.name,
            fingerprint=self._embedder.fingerprint,
            policy=self._policy.label,
            watermark=watermark,
            digests=prepared.digests,
            proxy=prepared.proxy,
            nodes=nodes,
            candidates=_candidates(evidence),
            evidence=_evidence(evidence, judgement),
        )

    def _prepare(self, stack: Stack, digests: verdicts.Digests, stages: Stages) -> Prepared:
        with stages("assemble"):
            volume = assemble(stack)
            oriented = canonical_slices(volume)
            packed = proxy.encode(
                volume.array, volume.affine, valid=volume.valid, geometry=volume.geometry
            )
        with stages("prepare"):
            slices = prepare(oriented.array, self._embedder.model.input_size, oriented.valid)
            slices = slices[informative(slices)]
            slice_digests = tuple(digest_slices(slices))
        return Prepared(
            stack,
            len(volume.array),
            slices,
            slice_digests,
            digests,
            (proxy.VERSION, packed),
            volume.geometry == "inferred",
        )

    def _digests(self, stack: Stack) -> verdicts.Digests:
        planes, header = stack.planes, stack.header
        patient = None
        if header.PatientID:
            identity = f"{header.PatientID}\n{header.PatientBirthDate}".encode()
            patient = hmac.new(self._hmac_key, identity, hashlib.sha256).digest()
        return verdicts.Digests(
            DIGEST_VERSION,
            case_digest(plane.digest for plane in planes),
            [plane.digest for plane in planes],
            [plane.constant for plane in planes],
            patient,
        )

    def _search(
        self, vectors: NDArray[np.float32], series_id: int
    ) -> tuple[Hits, dict[int, archive.Owner]]:
        """The nearest nodes of other series, and who owns them.

        Asked while searching, so that a node that was forgotten or handed over meanwhile is
        neither a hit nor a match of the series with itself.
        """
        owners: dict[int, archive.Owner] = {}

        def excluded(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
            with self._store.read() as connection:
                found = archive.owners(connection, self._fingerprint_id, keys.tolist())
            owners.update(found)
            return np.array(
                [key not in found or found[key].series_id == series_id for key in keys.tolist()],
                np.bool_,
            )

        return nearest(self.index, vectors, excluded), owners

    def _collisions(self, work: Work, decoded: Decoded) -> dict[int, set[str]]:
        outcomes = {outcome.instance_id: outcome for outcome in decoded.outcomes}
        new = {
            row.instance_id: (row.sop_instance_uid, outcomes[row.instance_id])
            for row in work.instances
            if not row.judged_before
        }
        with self._store.read() as connection:
            return collisions.parts(connection, new)

    def _record(self, judged: verdicts.Judged) -> None:
        """One transaction, then the index: a crash in between is replayed from SQL at the start."""
        keys, vectors, head = verdicts.record(self._store, judged, self._fingerprint_id)
        faults.point("judge.after-commit")
        if len(keys):
            self.index.add(keys, vectors)
        chain.write_head(self._head_file, *head)


def _slice_hits(hits: Hits, owners: dict[int, archive.Owner]) -> list[SliceHit]:
    """Nearest nodes → the cases that own them (equation (1)'s N[q_m])."""
    return [
        SliceHit(None, float("inf"))
        if key == MISSING
        else SliceHit(owners[int(key)].case_id, float(distance))
        for key, distance in zip(hits.keys[:, 0], hits.distances[:, 0], strict=True)
    ]


def _candidates(evidence: ladder.Evidence) -> list[verdicts.Candidate]:
    found = [
        verdicts.Candidate(c.case, c.hits, c.within, c.case == evidence.digest_match)
        for c in evidence.candidates
    ]
    if evidence.digest_match is not None and not any(c.exact for c in found):
        found.append(verdicts.Candidate(evidence.digest_match, 0, 0, True))
    return found


def _evidence(evidence: ladder.Evidence, judgement: ladder.Judgement) -> dict[str, object]:
    """Everything needed to judge again under another policy, without pixels."""
    return {
        "cases": [hit.case for hit in evidence.slices],
        "digest_match": evidence.digest_match,
        "distances": [
            round(hit.distance, 6) if np.isfinite(hit.distance) else None for hit in evidence.slices
        ],
        "same_study": sorted(evidence.same_study),
        "verified": judgement.verification.verified,
        "verified_reason": judgement.verification.reason,
    }


def _without_a_stack(decoded: Decoded) -> verdicts.CaseVerdict:
    """A series without any plane: not-an-image if nothing in it claims to be one."""
    reasons = Counter(reason for reason in decoded.reasons if reason != Reason.NOT_AN_IMAGE)
    if decoded.fragment:
        reasons = Counter({Reason.SPOOL_FILE_LOST: 1})
    image = bool(reasons)
    return verdicts.CaseVerdict(
        signature=None,
        principal=True,
        relation=Relation.NOT_SCREENABLE if image else Relation.NOT_AN_IMAGE,
        modality=decoded.modality,
        reason=reasons.most_common(1)[0][0] if image else Reason.NOT_AN_IMAGE,
    )


def _flag(
    cases: list[verdicts.CaseVerdict], decoded: Decoded, collided: bool
) -> list[verdicts.CaseVerdict]:
    """What is true of the whole series."""
    flags = set()
    if collided:
        flags.add(Flag.COLLISION)
    if decoded.images and any(r != Reason.NOT_AN_IMAGE for r in decoded.reasons):
        flags.add(Flag.INCOMPLETE)
    if len({case.relation for case in cases}) > 1:
        flags.add(Flag.STACKS_DIFFER)
    return [replace(case, flags=tuple(sorted({*case.flags, *flags}))) for case in cases]


def _name_principal(cases: list[verdicts.CaseVerdict]) -> list[verdicts.CaseVerdict]:
    """The stack that speaks for the series: most informative slices, then most slices."""
    best = max(range(len(cases)), key=lambda i: (cases[i].informative_slices, cases[i].slices, -i))
    return [replace(case, principal=i == best) for i, case in enumerate(cases)]
