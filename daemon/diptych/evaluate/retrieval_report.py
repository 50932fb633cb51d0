"""The retrieval's figures as Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych.evaluate.cells import Record, Table, rate_columns, rate_text
from diptych.evaluate.document import Document, estimates
from diptych.evaluate.report import csv_text, json_text, markdown_table
from diptych.evaluate.retrieval import KS, MODES, LevelAnswers, Mode

EVERY_SLICE = MODES[0]

DEFINITION = (
    "Recall@k: of the queries with a label, the share that has a case of the same label among the "
    "k most similar ones; at k = 1 over the queries of one label it is TP / (TP + FN) with the "
    "label of the most similar case as the answer. Every case is looked up among all others: not "
    "itself, nor cases of its subject or of the same pixels. Count aggregation over informative "
    "slices, exact search. A rate is followed by its counts and its 95 % bound (Clopper-Pearson); "
    "for the bound of a mean over labels whole cases are drawn (bootstrap). Khun Jush et al. 2023, "
    "arXiv:2311.13547."
)


@dataclass(frozen=True)
class Facts:
    """What was run. slices: informative ones. without_label: cases that LABELS.csv says nothing
    of: they were not read. unreadable: (path, reason) of labelled ones that became no case."""

    cases: int
    slices: int
    subjects: int
    without_label: int
    model: str
    unreadable: tuple[tuple[str, str], ...]


def write(out: Path, facts: Facts, levels: Sequence[LevelAnswers], json_file: Path | None) -> str:
    """Write everything below ``out``, made if needed; what a terminal shows. OSError."""
    overall = [_by_mode(level) for level in levels]
    tables = [
        each for level, one in zip(levels, overall, strict=True) for each in (one, _by_label(level))
    ]
    records = [record for table in tables for record in table.records]
    made = {"retrieval": _document(facts, levels)}
    texts = {
        out / "retrieval.md": _markdown(facts, levels, tables),
        out / "retrieval.json": json_text(made),
    }
    if records:
        whole = Table("retrieval", "", "", (), (), tuple(records))
        texts[out / "retrieval.csv"] = csv_text(whole)
    if json_file:
        texts[json_file] = json_text(made)
    out.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        # A path may hold bytes that are no text.
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return "\n".join([_summary(facts, levels), "", str(out / "retrieval.md")])


def _summary(facts: Facts, levels: Sequence[LevelAnswers]) -> str:
    said = [f"{facts.cases} labelled cases, {facts.slices} informative slices, model {facts.model}"]
    for level in levels:
        if level.labels:
            one, mean = level.recall(EVERY_SLICE, 1), level.mean_recall(EVERY_SLICE, 1)
            said.append(
                f"{level.level}: recall@1 {rate_text(one)}, mean over labels {rate_text(mean)}"
            )
        else:
            said.append(f"{level.level}: no label has two cases that may find each other")
        if level.alone:
            said.append(f"{level.level}: {_alone(level)}")
    return "\n".join(said)


def _alone(level: LevelAnswers) -> str:
    named = ", ".join(f"{label} ({count})" for label, count in level.alone.items())
    return f"{sum(level.alone.values())} cases alone with their label, not asked: {named}"


def _by_mode(level: LevelAnswers) -> Table:
    rows, records = [], []
    for mode in MODES if level.labels else ():
        rates = {k: level.recall(mode, k) for k in KS}
        means = {k: level.mean_recall(mode, k) for k in KS}
        rows.append((*_named(mode), *map(rate_text, (*rates.values(), means[1]))))
        for label, found in (("", rates), ("mean over labels", means)):
            record = _record(level, mode, label)
            for k, estimate in found.items():
                record |= rate_columns(f"recall_at_{k}", estimate)
            records.append(record)
    header = ("Slices", "Weights", *(f"Recall@{k}" for k in KS), "Mean over labels, @1")
    return Table("", f"{level.level.capitalize()}", "", header, tuple(rows), tuple(records))


def _by_label(level: LevelAnswers) -> Table:
    rows, records = [], []
    for label in level.labels:
        for mode in MODES:
            rates = {k: level.recall(mode, k, label) for k in KS}
            record = _record(level, mode, label)
            for k, estimate in rates.items():
                record |= rate_columns(f"recall_at_{k}", estimate)
            records.append(record)
            if mode == EVERY_SLICE:
                rows.append((label, *map(rate_text, rates.values())))
    header = (level.level.capitalize(), *(f"Recall@{k}" for k in KS))
    note = "All informative slices, no weights; the other ways are in `retrieval.csv`."
    title = f"{level.level.capitalize()}, label by label"
    return Table("", title, note, header, tuple(rows), tuple(records))


def _named(mode: Mode) -> tuple[str, str]:
    return str(mode.sampling), "Gaussian" if mode.gaussian else "none"


def _record(level: LevelAnswers, mode: Mode, label: str) -> Record:
    """label "": over all queries."""
    return {
        "level": level.level,
        "label": label,
        "slices": str(mode.sampling),
        "gaussian": int(mode.gaussian),
    }


def _markdown(facts: Facts, levels: Sequence[LevelAnswers], tables: Sequence[Table]) -> str:
    rows = (
        ("Labelled cases", f"{facts.cases} ({facts.slices} informative slices)"),
        ("Subjects", str(facts.subjects)),
        ("Cases without a label, not read", str(facts.without_label)),
        ("Labelled, but no case", str(len(facts.unreadable))),
        ("Model", facts.model),
    )
    parts = [
        "# Retrieval by label on this data",
        markdown_table(("Retrieval", ""), rows),
        DEFINITION,
    ]
    for number, table in enumerate(tables):
        level = levels[number // 2]
        if table.rows:
            parts += [f"## {table.title}", table.note]
            parts += [markdown_table(table.header, table.rows)]
        elif number % 2 == 0:
            parts += [f"## {table.title}", "No label has two cases that may find each other."]
        if number % 2 == 0 and level.alone:
            parts.append(_alone(level) + ".")
    if facts.unreadable:
        parts += ["## Labelled, but no case", markdown_table(("Path", "Reason"), facts.unreadable)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _document(facts: Facts, levels: Sequence[LevelAnswers]) -> Document:
    return {
        "definition": DEFINITION,
        "model": facts.model,
        "cases": facts.cases,
        "slices": facts.slices,
        "subjects": facts.subjects,
        "without_label": facts.without_label,
        "unreadable": [{"path": path, "reason": reason} for path, reason in facts.unreadable],
        "levels": [_level(level) for level in levels],
    }


def _level(level: LevelAnswers) -> Document:
    return {
        "level": level.level,
        "candidates": level.candidates,
        "queries": len(level.asked[EVERY_SLICE]),
        "alone": dict(level.alone),
        "modes": [_mode(level, mode) for mode in MODES],
        "queries_all_slices": [
            {"case": each.case, "label": each.label, "rank": each.rank or None, "first": each.first}
            for each in level.asked[EVERY_SLICE]
        ],
    }


def _mode(level: LevelAnswers, mode: Mode) -> Document:
    return {
        "slices": str(mode.sampling),
        "gaussian": mode.gaussian,
        **estimates({f"recall_at_{k}": level.recall(mode, k) for k in KS}),
        "mean_over_labels": estimates({f"recall_at_{k}": level.mean_recall(mode, k) for k in KS}),
        "labels": [
            {
                "label": label,
                **estimates({f"recall_at_{k}": level.recall(mode, k, label) for k in KS}),
            }
            for label in level.labels
        ],
    }
