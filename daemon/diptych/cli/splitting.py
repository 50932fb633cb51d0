"""``diptych splits``: does a test split hold what the training split holds?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diptych.cli.common import ConfigOption, DataOption, in_words, load
from diptych.errors import UsageError
from diptych.log import printable

if TYPE_CHECKING:
    from diptych.screen.findings import Screening
    from diptych.screen.splits import Guard

LEAKS = 1
INTERRUPTED = 130


def run_splits(
    train: Annotated[
        list[str] | None,
        typer.Option("--train", metavar="INPUT", help="Folder, archive, URL; more than once."),
    ] = None,
    test: Annotated[list[str] | None, typer.Option("--test", metavar="INPUT")] = None,
    manifest: Annotated[
        list[str] | None,
        typer.Option(
            "--manifest", metavar="FILE", help="Instead: CSV or Parquet with path and split."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write a split without leaks: a manifest, CSV with path and split."
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="What is kept of it is called so.")
    ] = "splits",
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare splits with each other: copies across them, and patients in more than one.

    Exit status 1: there are leaks. A second run goes on where the first was stopped;
    `diptych forget --delivery NAME` removes what is kept.
    """
    with in_words():
        from diptych.cli.screening import Shown
        from diptych.intake.reader import quiet
        from diptych.screen import screening, splits

        named = [(one, "train") for one in train or ()] + [(one, "test") for one in test or ()]
        if bool(named) == bool(manifest) or (named and not (train and test)):
            raise UsageError("name --train INPUT and --test INPUT, or --manifest FILE")
        quiet()
        inputs = tuple(one for one, _ in named) + tuple(manifest or ())
        wanted = screening.Wanted(name, "", inputs, against=(), splits=tuple(named))
        with (
            Shown() as shown,
            screening.screen(
                load(data, config),
                wanted,
                tell_reading=shown.reading,
                tell=shown.judging,
                warn=shown.warning,
            ) as done,
        ):
            found = done.screening
        guard = splits.guard(found)
        for line in _lines(guard, found):
            typer.echo(line)
        if not found.complete:
            typer.echo(f"not everything was compared: {found.stopped}", err=True)
            raise typer.Exit(INTERRUPTED)
        if out is not None:
            out.write_text(splits.as_csv(splits.disjoint(found)), "utf-8")
            typer.echo(f"a split without leaks: {out}")
        raise typer.Exit(LEAKS if guard.leaking else 0)


def _lines(guard: Guard, found: Screening) -> list[str]:
    places = {one.number: printable(one.place, 200) for one in found.series}
    lines = [
        ", ".join(
            f"{size:,} series in {printable(split) or 'no split'}" for split, size in guard.sizes
        )
        + "."
    ]
    for leak in guard.leaks:
        how = leak.match.relation.value if leak.match else "the same series"
        lines.append(
            f"{how}: {places[leak.series]} ({printable(leak.splits[0])}) and "
            f"{places[leak.of]} ({printable(leak.splits[1])})"
        )
    for patient in guard.patients:
        where = ", ".join(
            f"{len(some):,} series in {printable(split)}" for split, some in patient.series
        )
        lines.append(f"the same patient: {where}; one of them {places[patient.series[0][1][0]]}")
    if guard.nameless:
        lines.append(f"{guard.nameless:,} series name no patient: only copies of them are known.")
    if guard.unjudged:
        lines.append(f"{guard.unjudged:,} series could not be judged.")
    copies = f"{len(guard.leaks):,} copies across splits"
    lines.append(f"{copies}, {len(guard.patients):,} patients in more than one split.")
    return lines
