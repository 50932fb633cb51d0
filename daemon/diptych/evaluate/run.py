"""``diptych evaluate``: the paper's protocol and the daemon's ladder on anyone's images.

    find cases → read → halve → database (A) → queries (B, C) → statistics → tables and figures

Truong et al. 2023. Set A is the first half, B its transformed copies, C the second half; here the
strangers of C are transformed as well, and each copy is looked up without its true case too.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SimpleITK as sitk  # noqa: N813 - the name everybody knows it by

from diptych import active
from diptych.config import Config
from diptych.embed.session import Embedder
from diptych.errors import ModelError, UsageError
from diptych.evaluate import report
from diptych.evaluate.answers import SEVEN, TRANSFORMS, Protocol
from diptych.evaluate.baseline import Thumbnail
from diptych.evaluate.paper import INDEXES, IndexName, have_faiss
from diptych.evaluate.progress import Progress
from diptych.evaluate.protocol import Model, Plan, Run
from diptych.evaluate.scores import Calibration, calibrate, collect
from diptych.evaluate.survey import Survey
from diptych.lookup import shipped_policy
from diptych.volume.decoders import DecoderPool

UNREADABLE, INTERRUPTED = 3, 130
GOES_ON = "interrupted; the same command with --resume goes on from here"


@dataclass(frozen=True)
class Options:
    """What ``diptych evaluate`` was asked for.

    config: knows the registered models. model: a bundled or registered one (None: the bundled
    default), or ``thumbnail-16``. indexes: None: all that can be had. resume: go on (True), begin
    anew (False), or refuse where something is (None). quick: the seven sets of Algorithm 1 only.
    retrieval: LABELS.csv; then retrieval is evaluated instead of the protocol. stand_ins: how many
    are put into the ladder's archive in a second round, made of the volumes of stand_ins_from.
    ablation: the ladder without each of its pieces instead of the paper's part of the protocol.
    """

    folder: Path
    out: Path
    config: Config
    json_file: Path | None = None
    model: str | None = None
    indexes: tuple[str, ...] | None = None
    calibrate: Path | None = None
    subjects: Path | None = None
    known_pairs: Path | None = None
    resume: bool | None = None
    quick: bool = False
    retrieval: Path | None = None
    stand_ins: int | None = None
    stand_ins_from: Path | None = None
    ablation: bool = False


def evaluate(options: Options) -> int:
    """Run it, write the report to ``out``, print its summary; the exit status.

    0: done; 3: done, and some inputs could not be read; 130: interrupted. UsageError: what must be
    asked for differently.
    """
    progress = Progress()
    _check(options)
    if options.retrieval is not None:
        return _retrieval(options, options.retrieval, progress)
    if options.ablation:
        return _ablation(options, progress)
    indexes = _indexes(options.indexes, progress)
    model = _model(options)
    if model.entry is None:
        progress.say(
            f"{model.name} is a baseline without a policy: the daemon's ladder is left out"
        )
        if options.stand_ins is not None:
            raise UsageError(f"--stand-ins are for the daemon's ladder, which {model.name} lacks")
    transforms = SEVEN if options.quick else TRANSFORMS
    plan = Plan(
        options.folder,
        options.out,
        model,
        indexes,
        transforms,
        product=True,
        subjects=options.subjects,
        known_pairs=options.known_pairs,
        without=(options.json_file,) if options.json_file else (),
        stand_ins=options.stand_ins or 0,
        stand_ins_from=options.stand_ins_from,
    )
    _quieten()
    try:
        with (
            DecoderPool() as decoders,
            Run(plan, options.resume, decoders, progress) as run,
        ):
            calibration = None
            if options.calibrate:
                calibration = _calibrated(options.calibrate, plan, options, decoders, progress)
            return _carry_out(run, plan, options, calibration, progress)
    except KeyboardInterrupt:
        progress.say(GOES_ON)
        return INTERRUPTED


@dataclass(frozen=True)
class _Calibrated:
    """What the calibration folder gave: t_opt, and what it rests on."""

    name: str
    calibration: Calibration
    survey: Survey


def _carry_out(
    run: Run, plan: Plan, options: Options, calibrated: _Calibrated | None, progress: Progress
) -> int:
    began = time.perf_counter()
    surveyed = run.carry_out()
    extra: dict[str, Any] = {
        "run": {
            "quick": options.quick,
            "seconds": round(time.perf_counter() - began, 1),
            "not_images": [{"path": path, "reason": reason} for path, reason in surveyed.others],
        }
    }
    threshold, origin, unread = None, report.SAME_DATA, len(surveyed.unreadable)
    if calibrated:
        threshold = calibrated.calibration.fit.t_opt
        origin = f"calibration: {calibrated.name}"
        extra["calibration"] = {
            "name": calibrated.name,
            "t_opt": threshold,
            "database": len(calibrated.survey.database),
            "nonduplicates": len(calibrated.survey.strangers),
            "unreadable": [
                {"path": path, "reason": reason} for path, reason in calibrated.survey.unreadable
            ],
        }
        unread += len(calibrated.survey.unreadable)
    protocol = Protocol(
        cases=len(surveyed.database) + len(surveyed.strangers),
        database=len(surveyed.database),
        nonduplicates=len(surveyed.strangers),
        model=plan.model.name,
        index=", ".join(plan.indexes),
        threshold_from=origin,
        slices=surveyed.slices,
        unreadable=surveyed.unreadable,
        known_pairs=surveyed.known_pairs,
    )
    progress.say("tables and figures")
    written = report.write(
        options.out,
        protocol,
        run.answers(surveyed),
        run.product_answers(surveyed),
        threshold=threshold,
        policy=shipped_policy(plan.model.entry).label if plan.model.entry else "none",
        json_file=options.json_file,
        extra=extra,
        crowded=run.product_answers(surveyed, crowded=True),
        crowd=run.crowd_facts() if plan.stand_ins else None,
    )
    print(written.summary)  # noqa: T201 - the result
    print(f"\n{options.out / 'report.md'}")  # noqa: T201
    for path, reason in surveyed.unreadable:
        progress.say(f"could not be read: {path}: {reason}")
    return UNREADABLE if unread else 0


def _calibrated(
    folder: Path, plan: Plan, options: Options, decoders: DecoderPool, progress: Progress
) -> _Calibrated:
    """Algorithm 1 on a folder of its own: the paper's bucket 1. HNSW and the seven sets are all
    that it needs."""
    own = Plan(folder, plan.out / "calibration", plan.model, ("hnsw",), SEVEN, product=False)
    progress.say(f"calibration on {folder}")
    with Run(own, options.resume, decoders, progress) as run:
        surveyed = run.carry_out()
        calibration = calibrate(collect(run.answers(surveyed)))
    if calibration is None:
        raise UsageError(f"{folder}: without strangers there is nothing to calibrate on")
    name = folder.resolve().name
    progress.say(f"t_opt = {calibration.fit.t_opt:.4f} from {name}")
    return _Calibrated(name, calibration, surveyed)


def _retrieval(options: Options, labels: Path, progress: Progress) -> int:
    """Retrieval by label; what only the protocol knows is refused."""
    for option, given in (
        ("--index", options.indexes is not None),
        ("--calibrate", options.calibrate is not None),
        ("--known-pairs", options.known_pairs is not None),
        ("--resume and --restart", options.resume is not None),
        ("--quick", options.quick),
        ("--stand-ins", options.stand_ins is not None),
        ("--stand-ins-from", options.stand_ins_from is not None),
        ("--ablation", options.ablation),
    ):
        if given:
            raise UsageError(f"with --retrieval the protocol is not run: leave out {option}")
    from diptych.evaluate import retrieval_run

    _quieten()
    asked = retrieval_run.Retrieval(
        options.folder, labels, options.out, _model(options), options.json_file, options.subjects
    )
    return retrieval_run.evaluate(asked, progress)


def _ablation(options: Options, progress: Progress) -> int:
    """The ladder without each of its pieces; what only the paper's part knows is refused."""
    for option, given in (
        ("--index", options.indexes is not None),
        ("--calibrate", options.calibrate is not None),
        ("--stand-ins", options.stand_ins is not None),
        ("--json", options.json_file is not None),
    ):
        if given:
            raise UsageError(
                f"with --ablation only the daemon's ladder is asked, in the database alone: leave "
                f"out {option}"
            )
    from diptych.evaluate import ablation_run

    _quieten()
    model = _model(options)
    if model.entry is None:
        raise UsageError(f"--ablation is of the daemon's ladder, which {model.name} lacks")
    asked = ablation_run.Ablation(
        options.folder,
        options.out,
        model,
        options.resume,
        options.quick,
        options.subjects,
        options.known_pairs,
    )
    try:
        return ablation_run.evaluate(asked, progress)
    except KeyboardInterrupt:
        progress.say(GOES_ON)
        return INTERRUPTED


def _check(options: Options) -> None:
    """What can be refused before anything is read."""
    for folder in (options.folder, options.calibrate, options.stand_ins_from):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{folder} is no folder")
    if options.stand_ins is not None and options.stand_ins < 1:
        raise UsageError(f"--stand-ins is 1 or more, not {options.stand_ins}")
    if (options.stand_ins is None) != (options.stand_ins_from is None):
        raise UsageError(
            "--stand-ins says how many, --stand-ins-from which volumes they are made of: "
            "give both or neither"
        )
    json_file = options.json_file
    if json_file is not None and (json_file.is_dir() or not json_file.parent.is_dir()):
        raise UsageError(f"{json_file} cannot be written: its folder must exist")


def _indexes(wanted: tuple[str, ...] | None, progress: Progress) -> tuple[IndexName, ...]:
    if wanted is None:
        if have_faiss():
            return INDEXES
        progress.say("LSH left out: pip install faiss-cpu")
        return tuple(name for name in INDEXES if name != "lsh")
    chosen = tuple(name for name in INDEXES if name in wanted)
    if unknown := [name for name in wanted if name not in INDEXES]:
        raise UsageError(f"--index is some of {','.join(INDEXES)}, not {unknown[0]!r}")
    if not chosen:
        raise UsageError(f"--index is some of {','.join(INDEXES)}")
    if "lsh" in chosen and not have_faiss():
        raise UsageError("LSH needs FAISS: pip install faiss-cpu, or leave lsh out of --index")
    return chosen


def _model(options: Options) -> Model:
    if options.model == Thumbnail.name:
        baseline = Thumbnail()
        return Model(
            baseline.name,
            baseline.fingerprint,
            baseline.input_size,
            baseline.dimension,
            baseline.embed,
            None,
        )
    try:
        entry = active.model(options.config, options.model)
    except ModelError as error:
        raise UsageError(f"--model: {error}; {Thumbnail.name} is the baseline") from error
    embedder = Embedder(entry)
    return Model(
        entry.name, entry.fingerprint, entry.input_size, entry.dimension, embedder.embed, entry
    )


def _quieten() -> None:
    """Libraries warn about odd headers on stderr; what matters is in the report, by file."""
    for name in ("nibabel", "nibabel.global", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
