"""``diptych screen``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from diptych import reports
from diptych.cli.common import in_words
from diptych.errors import UsageError
from diptych.log import printable

UNREADABLE = 3


def screen(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Folder, file, archive, DICOMDIR, URL, or a manifest (CSV, Parquet) with columns "
            "path and any of vendor,split,price.",
        ),
    ],
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Only count what is there and how long it would take."),
    ] = False,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The catalogue, and what is resumed.")
    ] = Path("diptych-screen"),
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write the figures as JSON (-: stdout)."),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Default: one per core.")
    ] = None,
) -> None:
    """Vet a delivery. So far: what is in it, what cannot be read and why, how long it takes.

    Nothing is modified and nothing leaves the machine. A second run goes on where the first was
    stopped and reads only what has changed. Exit status 3: some inputs could not be read.
    """
    with in_words():
        if not estimate:
            raise UsageError("only `diptych screen --estimate` is there yet: add --estimate")
        from diptych.intake.estimate import document
        from diptych.intake.estimate import estimate as measure
        from diptych.intake.reader import quiet
        from diptych.intake.take import take_in

        quiet()
        count = processes or os.cpu_count() or 1
        with (
            Console(stderr=True).status("Listing") as status,
            take_in(
                inputs,
                out,
                readers=count,
                tell=lambda p: status.update(f"Reading: {p.done:,} of {p.files:,} files"),
            ) as catalogue,
        ):
            status.update("Timing some series")
            found = document(catalogue, measure(catalogue), count)
        if json_file == "-":
            print(json.dumps(found, indent=1))  # noqa: T201 - the result
        else:
            if json_file is not None:
                Path(json_file).write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            _show(found, out)
        sys.stdout.flush()
        lost = sum(
            row["count"] for row in found["outcomes"] if row["status"] in ("unreadable", "refused")
        )
        if lost or found["named_but_absent"]:
            raise typer.Exit(UNREADABLE)


def _show(found: dict[str, Any], out: Path) -> None:
    console = reports.console()
    with console.capture() as captured:
        console.print(Group(_totals(found), _kinds(found), _outcomes(found), _absent(found)))
        console.print(Text(_words(found, out), style="dim"), soft_wrap=True)
    print(captured.get(), end="")  # noqa: T201 - the result


def _totals(found: dict[str, Any]) -> Text:
    return Text(
        f"{found['files']:,} files ({_bytes(found['bytes'])}), {found['entries']:,} with what is "
        f"in archives: {found['studies']:,} studies, {found['series']:,} series, "
        f"{found['slices']:,} slices\n"
    )


def _kinds(found: dict[str, Any]) -> Table:
    table = _table("images", ("series", "files", "slices", "size"))
    for row in found["kinds"]:
        numbers = (f"{row[name]:,}" for name in ("series", "files", "slices"))
        table.add_row(printable(_named(row["kind"]), 70), *numbers, _bytes(row["bytes"]))
    return table


def _outcomes(found: dict[str, Any]) -> Table:
    table = _table("\nwhat became of them", ("\nentries", "\nsize"))
    for row in found["outcomes"]:
        name = row["status"] + (f": {row['reason']}" if row["reason"] else "")
        table.add_row(name, f"{row['count']:,}", _bytes(row["bytes"]))
    total = sum(row["count"] for row in found["outcomes"])
    table.add_row("together", f"{total:,}", "", style="bold")
    return table


def _absent(found: dict[str, Any]) -> Table | Text:
    if not found["named_but_absent"]:
        return Text("")
    table = _table("\nnamed, but not there", ("\nas", "\nnames"))
    for row in found["named_but_absent"]:
        table.add_row(printable(row["named_by"], 200), row["reason"], f"{row['count']:,}")
    return table


def _table(first: str, numbers: tuple[str, ...]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _words(found: dict[str, Any], out: Path) -> str:
    decode, disk = found["decode"], found["disk"]
    lines = [""]
    if decode["seconds"] is None:
        lines.append("Time: no series could be timed.")
    else:
        interval = (
            f" (90 % interval {_hours(decode['low'])} to {_hours(decode['high'])})"
            if decode["low"] is not None
            else " (too few series for an interval: a guess)"
        )
        lines.append(
            f"Reading and decoding: {_hours(decode['seconds'])}{interval} in "
            f"{decode['processes']} processes. Timed just now on {decode['sampled_series']} "
            f"series, {decode['sampled_slices']:,} slices, {decode['sample_seconds']:.1f} s in one "
            "process, and divided by the processes: a shared disk or memory bus makes it longer."
        )
        if decode["slices_of_unsampled_kinds"]:
            lines.append(
                f"{decode['slices_of_unsampled_kinds']:,} slices are of kinds that were not timed; "
                "they are counted at the rate of the others."
            )
    if decode["sample_failed"]:
        lines.append(f"{decode['sample_failed']} series of the sample could not be decoded.")
    lines.append("Embedding, search and verification are not in this.")
    lines.append(
        f"Disk: {_bytes(disk['catalogue'])} for the catalogue in {out}, at most "
        f"{_bytes(disk['scratch'])} at a time to lay down what is in archives."
    )
    return "\n".join(lines)


def _named(kind: str) -> str:
    from pydicom.uid import UID

    first, _, syntax = kind.partition(" ")
    return f"{first}, {UID(syntax).name}" if syntax else first


def _hours(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
