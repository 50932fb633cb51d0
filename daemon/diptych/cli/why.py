"""``diptych why``: the first answer to an alert, in one screen."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from diptych import reports
from diptych.cli.common import ConfigOption, DataOption, in_words, load, moment, open_store

if TYPE_CHECKING:
    from diptych.audit.duplicates import Duplicate, OfSource

app = typer.Typer(help="Why an alert fires.", no_args_is_help=True)

MOSTLY = 0.6
"""Share of a source's duplicates from which on one story speaks for them."""


@app.callback()
def _commands() -> None:
    """A group, though it has one command yet."""


@app.command("duplicates")
def why_duplicates(
    data: DataOption = None,
    config: ConfigOption = None,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="An ISO time (UTC) or an age (30m, 6h, 7d).")
    ] = "1h",
    top: Annotated[int, typer.Option(min=1, help="Sources and originals to show.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Every duplicate, for machines.")] = False,
) -> None:
    """Which sources send what is here already, of what, and how: sent by two routes, a migration,
    under new UIDs, processed, or parts. First judgements, as the duplicate rate counts them."""
    start = moment("--since", since)
    assert start is not None
    with in_words():
        from diptych.audit import duplicates

        with open_store(load(data, config)).read() as connection:
            found = duplicates.since(connection, start)
        every = [one for source in found for one in source.duplicates]
        if as_json:
            rows = [
                {**asdict(source), "ratio": source.ratio, "said": _said(source)} for source in found
            ]
            print(json.dumps(rows, indent=1))  # noqa: T201 - the result
            return
        lines = [_total(found, start)]
        if found:
            lines += ["", _captured(_sources(found[:top]))]
            lines += [f"{source.source}: {_said(source)}" for source in found[:top]]
        if every:
            lines += ["", _captured(_originals(duplicates.groups(every)[:top]))]
            lines.append("`diptych verdicts --since …` lists them, `diptych similar CASE` compares")
        print("\n".join(lines))  # noqa: T201


def _total(found: list[OfSource], start: int) -> str:
    screenable = sum(source.screenable for source in found)
    number = sum(len(source.duplicates) for source in found)
    resends = sum(source.resends for source in found)
    at = datetime.fromtimestamp(start / 1e6, UTC).isoformat(timespec="seconds")
    share = f" ({number / screenable:.1%})" if screenable else ""
    return (
        f"since {at.replace('+00:00', 'Z')}: {number} of {screenable} new series are "
        f"duplicates{share}; {resends} re-sends, which are none"
    )


def _sources(found: list[OfSource]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("source", no_wrap=True)
    for heading in ("new", "exact", "near", "partial", "rate", "re-sends"):
        table.add_column(heading, justify="right", no_wrap=True)
    for source in found:
        relations = Counter(one.relation for one in source.duplicates)
        table.add_row(
            source.source,
            str(source.screenable),
            *(str(relations[name]) for name in ("exact", "near-duplicate", "partial")),
            "–" if source.ratio is None else f"{source.ratio:.1%}",
            str(source.resends),
        )
    return table


def _originals(found: list[tuple[int, list[Duplicate]]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("copies", "of case"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("first from", "again from", "modality", "as", "cases"):
        table.add_column(heading, no_wrap=True)
    for case_id, copies in found:
        relations = Counter(one.relation for one in copies)
        names = [str(one.case_id) for one in copies]
        table.add_row(
            str(len(copies)),
            str(case_id),
            copies[0].matched_source or "–",
            ", ".join(sorted({one.source for one in copies})),
            ", ".join(sorted({one.modality or "–" for one in copies})),
            ", ".join(f"{name} {number}" for name, number in relations.most_common()),
            " ".join(names[:4]) + (" …" if len(names) > 4 else ""),
        )
    return table


def _said(source: OfSource) -> str:
    """What it mostly is, in words."""
    if not source.duplicates:
        return "re-sends, no duplicates" if source.resends else "no duplicates"
    stories = source.stories()
    story, number = stories[0]
    if number < MOSTLY * len(source.duplicates):
        shares = ", ".join(f"{name} {n}" for name, n in stories)
        return f"several stories: {shares}"
    return f"{_WORDS[story]}{_from(source, story)} ({number} of {len(source.duplicates)})"


_WORDS = {
    "two-routes": "two routes: the same series, with its UIDs, came from another source as well",
    "migration": "a migration: series, with their UIDs, that another source sent long before",
    "new-uids": "true duplication: the same pixels under new UIDs",
    "processed": "true duplication: processed copies (turned, shifted, blurred, re-compressed …)",
    "part": "parts of known series, or known series with more around them",
    "forgotten": "the same pixels; one of the two was forgotten since, and its UIDs with it",
}


def _from(source: OfSource, story: str) -> str:
    """Where the originals came from, and how long before."""
    from diptych.audit.duplicates import median

    of_it = [one for one in source.duplicates if one.story == story]
    origins = Counter(one.matched_source for one in of_it if one.matched_source)
    after = median([one.after_seconds for one in of_it if one.after_seconds is not None])
    if not origins or after is None:
        return ""
    name = origins.most_common(1)[0][0]
    return f", first from {name}, {_age(after)} before"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _captured(table: Table) -> str:
    console = reports.console()
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
