"""``diptych evaluate FOLDER --ablation``: ask every variant, compare, show the worst mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diptych.evaluate import ablation_report, mistakes
from diptych.evaluate.ablation import VARIANTS
from diptych.evaluate.answers import DUPLICATE, SEVEN, TRANSFORMS, Protocol
from diptych.evaluate.product_results import product_results
from diptych.evaluate.progress import Progress
from diptych.evaluate.protocol import Model, Plan, Run
from diptych.evaluate.survey import Survey
from diptych.judge.policy import Policy
from diptych.lookup import shipped_policy
from diptych.volume.decoders import DecoderPool

UNREADABLE = 3


@dataclass(frozen=True)
class Ablation:
    """What was asked for; as the options of the protocol."""

    folder: Path
    out: Path
    model: Model
    resume: bool | None
    quick: bool
    subjects: Path | None
    known_pairs: Path | None


def evaluate(asked: Ablation, progress: Progress) -> int:
    """Run it and write ``ablation.md``, ``.csv`` and the pictures; the exit status as
    ``evaluate``'s. What is resumed is in ``out/ablation``: the protocol's own run stays.

    UsageError: as for the protocol.
    """
    assert asked.model.entry is not None
    policy = shipped_policy(asked.model.entry)
    plan = Plan(
        asked.folder,
        asked.out / "ablation",
        asked.model,
        (),
        SEVEN if asked.quick else TRANSFORMS,
        product=True,
        subjects=asked.subjects,
        known_pairs=asked.known_pairs,
        without=(asked.out,),
        ablation=True,
    )
    with DecoderPool() as decoders, Run(plan, asked.resume, decoders, progress) as run:
        surveyed = run.carry_out()
        protocol = Protocol(
            cases=len(surveyed.database) + len(surveyed.strangers),
            database=len(surveyed.database),
            nonduplicates=len(surveyed.strangers),
            model=asked.model.name,
            index="",
            threshold_from="",
            slices=surveyed.slices,
            unreadable=surveyed.unreadable,
            known_pairs=surveyed.known_pairs,
        )
        results = [
            product_results(run.ablated(surveyed, number), policy.label)
            for number in range(len(VARIANTS))
        ]
        shown = _shown(run, surveyed, asked.out, policy, progress)
    said = ablation_report.write(asked.out, protocol, policy.label, asked.quick, results, shown)
    print(said)  # noqa: T201 - the result
    for path, reason in surveyed.unreadable:
        progress.say(f"could not be read: {path}: {reason}")
    return UNREADABLE if surveyed.unreadable else 0


def _shown(
    run: Run, surveyed: Survey, out: Path, policy: Policy, progress: Progress
) -> ablation_report.Mistakes:
    """The worst mistakes, drawn; without any, an earlier run's pictures do not stay."""
    made = list(run.mistakes(surveyed))
    worst = mistakes.worst(made)
    if not worst:
        for name in ("mistakes.png", "mistakes.svg"):
            (out / name).unlink(missing_ok=True)
        return ablation_report.Mistakes(0, (), ())
    cases = {case.id: case for case in (*surveyed.database, *surveyed.strangers)}
    with progress.phase("pictures", len(worst), len(worst)) as phase:
        pictures = []
        for each in worst:
            ours = run.volume(cases[each.case], each.transform)
            theirs = run.volume(cases[each.against], DUPLICATE)
            pictures.append(mistakes.picture(each, ours, theirs, policy))
            phase.finished(1)
        figures = mistakes.draw(out, pictures)
    return ablation_report.Mistakes(len(made), tuple(one.words for one in pictures), figures)
