"""``diptych evaluate FOLDER --retrieval LABELS.csv``: read, embed, look up, write down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.embed.mask import FINE_CELLS, informative
from diptych.embed.prepare import prepare
from diptych.errors import Reason, UsageError
from diptych.evaluate import retrieval_report
from diptych.evaluate.cases import Case, find, read_labels, read_subjects
from diptych.evaluate.progress import Progress
from diptych.evaluate.protocol import Model
from diptych.evaluate.reading import Unreadable
from diptych.evaluate.retrieval import LEVELS, Image, answers
from diptych.volume.decoders import DecoderPool
from diptych.volume.orient import canonical_slices

UNREADABLE = 3


@dataclass(frozen=True)
class Retrieval:
    """What was asked for. labels: LABELS.csv; subjects: whose cases may not find each other."""

    folder: Path
    labels: Path
    out: Path
    model: Model
    json_file: Path | None
    subjects: Path | None


def evaluate(asked: Retrieval, progress: Progress) -> int:
    """Run it and write ``retrieval.md``, ``.csv`` and ``.json``; the exit status as ``evaluate``'s.

    UsageError: a table that does not fit, fewer than two labelled cases that can be read.
    """
    ours = (asked.out, asked.labels, asked.json_file, asked.subjects)
    listing = find(asked.folder, without=[path for path in ours if path is not None])
    labels = read_labels(asked.labels, listing, LEVELS)
    subjects = read_subjects(asked.subjects, listing) if asked.subjects else {}
    cases = [case for case in listing.cases if case.id in labels.of]
    images: list[Image] = []
    unread = list(labels.lost)
    with DecoderPool() as decoders, progress.phase("embedding", len(cases), len(cases)) as phase:
        for case in cases:
            # A subject's name may be a path: neither is taken for the other.
            subject = f"subject {subjects[case.id]}" if case.id in subjects else f"case {case.id}"
            try:
                images.append(_image(case, subject, labels.of[case.id], asked.model, decoders))
            except Unreadable as error:
                unread.append((case.id, str(error)))
            phase.finished(1)
    if len(images) < 2:
        raise UsageError(
            f"{asked.folder}: retrieval needs at least two labelled cases; {len(images)} of "
            f"{len(cases) + len(labels.lost)} can be read"
        )
    progress.say("looking up")
    facts = retrieval_report.Facts(
        cases=len(images),
        slices=sum(len(image.vectors) for image in images),
        subjects=len({image.subject for image in images}),
        without_label=len(listing.cases) - len(cases),
        model=asked.model.name,
        unreadable=tuple(sorted(unread)),
    )
    found = list(answers(images, labels.levels))
    print(retrieval_report.write(asked.out, facts, found, asked.json_file))  # noqa: T201
    for path, reason in facts.unreadable:
        progress.say(f"could not be read: {path}: {reason}")
    return UNREADABLE if unread else 0


def _image(
    case: Case, subject: str, labels: Mapping[str, str], model: Model, decoders: DecoderPool
) -> Image:
    """As ``similar`` makes a query of a file; raises Unreadable."""
    reading = case.read(decoders, protocol=False)
    oriented = canonical_slices(reading.volume)
    voxels = oriented.array, oriented.valid, oriented.extremes
    prepared = prepare(voxels[0], model.input_size, *voxels[1:])
    # The mask needs more than the baseline's 16 pixels.
    seen = (
        prepared if model.input_size >= FINE_CELLS else prepare(voxels[0], FINE_CELLS, *voxels[1:])
    )
    kept = np.flatnonzero(informative(seen))
    if not len(kept):
        raise Unreadable(Reason.NO_INFORMATIVE_SLICE, f"{len(prepared)} slices")
    return Image(case.id, subject, labels, model.embed(prepared[kept]), reading.digest)
