"""``diptych accept`` and ``diptych deliveries``: what becomes of a screened delivery."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table

from diptych import reports
from diptych.cli.common import ConfigOption, DataOption, in_words, load
from diptych.log import printable


class As(StrEnum):
    """What a delivery may become."""

    OWNED = "owned"
    TEST_SET = "test-set"


def accept(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `deliveries` prints it.")],
    standing: Annotated[
        As,
        typer.Option("--as", help="owned: it joins the archive. test-set: it is kept apart."),
    ] = As.OWNED,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Take a screened delivery in: later ones, and what the daemon receives, are compared with it.

    Its files are not copied; what is needed to recognise them is.
    """
    with in_words():
        from diptych.audit.deliveries import Standing
        from diptych.screen import accepting

        done = accepting.accept(load(data, config), name, Standing(standing.value))
        said = f"{name}: accepted as {standing.value}"
        if standing is As.OWNED:
            said += f"; {done.series} series with {done.cases} cases joined the archive"
            if done.before:
                said += f", {done.before} were there already"
            if done.since:
                said += (
                    f"; {done.since} cases had joined it since {name} was judged, and were not "
                    "compared with it"
                )
        typer.echo(said)


def list_deliveries(data: DataOption = None, config: ConfigOption = None) -> None:
    """List the deliveries that were screened, and what became of them."""
    with in_words():
        from diptych.screen import accepting

        table = Table(header_style="bold", box=None, pad_edge=False)
        for heading in ("delivery", "vendor", "is", "first screened (UTC)", "accepted (UTC)"):
            table.add_column(heading, overflow="fold")
        for one in accepting.everything(load(data, config)):
            table.add_row(
                one.name,
                printable(one.vendor, 64),
                one.standing,
                _time(one.created_at),
                _time(one.accepted_at),
            )
        console = reports.console()
        with console.capture() as captured:
            console.print(table)
        print(captured.get(), end="")  # noqa: T201 - the result


def _time(at: int | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
