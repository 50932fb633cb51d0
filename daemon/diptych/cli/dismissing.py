"""``diptych dismiss`` and ``diptych dismissals``: pairs that are not to be shown again."""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from diptych import reports
from diptych.cli.common import ConfigOption, DataOption, in_words, load
from diptych.log import printable


def dismiss(
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY")],
    series: Annotated[int, typer.Argument(metavar="SERIES", help="Its number in the report.")],
    why: Annotated[str, typer.Option(metavar="TEXT", help="For whoever reads it later.")],
    of: Annotated[
        str,
        typer.Option(
            "--of", metavar="COLLECTION", help="What it was called a copy of: delivery, owned, …"
        ),
    ] = "delivery",
    who: Annotated[
        str | None, typer.Option(metavar="NAME", help="Default: the user's name here.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take it back.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Say that a series is no copy: it is not counted any more, in this delivery or a later one.

    Kept by content, so that new names and new UIDs change nothing.
    """
    with in_words():
        from diptych.audit.store import now
        from diptych.screen import dismissals, screening

        chosen = load(data, config)
        known = screening.past(chosen, delivery)
        kind, contents = dismissals.dismissible(known, series, of)
        if undo:
            dismissals.remove(chosen.data, (kind, contents))
            typer.echo(f"series {series} of {delivery} counts again")
            return
        said = dismissals.Dismissal(
            contents=contents, kind=kind, who=who or getpass.getuser(), when=now(), why=why
        )
        dismissals.add(chosen.data, said)
        typer.echo(f"series {series} of {delivery} is no longer a copy of {of}: run screen again")


def list_dismissals(
    data: DataOption = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="All fields, as JSON.")] = False,
) -> None:
    """List what was dismissed, by whom and why."""
    with in_words():
        from diptych.screen import dismissals

        found = dismissals.load(load(data, config).data)
        if as_json:
            print(json.dumps([one.model_dump() for one in found], indent=1))  # noqa: T201
            return
        table = Table(header_style="bold", box=None, pad_edge=False)
        for heading in ("when (UTC)", "no copy of", "who", "why", "contents"):
            table.add_column(heading, overflow="fold")
        for one in found:
            table.add_row(
                datetime.fromtimestamp(one.when / 1e6, UTC).strftime("%Y-%m-%d %H:%M"),
                one.kind,
                printable(one.who, 200),
                printable(one.why, 2000),
                " ".join(content[:12] for content in one.contents),
            )
        console = reports.console()
        with console.capture() as captured:
            console.print(table)
        print(captured.get(), end="")  # noqa: T201 - the result
