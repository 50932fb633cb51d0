"""``diptych similar``: the archive's cases that are most like one of them, or like given files.

    vectors of the query (from SQL, or read → prepare → embed) → sample its slices
      → distance of each to every case, from SQL → ranking → what the archive knows of each

Only reads, so that a daemon may run beside it; nothing of a file is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from diptych.active import model_in_use
from diptych.audit import archive, labels, models
from diptych.audit.labels import Known
from diptych.audit.store import Store
from diptych.config import Config
from diptych.embed.manifest import ModelEntry
from diptych.embed.mask import informative
from diptych.embed.prepare import prepare
from diptych.embed.session import Embedder
from diptych.errors import UsageError
from diptych.evaluate.cases import Case, find, find_file
from diptych.evaluate.reading import Reading, Unreadable
from diptych.judge.digest import DIGEST_VERSION
from diptych.judge.retrieval import Sampling, Similar, gaussian, ranking, sampled
from diptych.search.bycase import distances_by_case
from diptych.search.index import as_stored
from diptych.volume.decoders import DecoderPool
from diptych.volume.orient import canonical_slices

Vectors = NDArray[np.float32]

LARGEST_ID = 2**63 - 1
NAMED = 5
"""Images named in a refusal; the number says how many there are."""


@dataclass(frozen=True)
class Question:
    """case: its number in the archive; path: a file or folder instead. gaussian: centre slices
    weigh more. top: how many cases are wanted, at least 1."""

    case: int | None
    path: Path | None
    sampling: Sampling
    gaussian: bool
    top: int


@dataclass(frozen=True)
class Found:
    """One case of the answer. same_pixels: its case digest is the query's."""

    similar: Similar
    known: Known
    same_pixels: bool


@dataclass(frozen=True)
class Answer:
    """informative: slices of the query that show something; asked: those of them that voted.
    compared: cases that were candidates. excluded: the query's own series, case by case. left_out:
    cases that only another model has embedded."""

    model: str
    informative: int
    asked: int
    compared: int
    excluded: tuple[int, ...]
    left_out: int
    found: tuple[Found, ...]


def similar(config: Config, store: Store, question: Question) -> Answer:
    """Answer it. UsageError in words: nothing to ask about, or nothing to compare with."""
    entry = model_in_use(config, store)
    with store.read() as connection:
        fingerprint_id, left_out = _embedded(connection, entry)
        held = archive.held_keys(connection, fingerprint_id)
        if question.case is not None:
            excluded = _own(connection, question.case)
            query = _of_case(connection, fingerprint_id, entry, question)
        else:
            excluded = ()
    if question.path is not None:
        query = _of_path(config, entry, question)
    cases = [case for case in sorted(held) if case not in excluded]
    if not cases:
        raise UsageError("the archive holds no other case to compare with")
    distances = distances_by_case(
        query.vectors,
        archive.all_nodes(store, fingerprint_id, entry.dimension),
        [held[case] for case in cases],
    )
    ranked = ranking(distances, query.weights, question.top)
    with store.read() as connection:
        known = labels.known(connection, [cases[each.place] for each in ranked])
        copies = archive.with_digest(connection, query.digest, DIGEST_VERSION)
    return Answer(
        entry.name,
        query.informative,
        len(query.vectors),
        len(cases),
        excluded,
        left_out,
        tuple(
            Found(each, known[case], case in copies)
            for each in ranked
            # What was forgotten meanwhile is not told.
            if (case := cases[each.place]) in known
        ),
    )


@dataclass(frozen=True, eq=False)
class _Query:
    """vectors: float32 (m, d) of the slices that vote; weights: (m,). digest: of the case."""

    vectors: Vectors
    weights: NDArray[np.float64]
    informative: int
    digest: bytes | None


def _embedded(connection: Connection, entry: ModelEntry) -> tuple[int, int]:
    """(fingerprint id, cases left out) of the model in use; UsageError when it has no case."""
    if models.is_held(connection):
        raise UsageError("the model is being switched just now: ask again in a minute")
    coverage = models.coverage(connection, entry.fingerprint)
    fingerprint_id = archive.known_fingerprint(connection, entry.fingerprint)
    if fingerprint_id is None or not coverage.embedded:
        if coverage.missing:
            raise UsageError(
                f"no case is embedded by {entry.name}, the model in use: `diptych model use "
                f"{entry.name}` embeds them"
            )
        raise UsageError("the archive holds no case to compare with yet")
    return fingerprint_id, coverage.missing


def _own(connection: Connection, case: int) -> tuple[int, ...]:
    """The cases of its series, which are no candidates; UsageError when there is no such case."""
    if case <= LARGEST_ID:  # the driver would refuse to ask
        cases = archive.cases_of_series(connection, case)
        if cases and archive.is_forgotten(connection, case):
            raise UsageError(f"case {case} was forgotten: nothing of it is left to compare")
        if cases:
            return tuple(cases)
    raise UsageError(f"case {case} is unknown: `diptych verdicts` lists the cases")


def _of_case(
    connection: Connection, fingerprint_id: int, entry: ModelEntry, question: Question
) -> _Query:
    assert question.case is not None
    keys = archive.slice_keys(connection, fingerprint_id, question.case)
    if not keys:
        raise UsageError(
            f"case {question.case} has no vectors of {entry.name}: it has no informative slice, "
            f"or was embedded by another model"
        )
    voting, weights = _voting(len(keys), question)
    vectors = archive.vectors(
        connection, fingerprint_id, [keys[row] for row in voting], entry.dimension
    )
    digest = archive.digest_of(connection, question.case, DIGEST_VERSION)
    return _Query(vectors, weights, len(keys), digest)


def _of_path(config: Config, entry: ModelEntry, question: Question) -> _Query:
    assert question.path is not None
    case = _case_at(question.path)
    decode = config.decode
    with DecoderPool(
        children=decode.children,
        seconds_per_instance=decode.seconds_per_instance,
        memory_bytes=decode.memory_bytes,
    ) as decoders:
        try:
            reading: Reading = case.read(decoders, protocol=False)
        except Unreadable as error:
            raise UsageError(f"{question.path}: no image can be read from it ({error})") from error
    oriented = canonical_slices(reading.volume)
    prepared = prepare(oriented.array, entry.input_size, oriented.valid, oriented.extremes)
    kept = np.flatnonzero(informative(prepared))
    if not len(kept):
        raise UsageError(f"{question.path}: none of its {len(prepared)} slices shows anything")
    voting, weights = _voting(len(kept), question)
    vectors = Embedder(entry, config.model.threads).embed(prepared[kept[voting]])
    return _Query(as_stored(vectors, entry.dimension), weights, len(kept), reading.digest)


def _case_at(path: Path) -> Case:
    """The one image at a path; UsageError when there is none, or several."""
    if path.is_file():
        case = find_file(path)
        if case is None:
            raise UsageError(f"{path} is no NIfTI, NRRD, MetaImage or DICOM file")
        return case
    if not path.is_dir():
        raise UsageError(f"{path}: there is no such case number, file or folder")
    cases = find(path).cases
    if not cases:
        raise UsageError(f"{path} holds no NIfTI, NRRD, MetaImage or DICOM file")
    if len(cases) > 1:
        names = ", ".join(case.id for case in cases[:NAMED]) + (" …" if len(cases) > NAMED else "")
        raise UsageError(f"{path} holds {len(cases)} images, name one of them: {names}")
    return cases[0]


def _voting(n: int, question: Question) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Positions and weights of the slices that vote, among n informative ones."""
    voting = sampled(n, question.sampling)
    return voting, gaussian(n)[voting] if question.gaussian else np.ones(len(voting))
