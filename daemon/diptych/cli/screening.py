"""``diptych screen``."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from diptych import reports
from diptych.cli.common import ConfigOption, DataOption, in_words, load
from diptych.errors import UsageError
from diptych.log import printable

if TYPE_CHECKING:
    from diptych.config import Config
    from diptych.intake.take import Progress as Reading
    from diptych.screen.findings import Screening
    from diptych.screen.run import Progress

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
    delivery: Annotated[
        str | None, typer.Option("--delivery", metavar="NAME", help="What to call it from now on.")
    ] = None,
    vendor: Annotated[
        str, typer.Option(metavar="V", help="Whose it is, where no manifest says so.")
    ] = "",
    against: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="owned, test-set, names of other deliveries. Default: owned and every test set.",
        ),
    ] = None,
    price_per_series: Annotated[
        str | None, typer.Option(metavar="P", help="Where no manifest says a price.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Limits in TOML: see deploy/screen-policy.example.toml."),
    ] = None,
    stop_when_exceeded: Annotated[
        bool,
        typer.Option(
            "--stop-when-exceeded", help="End as soon as a limit is exceeded whatever follows."
        ),
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="An earlier delivery: say what changed since."),
    ] = None,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Only count what is there and how long it would take."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The report (default: diptych-report-NAME); of --estimate what is resumed "
            "(default: diptych-screen).",
        ),
    ] = None,
    vendor_copy: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="The same without what is yours: this one may be sent."
        ),
    ] = None,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="--estimate's figures as JSON (-: stdout)."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Of --estimate. Default: one per core."),
    ] = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Vet a delivery: what is in it twice, what is owned already, what leaks into a test set.

    Nothing is modified, nothing leaves the machine, and nothing joins what is owned before
    `diptych accept NAME`. A second run goes on where the first was stopped. Exit status: 0 within
    the limits, 1 a limit exceeded, 2 usage, 3 some inputs could not be read, 4 the environment, 130
    interrupted.
    """
    with in_words():
        if estimate:
            _estimate(inputs, out or Path("diptych-screen"), json_file, processes)
            return
        if delivery is None:
            raise UsageError("name the delivery with --delivery NAME, or add --estimate")
        asked = _Asked(
            delivery=delivery,
            vendor=vendor,
            inputs=tuple(inputs),
            against=None if against is None else tuple(filter(None, against.split(","))),
            price=price_per_series,
            policy=policy,
            stop_when_exceeded=stop_when_exceeded,
            since=since,
            out=out or Path(f"diptych-report-{delivery}"),
            vendor_copy=vendor_copy,
        )
        raise typer.Exit(_screen(load(data, config), asked))


@dataclass(frozen=True)
class _Asked:
    delivery: str
    vendor: str
    inputs: tuple[str, ...]
    against: tuple[str, ...] | None
    price: str | None
    policy: Path | None
    stop_when_exceeded: bool
    since: str | None
    out: Path
    vendor_copy: Path | None


def _screen(chosen: Config, asked: _Asked) -> int:
    from diptych.intake.reader import quiet
    from diptych.screen import dismissals, limits, screening, terms
    from diptych.screen.groups import groups
    from diptych.screen.keep import keep
    from diptych.screen.money import amount
    from diptych.screen.report import seal
    from diptych.screen.report.write import refuse_other, write
    from diptych.screen.since import since

    quiet()
    rules = terms.load(asked.policy)
    price = None if asked.price is None else amount(asked.price)
    folders = [asked.out, *([asked.vendor_copy] if asked.vendor_copy else [])]
    for folder in folders:
        refuse_other(folder)
    earlier = None if asked.since is None else screening.past(chosen, asked.since)
    dismissed = dismissals.load(chosen.data)
    wanted = screening.Wanted(
        asked.delivery,
        asked.vendor,
        asked.inputs,
        asked.against,
        tuple(folders),
    )

    def enough(so_far: Screening) -> bool:
        so_far, _ = dismissals.apply(so_far, dismissed)
        return limits.exceeded_already(so_far, rules, len(so_far.series))

    with (
        Shown() as shown,
        screening.screen(
            chosen,
            wanted,
            tell_reading=shown.reading,
            tell=shown.judging,
            warn=shown.warning,
            enough=enough if asked.stop_when_exceeded else None,
        ) as done,
    ):
        shown.writing()
        found, left_out = dismissals.apply(done.screening, dismissed)
        before = None if earlier is None else dismissals.apply(earlier, dismissed)[0]
        changed = None if before is None else since(before, found)
        decision = limits.decide(found, rules, price)
        grouped = groups(found)
        kept = keep(found, grouped)
        key = seal.signing_key(chosen.data)
        for folder in folders:
            write(
                found,
                decision,
                grouped,
                kept,
                done.pictures,
                folder,
                key,
                folder == asked.vendor_copy,
                changed,
                left_out,
            )
    typer.echo(decision.sentence)
    if left_out:
        copies = "1 copy was" if len(left_out) == 1 else f"{len(left_out):,} copies were"
        typer.echo(f"{copies} dismissed before: `diptych dismissals`")
    for folder in folders:
        typer.echo(f"{folder / 'index.html'}")
    return limits.exit_status(decision)


class Shown:
    """Progress on a terminal's stderr, and each copy as it is found on stderr."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rest]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("Listing", total=None, rest="")

    def __enter__(self) -> Shown:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def reading(self, progress: Reading) -> None:
        self._bar.update(
            self._task, description="Reading", total=progress.files, completed=progress.done
        )

    def judging(self, progress: Progress) -> None:
        rest = f"{progress.copies:,} copies"
        if progress.to_come is not None:
            rest += f", {_hours(progress.to_come)} to go"
        self._bar.update(
            self._task,
            description="Judging slices",
            total=progress.of_slices,
            completed=progress.slices,
            rest=rest,
        )
        number, copies = progress.newest
        if copies:
            where = ", ".join(f"{relation} ({name})" for name, relation in copies.items())
            self._console.print(Text(f"series {number:,}: {where}"), soft_wrap=True)

    def warning(self, words: str) -> None:
        self._console.print(Text(words), soft_wrap=True)

    def writing(self) -> None:
        self._bar.update(self._task, description="Writing the report", total=None, rest="")


def _estimate(inputs: list[str], out: Path, json_file: str | None, processes: int | None) -> None:
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
