"""The protocol over one folder: build the database of set A, then ask every query.

Bounded in memory: one case at a time with a few of its copies, and the database's vectors. What is
finished is in the results at once, and is not done again.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from diptych import __version__
from diptych.embed.manifest import ModelEntry
from diptych.embed.prepare import digest_slices, prepare
from diptych.errors import UsageError
from diptych.evaluate.ablation import VARIANTS
from diptych.evaluate.answers import (
    DUPLICATE,
    TRANSFORMS,
    Answer,
    Mistake,
    ProductAnswer,
    Transform,
)
from diptych.evaluate.cases import Case, Listing, find, read_pairs, read_subjects
from diptych.evaluate.crowd import Crowd
from diptych.evaluate.paper import Database, IndexName
from diptych.evaluate.populate import Archive, likeness, peak_memory, populate
from diptych.evaluate.product import Product
from diptych.evaluate.progress import Progress
from diptych.evaluate.query import Query, by_variant, judged
from diptych.evaluate.reading import Reading, Unreadable
from diptych.evaluate.sources import Sources, gather, refuse_same_files
from diptych.evaluate.store import Embedded, Record, Results, embedded_case
from diptych.evaluate.survey import Survey, survey
from diptych.evaluate.transforms import transformed
from diptych.judge.digest import case_digest
from diptych.ready import Stages, make_ready
from diptych.volume.decoders import DecoderPool
from diptych.volume.orient import canonical_slices
from diptych.volume.value import Volume

WORKERS = max(1, min(4, os.cpu_count() or 1))
"""Threads that transform and prepare (SciPy and Pillow release the interpreter's lock). Each holds
a copy of the volume or two: memory is what limits them."""


@dataclass(frozen=True)
class Model:
    """What embeds. entry: its line of the manifest; None for a baseline, which has no policy and
    so no ladder."""

    name: str
    fingerprint: str
    input_size: int
    dimension: int
    embed: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    entry: ModelEntry | None


@dataclass(frozen=True)
class Plan:
    """What is run over a folder, and where its results go. product: with the ladder, where the
    model has one. without: files and folders below FOLDER that are ours. stand_ins: how many are
    added to the ladder's archive in a second round, made of the volumes of ``stand_ins_from``.
    ablation: the ladder is asked once per variant (:mod:`diptych.evaluate.ablation`), the paper's
    indexes are not."""

    folder: Path
    out: Path
    model: Model
    indexes: tuple[IndexName, ...]
    transforms: tuple[Transform, ...]
    product: bool
    subjects: Path | None = None
    known_pairs: Path | None = None
    without: tuple[Path, ...] = ()
    stand_ins: int = 0
    stand_ins_from: Path | None = None
    ablation: bool = False


class Run:
    """The protocol over one folder. A context manager: it holds the results open.

    UsageError: fewer than two cases, a table that does not fit, results of another run.
    """

    def __init__(
        self, plan: Plan, resume: bool | None, decoders: DecoderPool, progress: Progress
    ) -> None:
        self._plan, self._decoders, self._progress = plan, decoders, progress
        self._listing = find(plan.folder, without=(plan.out, *plan.without))
        if len(self._listing.cases) < 2:
            raise UsageError(
                f"{plan.folder}: the protocol needs at least two cases; "
                f"{len(self._listing.cases)} images (NIfTI, NRRD, MetaImage, DICOM) are there"
            )
        subjects, pairs = plan.subjects, plan.known_pairs
        self._subjects = read_subjects(subjects, self._listing) if subjects else {}
        self._pairs = read_pairs(pairs, self._listing) if pairs else []
        self._entry = plan.model.entry if plan.product else None
        self._sources: Listing | None = None
        if plan.stand_ins_from is not None:
            self._sources = find(plan.stand_ins_from, without=(plan.out, *plan.without))
            refuse_same_files(self._sources, self._listing)
        self._results = Results(plan.out, self._header(), resume)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._results.__exit__()

    def carry_out(self) -> Survey:
        """Do everything that is not in the results yet."""
        surveyed = survey(
            self._plan.folder,
            self._listing,
            self._subjects,
            self._pairs,
            self._results,
            self._decoders,
            self._progress,
        )
        done = {record["case"] for record in self._results.records("query")}
        sides = ((surveyed.database, "copy"), (surveyed.strangers, "stranger"))
        queries = [(case, side) for cases, side in sides for case in cases if case.id not in done]
        if not queries:
            return surveyed
        places = {case.id: place for place, case in enumerate(surveyed.database)}
        weight = sum(surveyed.voxels[case.id] for case, _ in queries)
        with ExitStack() as stack:
            crowd = self._crowd(self._sources, surveyed, stack) if self._sources else None
            database, archives = self._build(surveyed)
            if crowd is not None:
                archives.append(self._crowded(*crowd, surveyed))
            phase = stack.enter_context(self._progress.phase("queries", len(queries), weight))
            workers = stack.enter_context(ThreadPoolExecutor(WORKERS))
            for case, side in queries:
                asked = self._ask(case, places.get(case.id), database, archives, workers)
                self._results.append({"kind": "query", "case": case.id, "side": side, **asked})
                phase.finished(surveyed.voxels[case.id])
        if self._sources is not None:
            self._results.append({"kind": "memory", **peak_memory()})
        return surveyed

    def answers(self, surveyed: Survey) -> Iterator[Answer]:
        """Every look-up in paper mode."""
        names = [case.id for case in surveyed.database]
        for record in self._results.records("query"):
            case, side = record["case"], record["side"]
            known = surveyed.known.get(case, ())
            for number, index, removed, n, ranked in record["answers"]:
                hits = tuple((names[place], count) for place, count in ranked)
                transform = TRANSFORMS[number]
                yield Answer(case, side, transform, index, bool(removed), n, hits, known)

    def product_answers(self, surveyed: Survey, crowded: bool = False) -> Iterator[ProductAnswer]:
        """Every verdict of the ladder; crowded: with the stand-ins in its archive."""
        names = [case.id for case in surveyed.database]
        for record in self._results.records("query"):
            case, side = record["case"], record["side"]
            known = surveyed.known.get(case, ())
            for number, relation, place, seconds in record["crowded" if crowded else "product"]:
                matched = None if place is None else _name(place, names)
                transform = TRANSFORMS[number]
                yield ProductAnswer(case, side, transform, relation, matched, seconds, known)

    def ablated(self, surveyed: Survey, variant: int) -> Iterator[ProductAnswer]:
        """Every verdict of one of the ladder's variants, by its place among them."""
        names = [case.id for case in surveyed.database]
        for record in self._results.records("query"):
            case, side = record["case"], record["side"]
            known = surveyed.known.get(case, ())
            for number, seconds, said, _ in record["ablation"]:
                relation, place, more = said[variant]
                matched = None if place is None else names[place]
                transform, seconds = TRANSFORMS[number], seconds + more
                yield ProductAnswer(case, side, transform, relation, matched, seconds, known)

    def mistakes(self, surveyed: Survey) -> Iterator[Mistake]:
        """Of the complete ladder. What points at a known natural duplicate is none."""
        names = [case.id for case in surveyed.database]
        for record in self._results.records("query"):
            case, side = record["case"], record["side"]
            known = surveyed.known.get(case, ())
            for number, _, said, wrong in record["ablation"]:
                relation, place, _ = said[0]
                matched = None if place is None else names[place]
                if wrong is None or (side == "stranger" and known) or matched in known:
                    continue
                against, *how = wrong
                transform = TRANSFORMS[number]
                yield Mistake(case, side, transform, relation, matched, names[against], *how)

    def volume(self, case: Case, transform: Transform) -> Volume:
        """A query as it was judged; under no transform a case as it is in the archive."""
        return transformed(self._read(case).volume, transform, case.id)

    def crowd_facts(self) -> Record:
        """What is known of the stand-ins and of the archive that holds them."""
        facts: Record = {}
        for record in self._results.records("crowd"):
            facts.update(record)
        for record in self._results.records("memory"):
            for name in record.keys() - {"kind"}:
                facts[name] = max(facts.get(name, 0), record[name])
        return {name: value for name, value in facts.items() if name != "kind"}

    def _header(self) -> Record:
        """What a run must have in common with the one it goes on with."""
        plan, files = self._plan, hashlib.sha256()
        sources = self._sources.cases if self._sources else ()
        for case in (*self._listing.cases, *sources):
            for path in case.paths:
                state = path.stat()
                files.update(f"{case.id}\n{state.st_size} {state.st_mtime_ns}\n".encode())
        return {
            "version": __version__,
            "files": files.hexdigest(),
            "model": f"{plan.model.name} {plan.model.fingerprint}",
            "policy": Product(self._entry).policy.label if self._entry else None,
            "index": list(plan.indexes),
            "transforms": [TRANSFORMS.index(each) for each in plan.transforms],
            "subjects": [list(each) for each in sorted(self._subjects.items())],
            "known_pairs": [list(each) for each in sorted(self._pairs)],
            "stand_ins": plan.stand_ins,
            # None, not []: a run that was begun before there were variants can go on.
            "variants": [variant.name for variant in VARIANTS] if plan.ablation else None,
        }

    def _build(self, surveyed: Survey) -> tuple[Database, list[Archive]]:
        """The database, in every index, and the ladder's archive of the same cases."""
        database = Database(self._plan.model.dimension, self._plan.indexes)
        archives = [Archive(Product(self._entry), {})] if self._entry else []
        weight = sum(surveyed.voxels[case.id] for case in surveyed.database)
        with self._progress.phase("database", len(surveyed.database), weight) as phase:
            for number, case in enumerate(surveyed.database):
                embedded = self._of_database(surveyed, number)
                database.add(embedded.vectors)
                for archive in archives:
                    archive.put(embedded, number)
                phase.finished(surveyed.voxels[case.id])
        return database, archives

    def _of_database(self, surveyed: Survey, number: int) -> Embedded:
        """A case of the database; what it is embedded as is kept."""
        embedded = self._results.vectors(number)
        if embedded is None:
            embedded = self._embedded(surveyed.database[number])
            self._results.keep_vectors(number, embedded)
        return embedded

    def _crowd(self, listing: Listing, surveyed: Survey, stack: ExitStack) -> tuple[Crowd, Sources]:
        """The stand-ins, not made yet; their proxies stay in a file while the archive is asked."""
        plan = self._plan
        assert self._entry is not None
        folder = Path(stack.enter_context(TemporaryDirectory(dir=plan.out, prefix="sources-")))
        sources = gather(listing, surveyed.planes, self._decoders, folder, self._progress)
        for where, reason in sources.left_out:
            self._progress.say(f"no source of stand-ins: {where}: {reason}")
        crowd = Crowd(plan.out / "crowd.sqlite", plan.stand_ins, sources, self._entry)
        return stack.enter_context(crowd), sources

    def _crowded(self, crowd: Crowd, sources: Sources, surveyed: Survey) -> Archive:
        """The ladder's archive of the database among the stand-ins."""
        assert self._entry is not None
        case = functools.partial(self._of_database, surveyed)
        with self._progress.phase("stand-ins", len(crowd), len(crowd)) as phase:
            archive, facts = populate(self._entry, len(surveyed.database), case, crowd, phase)
        facts |= {"sources": len(sources.each), **asdict(crowd.made())}
        facts |= likeness(crowd, sources, archive.product.policy)
        self._results.append({"kind": "crowd", **facts})
        return archive

    def _embedded(self, case: Case) -> Embedded:
        reading = self._read(case)
        query = self._made(reading, DUPLICATE, case.id)
        vectors = self._embed(query.prepared)
        if query.ready is None:
            return Embedded(vectors, np.ones(len(vectors), np.bool_), (), query.digest, b"")
        return embedded_case(query.ready, query.digest, vectors, query.ready.kept)

    def _ask(
        self,
        case: Case,
        place: int | None,
        database: Database,
        archives: Sequence[Archive],
        workers: ThreadPoolExecutor,
    ) -> Record:
        """Every transform of one case, in every index and archive; place: the case's own in the
        database."""
        reading = self._read(case)
        answers: list[list[object]] = []
        verdicts: list[list[list[object]]] = [[], []]
        ablation: list[list[object]] = []

        def made(transform: Transform) -> Query:
            return self._made(reading, transform, case.id)

        for transform, query in _ahead(workers, made, self._plan.transforms):
            number = TRANSFORMS.index(transform)
            began = time.perf_counter()
            vectors = self._embed(query.prepared)
            embedding = time.perf_counter() - began
            if self._plan.ablation:
                found = by_variant(archives[0], query, vectors, embedding, place)
                ablation.append([number, *found])
                continue
            for index in self._plan.indexes:
                ranked = database.ask(index, vectors)
                answers.append([number, index, 0, len(vectors), ranked])
                if place is not None:
                    ranked = database.ask(index, vectors, without=place)
                    answers.append([number, index, 1, len(vectors), ranked])
            for archive, said in zip(archives, verdicts, strict=False):
                said.append([number, *judged(archive, query, vectors, embedding)])
        return {
            "answers": answers,
            "product": verdicts[0],
            "crowded": verdicts[1],
            "ablation": ablation,
        }

    def _embed(self, prepared: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors of all slices; equal ones, as blank borders are, are embedded once."""
        digests = np.array([int.from_bytes(each) for each in digest_slices(prepared)], object)
        _, first, where = np.unique(digests, return_index=True, return_inverse=True)
        return self._plan.model.embed(prepared[first])[where]

    def _read(self, case: Case) -> Reading:
        try:
            return case.read(self._decoders)
        except Unreadable as error:
            raise UsageError(
                f"{case.id} could be read before and cannot be read now ({error}); "
                "--resume goes on when it can"
            ) from error

    def _made(self, reading: Reading, transform: Transform, case: str) -> Query:
        """One copy of a case, ready to be embedded."""
        volume = transformed(reading.volume, transform, case)
        digest = reading.digest if transform == DUPLICATE else digest_of(volume)
        began = time.perf_counter()
        size = self._plan.model.input_size
        if self._entry is None:
            oriented = canonical_slices(volume)
            ready, prepared = None, prepare(oriented.array, size, oriented.valid)
        else:
            ready = make_ready(volume, size, Stages())
            prepared = ready.prepared
        return Query(prepared, ready, digest, time.perf_counter() - began)


def _name(place: int, names: Sequence[str]) -> str:
    """Of a place in an :class:`Archive`."""
    return names[place] if place >= 0 else f"stand-in {-1 - place}"


def digest_of(volume: Volume) -> bytes | None:
    """As the decoder's and the judge's: constant planes are no evidence."""
    return None if all(volume.constant) else case_digest(volume.digests)


def _ahead(
    workers: ThreadPoolExecutor, made: Callable[[Transform], Query], items: tuple[Transform, ...]
) -> Iterator[tuple[Transform, Query]]:
    """In order, a few of them made beforehand."""
    waiting: deque[tuple[Transform, Future[Query]]] = deque()
    try:
        for item in items:
            waiting.append((item, workers.submit(made, item)))
            if len(waiting) > WORKERS:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()
