"""``diptych similar``."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from diptych import reports
from diptych.cli.common import ConfigOption, DataOption, in_words, load, open_store
from diptych.errors import UsageError
from diptych.log import printable

if TYPE_CHECKING:
    from diptych.similar import Answer, Found, Question


def similar(
    what: Annotated[
        str,
        typer.Argument(
            metavar="CASE|PATH",
            help="case_id, as `verdicts` prints it; or a DICOM file or series folder, NIfTI, NRRD "
            "or MetaImage (a file whose name is a number: ./7).",
        ),
    ],
    slices: Annotated[
        str, typer.Option(metavar="WHICH", help="Which vote: all, every:N, or sample:K of them.")
    ] = "all",
    gaussian: Annotated[
        bool, typer.Option("--gaussian", help="Slices in the middle weigh more.")
    ] = False,
    top: Annotated[int, typer.Option(metavar="N", help="How many cases.", min=1)] = 10,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write it as JSON here (-: stdout)."),
    ] = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Find the archive's cases that are most like a case or a file; nothing is stored.

    Each slice votes for the case that holds the nearest slice; the share is what a case got of all
    votes. Where these are fewer than N cases, the slices vote again without them (round 2, ...).
    """
    with in_words():
        from diptych.judge import retrieval
        from diptych.similar import Question
        from diptych.similar import similar as answer

        try:
            sampling = retrieval.parse(slices)
        except ValueError as error:
            raise UsageError(f"--slices {error}") from error
        number = what.isascii() and what.isdigit()
        question = Question(
            int(what) if number else None,
            None if number else Path(what),
            sampling,
            gaussian,
            top,
        )
        chosen = load(data, config)
        found = answer(chosen, open_store(chosen), question)
        if json_file is not None:
            text = json.dumps(_document(what, question, found), indent=1) + "\n"
            if json_file == "-":
                print(text, end="")  # noqa: T201 - the result
                return
            Path(json_file).write_text(text, "utf-8")
        console = reports.console()
        with console.capture() as captured:
            console.print(_table(found))
            console.print(Text(_words(what, question, found), style="dim"))
        print(captured.get(), end="")  # noqa: T201


def _document(what: str, question: Question, answer: Answer) -> dict[str, Any]:
    """The JSON: a contract."""
    return {
        "query": {"case_id": question.case} if question.path is None else {"path": what},
        "slices": str(question.sampling),
        "gaussian": question.gaussian,
        "model": answer.model,
        "informative_slices": answer.informative,
        "asked_slices": answer.asked,
        "compared_cases": answer.compared,
        "excluded_cases": list(answer.excluded),
        "left_out_cases": answer.left_out,
        "similar": [_row(number, each) for number, each in enumerate(answer.found, 1)],
    }


def _row(rank: int, found: Found) -> dict[str, Any]:
    known, similar = found.known, found.similar
    return {
        "rank": rank,
        "case_id": known.case_id,
        "round": similar.round,
        "share": similar.share,
        "hits": similar.hits,
        "nearest": round(similar.nearest, 6),
        "same_pixels": found.same_pixels,
        "modality": known.modality,
        "body_part": known.body_part,
        "source": known.source,
        "slices": known.slices,
        "study_instance_uid": known.study_instance_uid,
        "series_instance_uid": known.series_instance_uid,
        "received_at": _time(known.created_at),
    }


def _table(answer: Answer) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for heading, justify in _HEADINGS:
        table.add_column(heading, justify="right" if justify else "left", overflow="fold")
    for number, found in enumerate(answer.found, 1):
        row = _row(number, found)
        table.add_row(
            str(number),
            str(row["case_id"]),
            f"{row['share']:.4f}",
            f"{row['hits']}/{answer.asked}",
            str(row["round"]),
            f"{row['nearest']:.4f}",
            *(_text(row[name]) for name in ("modality", "body_part", "source")),
            str(row["slices"]),
            row["received_at"][:10],
        )
    return table


def _text(value: str | None) -> Text:
    """A sender's: no markup, no control characters."""
    return Text(printable(value or "–"))


_HEADINGS = (
    ("#", True), ("case", True), ("share", True), ("votes", True), ("round", True),
    ("nearest", False), ("modality", False), ("body part", False), ("source", False),
    ("slices", True), ("received", False),
)  # fmt: skip


def _words(what: str, question: Question, answer: Answer) -> str:
    """What was asked of whom."""
    weights = ", Gaussian weights" if question.gaussian else ""
    lines = [
        f"{answer.asked} of {answer.informative} informative slices ({question.sampling}{weights}) "
        f"against {answer.compared} cases, model {answer.model}"
    ]
    if same := [str(each.known.case_id) for each in answer.found if each.same_pixels]:
        lines.append(f"same pixels: case {', '.join(same)}")
    if answer.excluded:
        cases = ", ".join(map(str, answer.excluded))
        lines.append(f"left out as the same series: case {cases}")
    if answer.left_out:
        lines.append(
            f"{answer.left_out} cases are embedded by another model only and were not asked"
        )
    return "\n".join(lines)


def _time(microseconds: int) -> str:
    moment = datetime.fromtimestamp(microseconds / 1e6, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
