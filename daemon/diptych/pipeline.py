"""The one path, from a sealed series to its verdict, readable from top to bottom.

    decode → assemble volumes → digest (exact tier) → prepare slices → embed → search
      → count c(1), c(3) → candidates → verify → verdict → record → index

``serve`` runs it; ``screen`` will run the same, and ``evaluate`` runs :func:`make_ready` and
:func:`look_up` over an archive in memory. Judging is serial per archive (search → verdict → commit
→ add): otherwise two simultaneous copies would both be unique.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diptych import faults, label_audit
from diptych.audit import archive, chain, collisions, verdicts
from diptych.audit.store import Store
from diptych.audit.work import InstanceRow, Work, upcoming
from diptych.embed.manifest import ModelEntry
from diptych.embed.mask import informative
from diptych.embed.prepare import digest_slices, prepare
from diptych.embed.session import Embedder
from diptych.errors import NotScreenable, Reason, StoreError
from diptych.judge import ladder, proxy, replay
from diptych.judge.check import Check
from diptych.judge.count import CaseId
from diptych.judge.definition import BUNDLED
from diptych.judge.digest import DIGEST_VERSION, case_digest
from diptych.judge.labels import Disagreement
from diptych.judge.ladder import Flag, Relation, SliceHit
from diptych.judge.patient import patient_hmac
from diptych.judge.policy import SURE, Policy
from diptych.judge.verify import verify
from diptych.search.archive import SearchIndex
from diptych.search.index import MISSING, Hits, How
from diptych.search.neighbours import nearest
from diptych.volume.ahead import DecodeAhead
from diptych.volume.assemble import assemble
from diptych.volume.decoders import DecoderPool
from diptych.volume.orient import canonical_slices
from diptych.volume.plan import Stack, plan
from diptych.volume.plane import Instance, Refusal
from diptych.volume.value import Volume

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
class Ready:
    """A volume made ready to be looked up.

    prepared: float32 (n, size, size), every slice. kept: bool (n,), the informative ones.
    slice_digests: of the informative ones. proxy: its version and content.
    """

    prepared: NDArray[np.float32]
    kept: NDArray[np.bool_]
    slice_digests: tuple[bytes, ...]
    proxy: tuple[int, bytes]

    @property
    def slices(self) -> NDArray[np.float32]:
        """The informative slices."""
        return self.prepared[self.kept]


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

    def same_study(self, cases: Iterable[CaseId]) -> list[CaseId]:
        """Those of the cases that belong to the study of the series."""
        ...

    def proxy_of(self, case: CaseId) -> bytes | None:
        """The verification proxy of its newest revision; None when it has none."""
        ...


@dataclass(frozen=True)
class Finding:
    """What a look-up found. vectors: float32 (n, d), of the informative slices; reused: they are
    those of the case with the same digest. how: which index answered. neighbours: per informative
    slice the cases of its nearest vectors, the nearest first."""

    vectors: NDArray[np.float32]
    reused: bool
    how: How
    neighbours: tuple[tuple[CaseId, ...], ...]
    evidence: ladder.Evidence
    judgement: ladder.Judgement


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


def make_ready(volume: Volume, size: int, stages: Stages) -> Ready:
    """Orient → proxy → prepare → mask → digest; ``size`` is the model's ``input_size``."""
    with stages("prepare"), ThreadPoolExecutor(1) as beside:
        # Compressing is most of a proxy's cost, and neither it nor resizing holds the interpreter.
        packed = beside.submit(
            proxy.encode,
            volume.array,
            volume.affine,
            valid=volume.valid,
            geometry=volume.geometry,
        )
        oriented = canonical_slices(volume)
        prepared = prepare(oriented.array, size, oriented.valid, oriented.extremes)
        kept = informative(prepared)
        slice_digests = tuple(digest_slices(prepared[kept]))
    return Ready(prepared, kept, slice_digests, (proxy.VERSION, packed.result()))


def look_up(
    ready: Ready,
    digest: bytes | None,
    embed: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    index: SearchIndex,
    known: Archive,
    policy: Policy,
    stages: Stages,
) -> Finding:
    """Digest → embed → search → count → verify → judge: what the volume is to the archive.

    digest: the case digest; None when constant planes make it no evidence. embed: informative
    slices → unit vectors; not asked after an exact hit. index: the archive's nodes.
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
        hits = nearest(index, vectors, excluded)
    with stages("judge"):
        evidence = ladder.gather(
            _slice_hits(hits, owners),
            policy,
            digest_match=match,
            same_study=known.same_study(sorted(set(owners.values()))),
        )
    with stages("verify"):
        evidence = replace(evidence, checks=_checks(ready, evidence, known, policy))
    judgement = ladder.judge(evidence, policy)
    return Finding(vectors, reused, hits.how, _neighbours(hits, owners), evidence, judgement)


def _checks(
    ready: Ready, evidence: ladder.Evidence, known: Archive, policy: Policy
) -> tuple[Check, ...]:
    """The candidates aligned in 3D, until one is beyond doubt."""
    checks: list[Check] = []
    wanted = ladder.to_verify(evidence, policy)
    ours = _proxy(ready.proxy[1]) if wanted else None
    for case in wanted:
        checks.append(verify(case, ours, _proxy(known.proxy_of(case))))
        if checks[-1].correlation >= SURE and ladder.confirms(checks[-1], policy):
            break
    return tuple(checks)


def _proxy(content: bytes | None) -> proxy.Proxy | None:
    """None too for one that another version wrote: then the candidate cannot be verified."""
    try:
        return None if content is None else proxy.decode(content)
    except StoreError as error:
        log.warning("proxy-unreadable", extra={"reason": str(error)})
        return None


def shipped_policy(model: ModelEntry) -> Policy:
    """The policy that ships, with this model's measured distance."""
    return BUNDLED.under(model.d_max)


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
        self._store, self._embedder = store, embedder
        self._decoders = DecodeAhead(decoders)
        self.index, self._fingerprint_id = index, fingerprint_id
        self.policy, self._path_of, self._head_file = policy, path_of, head_file
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
        # The next series is decoded while this one is embedded; it is judged after this one.
        self._decoders.expect(self._upcoming())
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
        results = self._decoders.decode(paths)
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

    def _upcoming(self) -> list[Path]:
        """The files of the revision that will most likely be judged next."""
        with self._store.read() as connection:
            locators = upcoming(connection)
        paths = (self._path_of(locator) for locator in locators)
        return [path for path in paths if path.exists()]

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
                        body_part=stack.header.BodyPartExamined or None,
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
        with stages("assemble"):
            volume = assemble(stack)
        ready = make_ready(volume, self._embedder.model.input_size, stages)
        known = _Recorded(self._store, self._fingerprint_id, self._embedder.dimension, work)
        found = look_up(
            ready,
            # Constant planes are no evidence: two blank series are not copies of each other.
            None if all(digests.constant) else digests.case_digest,
            self._embedder.embed,
            self.index,
            known,
            self.policy,
            stages,
        )
        evidence, judgement = found.evidence, found.judgement
        match = evidence.digest_match
        matched = known.cases.get(match if match is not None else judgement.matched_case or -1)
        flags = set(judgement.flags)
        if matched is not None and judgement.relation != Relation.UNIQUE:
            flags |= {Flag.CROSS_SOURCE} if matched.source != work.source else set()
        if volume.geometry == "inferred":
            flags.add(Flag.GEOMETRY_INFERRED)
        modality, body_part = stack.Modality or decoded.modality, stack.header.BodyPartExamined
        said = label_audit.Said(modality, body_part, digests.patient_hmac)
        copied = {matched.case_id} if matched is not None else set()
        audited = label_audit.audited(
            self._store, self._fingerprint_id, work, said, found.neighbours, copied
        )
        disagreeing = {k: one for k, one in audited.items() if isinstance(one, Disagreement)}
        flags |= {Flag(f"{label}_disagrees") for label in disagreeing}
        counts = evidence.counts
        return verdicts.CaseVerdict(
            signature=stack.signature,
            principal=False,
            relation=judgement.relation,
            modality=modality,
            body_part=body_part or None,
            slices=len(ready.prepared),
            informative_slices=evidence.n,
            c1=counts.c1 if counts else None,
            c3=counts.c3 if counts else None,
            count_mode=COUNT_MODE,
            threshold=self.policy.threshold,
            flags=tuple(sorted(flags)),
            matched=matched,
            search=found.how,
            reason=Reason.NO_INFORMATIVE_SLICE
            if judgement.relation == Relation.NOT_SCREENABLE
            else None,
            detail=judgement.reason,
            model=self._embedder.model.name,
            fingerprint=self._embedder.fingerprint,
            policy=self.policy.label,
            watermark=known.watermark,
            digests=digests,
            proxy=ready.proxy,
            nodes=verdicts.Nodes(reused=known.reused)
            if found.reused
            else verdicts.Nodes(digests=ready.slice_digests, vectors=found.vectors),
            candidates=_candidates(evidence),
            label_audit={
                k: "disagrees" if k in disagreeing else str(v) for k, v in audited.items()
            },
            evidence=replay.written(evidence, judgement)
            | {f"{label}_disagrees": asdict(each) for label, each in disagreeing.items()},
        )

    def _digests(self, stack: Stack) -> verdicts.Digests:
        planes, header = stack.planes, stack.header
        return verdicts.Digests(
            DIGEST_VERSION,
            case_digest(plane.digest for plane in planes),
            [plane.digest for plane in planes],
            [plane.constant for plane in planes],
            patient_hmac(self._hmac_key, header.PatientID, header.PatientBirthDate),
        )

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


class _Recorded:
    """The archive as SQL has it, without the series that is judged."""

    def __init__(self, store: Store, fingerprint_id: int, dimension: int, work: Work) -> None:
        self._store, self._fingerprint_id, self._dimension = store, fingerprint_id, dimension
        self._work = work
        self.cases: dict[CaseId, archive.Owner] = {}
        self.reused: list[int] = []
        with store.read() as connection:
            self.watermark = archive.next_key(connection, fingerprint_id) - 1

    def earliest_with_digest(self, case_digest: bytes) -> CaseId | None:
        with self._store.read() as connection:
            owner = archive.earliest_with_digest(
                connection, case_digest, DIGEST_VERSION, self._work.series_id
            )
        if owner is None:
            return None
        self.cases[owner.case_id] = owner
        return owner.case_id

    def vectors_of(self, case: CaseId) -> NDArray[np.float32] | None:
        with self._store.read() as connection:
            self.reused = archive.slice_keys(connection, self._fingerprint_id, case)
            if not self.reused:
                return None
            return archive.vectors(connection, self._fingerprint_id, self.reused, self._dimension)

    def owners(self, keys: Sequence[int]) -> Mapping[int, CaseId]:
        with self._store.read() as connection:
            found = archive.owners(connection, self._fingerprint_id, keys)
        foreign = {k: o for k, o in found.items() if o.series_id != self._work.series_id}
        self.cases |= {owner.case_id: owner for owner in foreign.values()}
        return {key: owner.case_id for key, owner in foreign.items()}

    def proxy_of(self, case: CaseId) -> bytes | None:
        with self._store.read() as connection:
            return archive.proxy(connection, case)

    def same_study(self, cases: Iterable[CaseId]) -> list[CaseId]:
        study = self._work.study_instance_uid
        return [case for case in cases if self.cases[case].study_instance_uid == study]


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


def _candidates(evidence: ladder.Evidence) -> list[verdicts.Candidate]:
    found = [
        verdicts.Candidate(c.case, c.hits, c.within, c.case == evidence.digest_match)
        for c in evidence.candidates
    ]
    if evidence.digest_match is not None and not any(c.exact for c in found):
        found.append(verdicts.Candidate(evidence.digest_match, 0, 0, True))
    return found


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
