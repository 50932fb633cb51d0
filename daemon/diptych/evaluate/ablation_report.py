"""``ablation.md`` and ``ablation.csv``: what each piece of the ladder is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych.evaluate.ablation import VARIANTS
from diptych.evaluate.answers import TRANSFORMS, Protocol
from diptych.evaluate.cells import NOTHING, Record, Table, rate_columns, rate_text
from diptych.evaluate.product_results import ProductResults
from diptych.evaluate.report import csv_text, markdown_table

NOTE = (
    "Sensitivity: copies that are called exact, near-duplicate or partial of their true case. "
    "Specificity: strangers that are called none of these. Each rate has its counts and its 95 % "
    "bound. Seconds per case: the median, from the volume in memory to the verdict; preparing, "
    "embedding and searching are the same in every row, aligning is what this one asked for. A "
    "pixel digest that agrees decides first, but in the last row. Among few cases c(3) is near 1 "
    "for every query, so that row depends on the size of the database."
)


@dataclass(frozen=True)
class Mistakes:
    """count: all that the complete ladder made. worst: of each of the worst what is to be said.
    figures: their pictures; none without a mistake."""

    count: int
    worst: tuple[tuple[str, ...], ...]
    figures: tuple[Path, ...]


def write(
    out: Path,
    protocol: Protocol,
    policy: str,
    quick: bool,
    results: Sequence[ProductResults],
    mistakes: Mistakes,
) -> str:
    """Both files; what a terminal shows. results: one per :data:`ablation.VARIANTS`. quick: only
    the seven sets were asked. OSError: what cannot be written."""
    table = ablation_table(results, quick)
    out.mkdir(parents=True, exist_ok=True)
    for path, text in (
        (out / "ablation.csv", csv_text(table)),
        (out / "ablation.md", _markdown(protocol, policy, table, mistakes)),
    ):
        # As the report's: a path may hold bytes that are no text.
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    words = f"{_counted(mistakes)}\n\n{out / 'ablation.md'}"
    return f"{_aligned([table.header, *table.rows])}\n\n{words}"


def ablation_table(results: Sequence[ProductResults], quick: bool) -> Table:
    """A row per variant."""
    sets = 7 if quick else len(TRANSFORMS)
    columns = [
        ("sensitivity_seven", "Sensitivity, seven sets", "mean_sensitivity"),
        ("sensitivity_all", "Sensitivity, all 25 sets", "mean_sensitivity_all"),
        ("specificity", "Specificity, untransformed strangers", "specificity"),
        (
            "specificity_transformed",
            f"Specificity, mean of the {sets - 1} transforms",
            "specificity_transformed",
        ),
    ]
    if quick:
        del columns[1]
    rows, records = [], []
    for variant, one in zip(VARIANTS, results, strict=True):
        rates = {name: getattr(one, field) for name, _, field in columns}
        seconds = one.seconds_median
        cell = NOTHING if seconds is None else f"{seconds:.3f}"
        rows.append((variant.words, *map(rate_text, rates.values()), cell))
        record: Record = {"variant": variant.name}
        for name, rate in rates.items():
            record |= rate_columns(name, rate)
        record["seconds_median"] = None if seconds is None else round(seconds, 5)
        records.append(record)
    header = ("Ladder", *(title for _, title, _ in columns), "Seconds per case")
    title = "What each piece of the ladder is worth"
    return Table("ablation", title, NOTE, header, tuple(rows), tuple(records))


def _markdown(protocol: Protocol, policy: str, table: Table, mistakes: Mistakes) -> str:
    facts = (
        ("Cases", f"{protocol.cases} ({protocol.slices} slices)"),
        ("Database, and copies", str(protocol.database)),
        ("Strangers", str(protocol.nonduplicates)),
        ("Known natural duplicate pairs", str(protocol.known_pairs)),
        ("Inputs that became no case", str(len(protocol.unreadable))),
        ("Model", protocol.model),
        ("Policy", policy),
    )
    parts = [
        f"# {table.title}",
        markdown_table(("Protocol", ""), facts),
        table.note,
        markdown_table(table.header, table.rows),
        "## The worst mistakes of the complete ladder",
        f"{_counted(mistakes)} Wrong calls come first, those most above what is demanded of the "
        "correlation; then lost copies, those most below."
        if mistakes.count
        else _counted(mistakes),
    ]
    if mistakes.worst:
        rows = [(str(n), "; ".join(words)) for n, words in enumerate(mistakes.worst, 1)]
        parts.append(markdown_table(("", "Mistake"), rows))
    for path in mistakes.figures:
        if path.suffix == ".png":
            parts.append(f"![{path.stem}]({path.name})")
            parts.append(
                "From left: the query, what it is held against as the transform that was found "
                "brings it there, and the difference (red: the query is brighter). Yellow: nothing "
                "is known there."
            )
    if protocol.unreadable:
        parts.append("## Inputs that became no case")
        parts.append(markdown_table(("Path", "Reason"), protocol.unreadable))
    return "\n\n".join(parts) + "\n"


def _counted(mistakes: Mistakes) -> str:
    if not mistakes.count:
        return "The complete ladder made no mistake."
    if mistakes.count == 1:
        return "The complete ladder made 1 mistake; it is shown."
    shown = len(mistakes.worst)
    which = f"the worst {shown}" if shown < mistakes.count else "all"
    return f"The complete ladder made {mistakes.count} mistakes; {which} are shown."


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of one width each."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
