"""The one path, from a sealed series to its verdict, readable from top to bottom.

    decode → assemble volumes → digest (exact tier) → prepare slices → embed → search
      → count c(1), c(3) → candidates → verify → verdict → record → index

Up to the prepared slices it is :mod:`diptych.ready`, done for the next series while this one is
judged; what one volume is to an archive is in :mod:`diptych.lookup`, the rest is here. Judging is
serial per archive (search → verdict → commit → add): otherwise two simultaneous copies would both
be unique. Where several workers judge, each first adds to its index what the others recorded.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from diptych import beside, faults, label_audit
from diptych.audit import archive, chain, collisions, layouts, verdicts
from diptych.audit.nodes import Nodes
from diptych.audit.store import Store, now
from diptych.audit.work import MICROSECONDS, InstanceRow, Work, upcoming
from diptych.beside import Beside
from diptych.embed.session import Embedder
from diptych.errors import NotScreenable, Reason
from diptych.judge import ladder, replay
from diptych.judge.digest import DIGEST_VERSION, case_digest
from diptych.judge.labels import Disagreement
from diptych.judge.ladder import Flag, Relation
from diptych.judge.layout import VERSION as LAYOUT_VERSION
from diptych.judge.layout import smoothed
from diptych.judge.patient import patient_hmac
from diptych.judge.policy import Policy
from diptych.log import get_logger, shortened
from diptych.lookup import Indexes, look_up
from diptych.ready import Ready, ReadySeries, Stages, make_series_ready
from diptych.recorded import Recorded
from diptych.volume.ahead import DecodeAhead
from diptych.volume.decoders import DecoderPool
from diptych.volume.plan import Stack
from diptych.volume.plane import Instance, Refusal

log = get_logger(__name__)

COUNT_MODE = "informative"


@dataclass(frozen=True)
class Decoded:
    """The instances of a revision: the stacks of the images among them, and what became of each."""

    series: ReadySeries
    images: int
    outcomes: tuple[verdicts.InstanceOutcome, ...]
    reasons: tuple[Reason, ...]
    modality: str | None
    # Judged slices are gone, purged perhaps: what is left is a fragment of what was judged.
    fragment: bool


class Pipeline:
    """The path with its tools. One thread calls ``judge``."""

    def __init__(
        self,
        store: Store,
        decoders: DecoderPool,
        embedder: Embedder,
        indexes: Indexes,
        fingerprint_id: int,
        policy: Policy,
        path_of: Callable[[str], Path],
        head_file: Path,
        others: Sequence[Beside] = (),
    ) -> None:
        self._store, self._embedder = store, embedder
        size = embedder.model.input_size
        self._decoders = DecodeAhead(decoders, lambda outcomes: make_series_ready(outcomes, size))
        self.indexes, self._fingerprint_id = indexes, fingerprint_id
        self.policy, self._path_of, self._head_file = policy, path_of, head_file
        # The newest verdict whose vectors and layouts are in the indexes; None: not known.
        self._known: int | None = None
        self._beside = others
        with store.read() as connection:
            self._hmac_key = archive.hmac_key(connection)

    def judge(self, work: Work) -> Sequence[verdicts.CaseVerdict]:
        """Judge one revision and record everything it leaves, exactly once.

        Raises StoreError when the database is away, or another worker judged meanwhile: the claim
        then lapses and work resumes.
        """
        faults.point("judge.begin")
        started, stages = time.perf_counter(), Stages()
        decoded = self._decode(work, stages)
        with self._store.judging():
            known = self._catch_up()
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
                    known,
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

    def _catch_up(self) -> int:
        """Add what other workers recorded to the indexes; returns the newest verdict they hold."""
        with self._store.read() as connection:
            newest = verdicts.newest(connection)
        if newest != self._known:
            slices, dimension = self.indexes.slices, self._embedder.dimension
            held = slices.keys()
            first = int(held.max()) + 1 if len(held) else 0
            for keys, vectors in archive.all_nodes(
                self._store, self._fingerprint_id, dimension, first
            ):
                slices.add(keys, vectors)
            for layout_keys, vectors in layouts.everything(
                self._store, LAYOUT_VERSION, self.indexes.layouts.newest
            ):
                self.indexes.layouts.add(layout_keys, vectors)
            self._known = newest
        return newest

    def _decode(self, work: Work, stages: Stages) -> Decoded:
        """Every instance becomes planes, not-an-image, or a reason; and the images stacks."""
        rows, paths = [], []
        lost: list[InstanceRow] = []
        for row in work.instances:
            path = self._path_of(row.locator)
            if row.purged or not path.exists():
                lost.append(row)
            else:
                rows.append(row)
                paths.append(path)
        with stages("decode"):
            results, series = self._decoders.decode(paths)
        # The next series is made ready while this one is judged; it is judged after this one.
        self._decoders.expect(self._upcoming())
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
        if fragment:
            # The whole that was judged stays the archive's: its digest, its vectors, its proxy.
            series = ReadySeries((), Stages())
        elif series is None:
            series = make_series_ready(results, self._embedder.model.input_size)
        stages.add(series.stages)
        images = sum(isinstance(result, Instance) for result in results)
        return Decoded(series, images, tuple(outcomes), tuple(reasons), modality, fragment)

    def _upcoming(self) -> list[Path]:
        """The files of the revision that will most likely be judged next."""
        with self._store.read() as connection:
            locators = upcoming(connection)
        paths = (self._path_of(locator) for locator in locators)
        return [path for path in paths if path.exists()]

    def _judge_stacks(
        self, work: Work, decoded: Decoded, stages: Stages
    ) -> list[verdicts.CaseVerdict]:
        cases = []
        for each in decoded.series.stacks:
            stack, ready = each.stack, each.ready(self._embedder.model.input_size, stages)
            if isinstance(ready, NotScreenable):
                cases.append(
                    verdicts.CaseVerdict(
                        signature=stack.signature,
                        principal=False,
                        relation=Relation.NOT_SCREENABLE,
                        modality=stack.Modality or decoded.modality,
                        body_part=stack.header.BodyPartExamined or None,
                        slices=len(stack.slices),
                        reason=ready.reason,
                        detail=ready.detail,
                        digests=self._digests(stack),
                    )
                )
            else:
                cases.append(self._judge_stack(work, decoded, stack, ready, stages))
        return cases

    def _judge_stack(
        self, work: Work, decoded: Decoded, stack: Stack, ready: Ready, stages: Stages
    ) -> verdicts.CaseVerdict:
        digests = self._digests(stack)
        known = Recorded(self._store, self._fingerprint_id, self._embedder.dimension, work)
        # Constant planes are no evidence: two blank series are not copies of each other.
        digest = None if all(digests.constant) else digests.case_digest
        found = look_up(
            ready,
            digest,
            self._embedder.embed,
            self.indexes,
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
        if stack.geometry == "inferred":
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
            layout=None if found.layout is None else (LAYOUT_VERSION, smoothed(found.layout)),
            nodes=Nodes(reused=known.reused)
            if found.reused
            else Nodes(digests=ready.slice_digests, vectors=found.vectors),
            candidates=_candidates(evidence),
            label_audit={
                k: "disagrees" if k in disagreeing else str(v) for k, v in audited.items()
            },
            evidence=replay.written(evidence, judgement)
            | {f"{label}_disagrees": asdict(each) for label, each in disagreeing.items()}
            | beside.looked_up(
                self._beside, work, ready, digest, found.vectors, self.policy, stages
            ),
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
        self._known = None  # whatever becomes of the commit
        recorded = verdicts.record(self._store, judged, self._fingerprint_id)
        faults.point("judge.after-commit")
        if len(recorded.keys):
            self.indexes.slices.add(recorded.keys, recorded.vectors)
        for key, vector in recorded.layouts:
            self.indexes.layouts.add([key], vector[None])
        if judged.known is not None:
            self._known = recorded.head[0]
        chain.write_head(self._head_file, *recorded.head)
        for ids, case in zip(recorded.ids, judged.verdicts, strict=True):
            _say(judged, ids, case)


def _say(judged: verdicts.Judged, ids: tuple[int, int | None], case: verdicts.CaseVerdict) -> None:
    """One event a verdict: that of the series, and for who debugs those of its other stacks."""
    work = judged.work
    (log.info if case.principal else log.debug)(
        "verdict",
        source=work.source,
        associations=[shortened(name) for name in work.associations],
        series=work.series_id,
        revision=work.number,
        study_instance_uid=work.study_instance_uid,
        series_instance_uid=work.series_instance_uid,
        verdict=ids[0],
        case=ids[1],
        relation=case.relation,
        reason=case.reason,
        flags=list(case.flags),
        matched_case=case.matched.case_id if case.matched else None,
        slices=case.slices,
        seconds=round(judged.seconds, 3),
        since_received=round((now() - work.last_received_at) / MICROSECONDS, 3),
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
