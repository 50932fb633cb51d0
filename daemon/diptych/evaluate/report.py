"""Write an evaluation down: report.md, one CSV per table, results.json and the figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diptych.evaluate.answers import Answer, ProductAnswer, Protocol
from diptych.evaluate.beyond import beyond_tables
from diptych.evaluate.cells import NOTHING, Table, index_name, number, rate_text
from diptych.evaluate.crowd_report import Crowded, crowd_document, crowd_tables, crowd_words
from diptych.evaluate.document import Document, document
from diptych.evaluate.figures import draw
from diptych.evaluate.paper_results import PaperResults, paper_results
from diptych.evaluate.product_results import ProductResults, product_results
from diptych.evaluate.scores import K, collect
from diptych.evaluate.tables import paper_tables

SAME_DATA = "same data"


@dataclass(frozen=True)
class Report:
    """summary: what a terminal shows. document: the JSON. files: everything written."""

    summary: str
    document: Document
    files: tuple[Path, ...]


def write(
    out: Path,
    protocol: Protocol,
    answers: Iterable[Answer],
    product: Iterable[ProductAnswer],
    *,
    threshold: float | None,
    policy: str,
    json_file: Path | None = None,
    extra: Mapping[str, Any] | None = None,
    crowded: Iterable[ProductAnswer] = (),
    crowd: Mapping[str, Any] | None = None,
) -> Report:
    """Compute every number once and write it below out (made if needed).

    threshold: t_opt of a calibration, named by protocol.threshold_from; None fits it on these
    answers, and every output says so on top. answers and product are read once each and not kept.
    extra: further top-level keys of the JSON. crowded: the ladder's answers with stand-ins in its
    archive, and crowd: the facts about these; None where there are none. ValueError: a given
    threshold without its origin, impossible answers, a key of the contract in extra. OSError: what
    cannot be written.
    """
    if threshold is None:
        protocol = replace(protocol, threshold_from=SAME_DATA)
    elif protocol.threshold_from == SAME_DATA:
        raise ValueError("a given threshold needs threshold_from to say where it comes from")
    lookups = collect(answers)
    paper, ladder = paper_results(lookups, threshold), product_results(product, policy)
    tables = [*paper_tables(paper, protocol.threshold_from)]
    tables += beyond_tables(protocol, paper, ladder, protocol.threshold_from)
    extra = dict(extra or {})
    headline, paragraph = origin(protocol, paper), summary(protocol, paper, ladder)
    if crowd is not None:
        among = Crowded(product_results(crowded, policy), crowd)
        tables += crowd_tables(protocol, ladder, among)
        extra["stand_ins"] = crowd_document(among, ladder)
        paragraph = f"{paragraph} {crowd_words(among, ladder)}"
    made = document(protocol, paper, ladder, extra)

    out.mkdir(parents=True, exist_ok=True)
    figures = draw(out, lookups, paper, headline)
    texts = {out / f"{table.name}.csv": csv_text(table) for table in tables if table.rows}
    for table in tables:
        if not table.rows:  # nor may an earlier run's stay
            (out / f"{table.name}.csv").unlink(missing_ok=True)
    texts[out / "results.json"] = json_text(made)
    texts[out / "report.md"] = _markdown(protocol, headline, paragraph, tables, figures)
    if json_file:
        texts[json_file] = json_text(made)
    for path, text in texts.items():
        # A path may hold bytes that are no text; JSON and CSV then show them escaped.
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return Report(f"{headline}\n\n{paragraph}", made, (*figures, *texts))


def origin(protocol: Protocol, paper: PaperResults) -> str:
    """Where the threshold comes from: the first thing every output says."""
    if paper.threshold is None:
        return "No threshold: without strangers and copies it could not be fitted."
    if protocol.threshold_from == SAME_DATA:
        return f"Threshold fitted on the same data: {number(paper.threshold)}"
    return f"Threshold from {protocol.threshold_from}: {number(paper.threshold)}"


def summary(protocol: Protocol, paper: PaperResults, product: ProductResults) -> str:
    """One paragraph of plain words."""
    unread = len(protocol.unreadable)
    said = [
        f"{protocol.cases} cases of {protocol.slices} slices were read"
        + (f"; {unread} inputs became no case." if unread else "."),
        f"{protocol.database} of them are the database, and, untransformed and transformed, the "
        f"copies; the other {protocol.nonduplicates} are the strangers.",
    ]
    if paper.index is None:
        said.append("Nothing was looked up: there is no paper-mode figure.")
    elif paper.threshold is None:
        said.append("No threshold could be fitted, so there are no rates at a shared threshold.")
    else:
        said.append(_paper_words(protocol, paper))
        if paper.calibration and len(paper.calibration.sets) < 7:
            said.append(
                f"The threshold rests on {len(paper.calibration.sets)} of the seven sets: the "
                "others have no copies."
            )
    if paper.mean_stage2_all_24.value is not None:
        said.append(
            "Over the transforms of all strengths, each at its own threshold, stage 2 finds "
            f"{rate_text(paper.mean_stage2_all_24)}."
        )
    if paper.natural:
        said.append(
            f"Known natural duplicates among the strangers: {len(paper.natural)}, not counted as "
            "strangers, with a table of their own."
        )
    said.append(_product_words(product))
    return " ".join(said)


def _paper_words(protocol: Protocol, paper: PaperResults) -> str:
    copies, strangers = "None of the copies was looked up.", "None of the strangers was looked up."
    if paper.mean_sensitivity_stage1.value is not None:
        copies = (
            f"{rate_text(paper.mean_sensitivity_stage1)} of the copies in the seven sets surpass "
            f"the threshold (mean sensitivity, stage 1), and "
            f"{rate_text(paper.mean_sensitivity_stage2)} also point at their true case (stage 2)."
        )
    if paper.specificity_stage1.value is not None:
        strangers = (
            f"{rate_text(paper.specificity_stage1)} of the strangers do not surpass it "
            f"(specificity, stage 1); {rate_text(paper.specificity_stage2)} in stage 2, where a "
            "copy that points at the wrong case counts as a false positive."
        )
    method = f"Count score c({K}), {index_name(paper.index)}, model {protocol.model}"
    return f"{method}: {copies} {strangers}"


def _product_words(product: ProductResults) -> str:
    if product.seconds_per_case is None:
        return "The daemon's own ladder was not run."
    strangers = product.untransformed
    return (
        f"The daemon's own ladder (policy {product.policy}, not fitted here) finds "
        f"{rate_text(product.mean_sensitivity)} of the copies in the seven sets and "
        f"{rate_text(product.mean_sensitivity_all)} in all 25, and calls "
        f"{strangers.false_positives} of {strangers.strangers} strangers a duplicate (specificity "
        f"{rate_text(product.specificity)}), in {product.seconds_per_case:.2f} s per case."
    )


def _markdown(
    protocol: Protocol,
    headline: str,
    paragraph: str,
    tables: Iterable[Table],
    figures: Iterable[Path],
) -> str:
    facts = (
        ("Cases", f"{protocol.cases} ({protocol.slices} slices)"),
        ("Database, and copies", str(protocol.database)),
        ("Strangers", str(protocol.nonduplicates)),
        ("Known natural duplicate pairs", str(protocol.known_pairs)),
        ("Inputs that became no case", str(len(protocol.unreadable))),
        ("Model", protocol.model),
        ("Index", protocol.index),
        ("Threshold from", protocol.threshold_from),
    )
    parts = [
        "# The paper's protocol on this data",
        f"**{headline}**",
        markdown_table(("Protocol", ""), facts),
        paragraph,
        "Method: Truong et al. 2023. A query is called a duplicate when its score is greater than "
        "the threshold. A rate is followed by its counts and its 95 % bound (Clopper-Pearson), an "
        "AUC by copies v strangers and DeLong's bound. For the bound of a mean whole cases are "
        "drawn (bootstrap), since the queries of one case are not independent. "
        f"{NOTHING} is what could not be computed.",
    ]
    for table in (table for table in tables if table.rows):
        parts += [f"## {table.title}", table.note, markdown_table(table.header, table.rows)]
    parts.append("## Figures")
    parts += [f"![{p.stem}]({p.name})" for p in figures if p.suffix == ".png"]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Rows of text under a heading."""
    header = tuple(header)
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """A path may hold anything: no cell breaks its row."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def csv_text(table: Table) -> str:
    """The records of a table that has some."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table.records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records)
    return text.getvalue()


def json_text(made: Document) -> str:
    """Nothing but JSON: what could not be computed is null, not NaN."""
    return json.dumps(made, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
