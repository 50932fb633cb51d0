"""``diptych selftest``: what the node survives, shown on this machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from diptych.cli.common import in_words, sigterm_unwinds

app = typer.Typer(help="Show on this machine what the node survives.", no_args_is_help=True)

SeedOption = Annotated[int, typer.Option(help="The same seed: the same chance.")]
KeepOption = Annotated[
    Path | None,
    typer.Option("--keep", metavar="FOLDER", help="Use this new or empty folder and keep it."),
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")
]


@app.command()
def crash(
    kills: Annotated[int, typer.Option(min=1, help="SIGKILLs, each followed by a start.")] = 25,
    senders: Annotated[int, typer.Option(min=1, max=16, help="Senders at a time.")] = 3,
    database: Annotated[
        str,
        typer.Option(
            metavar="URL", help="An empty PostgreSQL database to do it on (default: SQLite)."
        ),
    ] = "",
    seed: SeedOption = 1,
    keep: KeepOption = None,
    json_file: JsonOption = None,
) -> None:
    """Kill a daemon at random and at named points while real senders send to it.

    Exit status 0 only if every acknowledged instance is stored and judged, once.
    """
    with (
        in_words(),
        sigterm_unwinds(),
        _folder(keep, "diptych-crash-") as folder,
        _progress("kills", kills) as said,
    ):
        from diptych.selftest.crash import run

        result = run(folder, kills, senders, seed, said, database)
    account = result.account
    killed = ", ".join(f"{victim} {count}" for victim, count in sorted(result.kills.items()))
    typer.echo(f"kills {sum(result.kills.values())} ({killed}), {result.starts} starts")
    typer.echo(
        f"acknowledged {account.acknowledged}, stored {account.stored}, judged {account.judged}, "
        f"in {account.series} series"
    )
    typer.echo(
        f"judged twice {account.judged_twice}, orphans {account.orphans}, "
        f"failed {account.failed}, "
        f"receipts {account.receipts}, counted {account.counted}"
    )
    _say_chain(account.chain, account.events)
    _end(result.as_json(), result.good, result.seconds, json_file)


@app.command()
def power(
    cuts: Annotated[int, typer.Option(min=1, help="Power cuts in one recorded run.")] = 200,
    starts: Annotated[
        int, typer.Option(min=0, help="Cuts after which the whole daemon is started.")
    ] = 2,
    senders: Annotated[int, typer.Option(min=1, max=16, help="Senders at a time.")] = 2,
    seed: SeedOption = 1,
    keep: KeepOption = None,
    json_file: JsonOption = None,
) -> None:
    """Record what a daemon asks of the disk (with strace), and cut the power at random moments.

    Exit status 0 only if every instance acknowledged before a cut is there after it.
    """
    with (
        in_words(),
        sigterm_unwinds(),
        _folder(keep, "diptych-power-") as folder,
        _progress("cuts", cuts) as said,
    ):
        from diptych.selftest.power import run

        result = run(folder, cuts, starts, senders, seed, said)
    bad = [cut for cut in result.cuts if not cut.good]
    survives = ", ".join(
        f"{mode} {sum(cut.mode == mode for cut in result.cuts)}"
        for mode in dict.fromkeys(cut.mode for cut in result.cuts)
    )
    typer.echo(f"recorded {result.events} events, {result.acknowledged} instances acknowledged")
    typer.echo(
        f"power cuts {len(result.cuts)} (of what was not synced survives {survives}), "
        f"{result.started} started until judged"
    )
    typer.echo(
        f"acknowledged before the cuts {sum(cut.acknowledged for cut in result.cuts)}, "
        f"lost {sum(cut.lost for cut in result.cuts)}, cuts with a fault {len(bad)}"
    )
    for cut in bad[:10]:
        typer.echo(f"  after event {cut.at} ({cut.mode}): {cut.lost} lost; {'; '.join(cut.wrong)}")
    _end(result.as_json(), result.good, result.seconds, json_file)


def _say_chain(problems: tuple[str, ...], events: int) -> None:
    typer.echo(f"chain {'BROKEN' if problems else 'intact'}, {events} events")
    for problem in problems:
        typer.echo(f"  {problem}")


def _end(result: dict[str, Any], good: bool, seconds: float, json_file: Path | None) -> None:
    typer.echo(f"{'passed' if good else 'FAILED'} in {seconds:.0f} s")
    if json_file is not None:
        with in_words():
            json_file.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    raise typer.Exit(0 if good else 1)


@contextmanager
def _folder(keep: Path | None, prefix: str) -> Iterator[Path]:
    """A scratch folder that goes afterwards, or the user's own."""
    from diptych.errors import UsageError

    if keep is None:
        with tempfile.TemporaryDirectory(prefix=prefix) as name:
            yield Path(name)
        return
    folder = keep.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--keep {keep}: give a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


@contextmanager
def _progress(what: str, total: int) -> Iterator[Any]:
    """A bar on stderr, only on a terminal; gives what to call with the number so far."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
