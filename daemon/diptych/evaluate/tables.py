"""Tables II to V and A.1 to A.3 of Truong et al. 2023, for this data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from diptych.evaluate.answers import DUPLICATE, SEVEN, TRANSFORMS, Transform
from diptych.evaluate.cells import (
    KINDS,
    Record,
    Table,
    auc_columns,
    auc_text,
    index_name,
    label,
    named,
    number,
    rate_columns,
    rate_text,
    strength,
)
from diptych.evaluate.paper_results import PaperResults, PaperSet
from diptych.evaluate.scores import TOP_K, K
from diptych.evaluate.statistics import UNKNOWN, Estimate, Stages


@dataclass(frozen=True)
class Measure:
    """What a table says of one set and k: in a cell, and as the columns of a record."""

    cell: Callable[[PaperSet, int], str]
    columns: Callable[[PaperSet, int], Record]


AUC = Measure(lambda one, k: auc_text(one.auc[k]), lambda one, k: auc_columns(one.auc[k]))
SENSITIVITY = Measure(
    lambda one, k: rate_text(_own(one, k).sensitivity_stage2),
    lambda one, k: rate_columns("sensitivity_stage2", _own(one, k).sensitivity_stage2),
)
SPECIFICITY = Measure(
    lambda one, k: rate_text(_own(one, k).specificity_stage2),
    lambda one, k: rate_columns("specificity_stage2", _own(one, k).specificity_stage2),
)

NO_STAGES = Stages(0.0, 0, 0, 0, 0, 0)
"""Nothing counted: every rate of it is unknown."""

_OWN = "t_ROC is fitted on the same data, one for each set, index and k."


def paper_tables(paper: PaperResults, origin: str) -> list[Table]:
    """The paper's, and Table V over all 25 sets. origin: where the shared threshold comes from.

    Without rows where nothing was looked up.
    """
    made = [
        table_2(paper),
        table_3(paper),
        table_4(paper),
        table_5(paper, origin),
        *tables_a(paper),
        algorithm_1_table(paper),
        all_sets(paper, origin),
    ]
    return made if paper.index else [replace(table, rows=()) for table in made]


def table_2(paper: PaperResults) -> Table:
    """Duplicates against strangers, each index."""
    sets = {index: _of(every, DUPLICATE) for index, every in paper.sets.items()}
    rows = [
        (name, f"top {k}", *(measure.cell(one, k) for one in sets.values()))
        for name, measure in (
            ("AUC (stage 1)", AUC),
            ("Sensitivity (stage 2)", SENSITIVITY),
            ("Specificity (stage 2)", SPECIFICITY),
        )
        for k in TOP_K
    ]
    return Table(
        "table-2",
        "Table II. Duplicate detection",
        f"Untransformed copies against strangers. {_OWN}",
        ("Measure", "Retrieval", *map(index_name, sets)),
        tuple(rows),
        _own_records(paper, [DUPLICATE], sets, TOP_K, (AUC, SENSITIVITY, SPECIFICITY)),
    )


def table_3(paper: PaperResults) -> Table:
    """Stage 1: the AUC of near-duplicates, top 3."""
    title = f"Table III. AUC of near-duplicates, {index_name(paper.index)}, top {K} (stage 1)"
    return _grid(paper, "table-3", title, "Transformed copies against strangers.", AUC)


def table_4(paper: PaperResults) -> Table:
    """Stage 2: the sensitivity for near-duplicates at their own t_ROC, top 3."""
    title = (
        f"Table IV. Sensitivity for near-duplicates, {index_name(paper.index)}, top {K} (stage 2)"
    )
    return _grid(paper, "table-4", title, _OWN, SENSITIVITY)


def table_5(paper: PaperResults, origin: str) -> Table:
    """Both stages of the seven sets at the shared threshold."""
    return _stages_table(
        "table-5",
        f"Table V. Sensitivity and specificity, {_at(paper)}",
        [_of(paper.headline, transform) for transform in SEVEN],
        (
            "Mean",
            paper.mean_sensitivity_stage1,
            paper.mean_sensitivity_stage2,
            paper.specificity_stage1,
            paper.specificity_stage2,
        ),
        origin,
    )


def tables_a(paper: PaperResults) -> list[Table]:
    """A.1 to A.3: every near-duplicate set, every index, top 1 and top 3."""
    columns = [(index, k) for k in TOP_K for index in paper.sets]
    return [
        Table(
            f"table-a{place}",
            f"Table A.{place}. {title}",
            _OWN,
            ("Transform", "Strength", *(f"top {k}, {index_name(index)}" for index, k in columns)),
            tuple(
                (
                    KINDS[transform.name],
                    strength(transform),
                    *(measure.cell(_of(paper.sets[index], transform), k) for index, k in columns),
                )
                for transform in TRANSFORMS[1:]
            ),
            _own_records(paper, TRANSFORMS[1:], paper.sets, TOP_K, (measure,)),
        )
        for place, title, measure in (
            (1, "AUC of near-duplicates (stage 1)", AUC),
            (2, "Sensitivity for near-duplicates at t_ROC (stage 2)", SENSITIVITY),
            (3, "Specificity at t_ROC (stage 2)", SPECIFICITY),
        )
    ]


def algorithm_1_table(paper: PaperResults) -> Table:
    """The candidates for t_opt; empty when the threshold was given."""
    rows, records, plateau = [], [], ""
    if paper.calibration:
        fit = paper.calibration.fit
        if fit.until is not None:
            plateau = f" Any threshold from t_opt to just below {number(fit.until)} gives the same."
        for transform, t, se, sp in zip(
            paper.calibration.sets, fit.thresholds, fit.sensitivity, fit.specificity, strict=True
        ):
            chosen = t == fit.t_opt
            numbers = map(number, (t, se, sp, se + sp))
            rows.append((label(transform), *numbers, "t_opt" if chosen else ""))
            record: Record = {"t_roc": t, "mean_sensitivity": se, "mean_specificity": sp}
            record |= {"chosen": int(chosen), "threshold_from": "same data"}
            records.append(named(transform) | record)
    return Table(
        "algorithm-1",
        "Algorithm 1. The candidates for the shared threshold",
        f"Each set's t_ROC, and the mean stage-1 rates of all these sets at it.{plateau}",
        ("Set", "t_ROC", "Mean sensitivity", "Mean specificity", "Sum", "Chosen"),
        tuple(rows),
        tuple(records),
    )


def all_sets(paper: PaperResults, origin: str) -> Table:
    """Beyond the paper: Table V's columns for all 25 sets."""
    mean = paper.mean_stage2_all_24_t_opt
    return _stages_table(
        "all-sets",
        f"Beyond the paper: Table V for all 25 sets, {_at(paper)}",
        paper.headline,
        ("Mean of the 24 transforms", UNKNOWN, mean, UNKNOWN, UNKNOWN),
        origin,
    )


def _of(sets: Iterable[PaperSet], transform: Transform) -> PaperSet:
    return next(one for one in sets if one.transform == transform)


def _at(paper: PaperResults) -> str:
    return f"{index_name(paper.index)}, top {K}, threshold {number(paper.threshold)}"


def _grid(paper: PaperResults, name: str, title: str, note: str, measure: Measure) -> Table:
    """A row per kind of transform, a column per strength, as Tables III and IV."""
    near = TRANSFORMS[1:]
    rows = []
    for kind in dict.fromkeys(transform.name for transform in near):
        cells = [
            f"{strength(transform)}: {measure.cell(_of(paper.headline, transform), K)}"
            for transform in near
            if transform.name == kind
        ]
        rows.append((KINDS[kind], *cells))
    header = ("Transform", "Weakest", "Second", "Third", "Strongest")
    records = _own_records(paper, near, [paper.index] if paper.index else [], (K,), (measure,))
    return Table(name, title, note, header, tuple(rows), records)


def _stages_table(
    name: str,
    title: str,
    sets: Sequence[PaperSet],
    mean: tuple[str, Estimate, Estimate, Estimate, Estimate],
    origin: str,
) -> Table:
    """Both stages at the shared threshold; the last row is the mean."""
    rows = [
        (label(one.transform), *map(rate_text, _four(one.at_t_opt or NO_STAGES))) for one in sets
    ]
    rows.append((mean[0], *map(rate_text, mean[1:])))
    records = [
        named(one.transform) | _stages_record(one.at_t_opt) | {"threshold_from": origin}
        for one in sets
    ]
    header = (
        "Set",
        "Sensitivity, stage 1",
        "Sensitivity, stage 2",
        "Specificity, stage 1",
        "Specificity, stage 2",
    )
    return Table(name, title, "", header, tuple(rows), tuple(records))


def _four(stages: Stages) -> tuple[Estimate, Estimate, Estimate, Estimate]:
    return (
        stages.sensitivity_stage1,
        stages.sensitivity_stage2,
        stages.specificity_stage1,
        stages.specificity_stage2,
    )


def _stages_record(stages: Stages | None) -> Record:
    record: Record = {"threshold": stages.threshold if stages else None}
    names = ("sensitivity_stage1", "sensitivity_stage2", "specificity_stage1", "specificity_stage2")
    for name, estimate in zip(names, _four(stages or NO_STAGES), strict=True):
        record |= rate_columns(name, estimate)
    return record


def _own_records(
    paper: PaperResults,
    transforms: Iterable[Transform],
    indexes: Iterable[str],
    ks: Iterable[int],
    measures: Iterable[Measure],
) -> tuple[Record, ...]:
    """The measures of each set on its own curve."""
    records: list[Record] = []
    for index in indexes:
        for k in ks:
            for transform in transforms:
                one = _of(paper.sets[index], transform)
                stages = one.at_t_roc[k]
                record: Record = {"index": index, "k": k}
                record |= named(transform) | {"t_roc": stages.threshold if stages else None}
                for measure in measures:
                    record |= measure.columns(one, k)
                records.append(record | {"threshold_from": "same data (t_ROC)"})
    return tuple(records)


def _own(one: PaperSet, k: int) -> Stages:
    """The counts on the set's own curve; none where it has no curve."""
    return one.at_t_roc[k] or NO_STAGES
