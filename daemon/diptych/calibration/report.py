"""The figures in words, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from diptych.calibration.figures import Figures, Rate, Row, named
from diptych.calibration.strangers import MOST_STUDIES, LeftOut
from diptych.evaluate.answers import DUPLICATE
from diptych.judge.policy import Policy
from diptych.log import printable

NAMED = 20
"""Cases and pairs named in the text; JSON has all."""


@dataclass(frozen=True)
class Setting:
    """What was asked, and by what. planned: cases to be asked; interrupted: fewer were."""

    date: str
    version: str
    cases: int
    planned: int
    seed: int | None
    model: str
    fingerprint: str
    policy: Policy
    search: str
    interrupted: bool
    left_out: LeftOut


def said(figures: Figures, setting: Setting) -> Iterator[str | Table]:
    """Line by line."""
    policy, drawn = setting.policy, "all of them"
    if setting.seed is not None:
        drawn = f"{setting.planned} drawn at random (seed {setting.seed})"
    yield (
        f"{setting.cases} cases under {setting.model} ({setting.fingerprint[:12]}), {drawn}; "
        f"policy {policy.label}, d_max {policy.d_max:.4f}, threshold {policy.threshold}; "
        f"{setting.search} search; {setting.date}"
    )
    if setting.interrupted:
        yield f"interrupted: {figures.asked} of {setting.planned}, in random order, are counted"
    yield (
        "False alarms: a case looked up as if it were new, without its series, study, patient and "
        "known copies, and called exact, near-duplicate or partial all the same."
    )
    yield from _left_out(setting)
    yield _table(figures)
    for count, why in (
        (figures.alone, "without any stranger here (one patient, or copies of each other)"),
        (figures.blank, "without an informative slice"),
    ):
        if count:
            yield f"{count} not counted: {why}"
    if figures.doubtful:
        yield (
            f"{figures.doubtful} cases have copies by verdicts that rest on their slices, which "
            f"were believed; if all of these are wrong, clean: {rate(figures.doubted)}"
        )
    for why, cases in figures.gone.items():
        yield f"{len(cases)} cases could not be transformed ({why}): {_list(cases)}"
    yield from _alarms(figures)
    yield from _threshold(figures)


def rate(found: Rate) -> str:
    """ "0 of 444: at most 0.7 %"."""
    if found.bound is None:
        return "nobody"
    return f"{found.alarms} of {found.of}: at most {100 * found.bound:.1f} %"


def document(figures: Figures, setting: Setting) -> dict[str, Any]:
    """Everything, for machines. Rates are fractions; bounds one-sided at 95 %."""
    policy, fitted = setting.policy, figures.threshold
    return {
        "date": setting.date,
        "diptych": setting.version,
        "cases": setting.cases,
        "planned": setting.planned,
        "asked": figures.asked,
        "seed": setting.seed,
        "interrupted": setting.interrupted,
        "model": setting.model,
        "fingerprint": setting.fingerprint,
        "policy": {"label": policy.label, **_values(policy)},
        "search": setting.search,
        "without_strangers": figures.alone,
        "without_informative_slices": figures.blank,
        "false_alarms": {
            "clean": _row(figures.clean),
            "clean_if_slice_verdicts_are_wrong": _rate(figures.doubted),
            "cases_with_slice_verdicts": figures.doubtful,
            "transformed": {row.name: _row(row) for row in figures.transformed},
            "any_transform": _row(figures.any_transform) if figures.any_transform else None,
        },
        "left_out": {
            "cases": setting.left_out.cases,
            "most": setting.left_out.most,
            **{f"by_{why}": cases for why, cases in setting.left_out.ties.items()},
            "shared_patient_ids": setting.left_out.shared_ids,
            "cases_with_shared_patient_ids": setting.left_out.sharing,
        },
        "not_transformed": figures.gone,
        "alarms": [
            {
                "case_id": null.case_id,
                "called_a_copy_of": null.alarm,
                "query": named(null.transform),
                "relation": null.relation,
                "detail": null.detail,
            }
            for null in figures.alarms
        ],
        "pairs": [
            {"case_ids": sorted((pair[0].case_id, pair[0].alarm)), "queries": len(pair)}
            for pair in figures.pairs
        ],
        "copies_found": {
            named(transform): {"found": found, "of": of} for transform, found, of in figures.found
        },
        "algorithm_1": None
        if fitted is None
        else {
            "t_opt": fitted.fit.t_opt,
            "same_until": fitted.fit.until,
            "sets": {named(transform): copies for transform, copies in fitted.sets},
            "strangers": fitted.strangers,
            "thresholds": list(fitted.fit.thresholds),
            "sensitivity": list(fitted.fit.sensitivity),
            "specificity": list(fitted.fit.specificity),
            "at_the_policy": {
                "threshold": fitted.policy,
                "sensitivity": fitted.sensitivity,
                "specificity": fitted.specificity,
            },
        },
    }


def _left_out(setting: Setting) -> Iterator[str]:
    found = setting.left_out
    ties = found.ties
    if found.cases:
        yield (
            f"Left out as no strangers: others of the same series ({ties['series']} cases have "
            f"such), study ({ties['study']}) or patient ({ties['patient']}), and copies by a "
            f"verdict ({ties['verdict']}); {found.cases} of {setting.cases} cases in all, of one "
            f"case at most {found.most} others"
        )
    if found.shared_ids:
        yield (
            f"{found.sharing} cases have a PatientID with more than {MOST_STUDIES} studies "
            f"({found.shared_ids} such), which is not believed to be one patient's"
        )


def _table(figures: Figures) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    modalities = list(figures.clean.modalities)
    for heading in ("query", "all", *modalities):
        # Modalities are senders' texts: no markup, no control characters.
        table.add_column(Text(printable(heading)), no_wrap=True)
    found = {named(transform): f"{hits} of {of}" for transform, hits, of in figures.found}
    if found:
        table.add_column("copies found", no_wrap=True)
    rows = [figures.clean, *figures.transformed]
    rows += [figures.any_transform] if figures.any_transform else []
    for row in rows:
        cells = [rate(row.everybody), *(rate(row.modalities[each]) for each in modalities)]
        name = "duplicate" if row is figures.clean else row.name
        table.add_row(row.name, *cells, *([found.get(name, "")] if found else []))
    return table


def _alarms(figures: Figures) -> Iterator[str]:
    pairs = figures.pairs
    if not pairs:
        return
    yield (
        f"{len(pairs)} pairs behind these, which may be real copies that nobody had found. Look at "
        "both series (`diptych verdicts --format json` names them) before the policy is blamed:"
    )
    for first, *more in pairs[:NAMED]:
        also = f", and in {len(more)} more queries" if more else ""
        query = "clean" if first.transform == DUPLICATE else named(first.transform)
        yield (
            f"  cases {first.case_id} and {first.alarm}, {query}{also}: {first.relation}, "
            f"{first.detail}"
        )
    if len(pairs) > NAMED:
        yield f"  and {len(pairs) - NAMED} more: --json has all"


def _threshold(figures: Figures) -> Iterator[str]:
    fitted = figures.threshold
    if fitted is None:
        yield "Algorithm 1: no threshold, for want of strangers or of copies (kept pixels)."
        return
    fit = fitted.fit
    best = fit.thresholds.index(fit.t_opt)
    until = f", the same below {fit.until:.4f}" if fit.until is not None else ""
    yield (
        f"Algorithm 1 on c(3) over informative slices, {len(fitted.sets)} sets of copies "
        f"({sum(copies for _, copies in fitted.sets)}) against {fitted.strangers} strangers: t_opt "
        f"{fit.t_opt:.4f}{until}; sensitivity {fit.sensitivity[best]:.4f}, specificity "
        f"{fit.specificity[best]:.4f}. At the policy's {fitted.policy}: {fitted.sensitivity:.4f} "
        f"and {fitted.specificity:.4f}."
    )


def _list(cases: list[int]) -> str:
    return ", ".join(map(str, cases[:NAMED])) + (" …" if len(cases) > NAMED else "")


def _row(row: Row) -> dict[str, Any]:
    return {
        "all": _rate(row.everybody),
        "modalities": {name: _rate(found) for name, found in row.modalities.items()},
    }


def _rate(found: Rate) -> dict[str, Any]:
    return {"alarms": found.alarms, "of": found.of, "at_most": found.bound}


def _values(policy: Policy) -> dict[str, Any]:
    return {"d_max": policy.d_max, "threshold": policy.threshold, "sha256": policy.sha256()}
