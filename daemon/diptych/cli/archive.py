"""The archive: list its verdicts, check its chain and its index, forget a case."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from diptych import reports
from diptych.cli.common import ConfigOption, DataOption, in_words, load, moment, open_store
from diptych.errors import UsageError
from diptych.judge.ladder import Relation

if TYPE_CHECKING:
    from diptych.audit.store import Store
    from diptych.config import Config

# SQLite's and PostgreSQL's largest integer.
LARGEST_ID = 2**63 - 1

audit_app = typer.Typer(help="The audit table.", no_args_is_help=True)
index_app = typer.Typer(help="The vector index, a cache of the database.", no_args_is_help=True)


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def list_verdicts(
    data: DataOption = None,
    config: ConfigOption = None,
    format_: Annotated[
        Format,
        typer.Option("--format", help="json and csv have every field."),
    ] = Format.TABLE,
    relation: Annotated[
        Relation | None,
        typer.Option(
            metavar="RELATION", help=f"Only these: {', '.join(r.value for r in Relation)}."
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Judged since then: an ISO time (UTC unless it says) or an age (30m, 24h, 7d).",
        ),
    ] = None,
) -> None:
    """List the series: the current verdict of each one's newest revision."""
    start = moment("--since", since)
    with in_words():
        from diptych.audit import verdicts

        store = open_store(load(data, config))
        with store.read() as connection:
            found = verdicts.current(connection, relation, start)
        rows = [reports.series_row(row) for row in found]
        if format_ is Format.JSON:
            print(json.dumps(rows, indent=1))  # noqa: T201 - the result
        elif format_ is Format.CSV:
            print(reports.spreadsheet(rows), end="")  # noqa: T201
        else:
            console = reports.console()
            with console.capture() as captured:
                console.print(reports.table(rows))
            print(captured.get(), end="")  # noqa: T201


@audit_app.command("verify")
def audit_verify(data: DataOption = None, config: ConfigOption = None) -> None:
    """Compare every verdict with its hashed payload and walk the chain.

    Exit status 1 if anything is not what was decided. The head, kept elsewhere, shows later that
    nothing was cut off.
    """
    with in_words():
        from diptych.audit import verify as verifying

        chosen = load(data, config)
        store = open_store(chosen)
        with store.read() as connection:
            found = verifying.verify(connection, chosen.data / "audit-heads.jsonl")
        for problem in found.problems:
            typer.echo(problem)
        typer.echo(
            f"{found.events} events, {found.verdicts} verdicts, "
            f"{len(found.problems)} problems; head {found.head}"
        )
        raise typer.Exit(1 if found.problems else 0)


@index_app.command("verify")
def index_verify(data: DataOption = None, config: ConfigOption = None) -> None:
    """Compare the last index snapshot with the database; exit status 1 if they differ."""
    with in_words():
        from diptych import doctor

        chosen = load(data, config)
        problems, said = doctor.check_index(chosen, open_store(chosen))
        for line in (*problems, said):
            typer.echo(line)
        raise typer.Exit(1 if problems else 0)


@index_app.command("rebuild")
def index_rebuild(data: DataOption = None, config: ConfigOption = None) -> None:
    """Build the index anew from the database; a running daemon is asked to do it."""
    with in_words():
        from diptych import data_folder, doctor
        from diptych.audit import indexing

        chosen = load(data, config)
        store = open_store(chosen)
        try:
            with data_folder.locked(chosen.data):
                typer.echo(f"{doctor.rebuild_index(chosen, store)} vectors")
        except data_folder.Occupied:
            indexing.request_rebuild(store)
            typer.echo("asked the running daemon to rebuild its index")


def forget(
    case: Annotated[
        int | None, typer.Argument(metavar="[CASE]", help="case_id, as `verdicts` prints it.")
    ] = None,
    delivery: Annotated[
        str | None,
        typer.Option("--delivery", metavar="NAME", help="A screened delivery instead, all of it."),
    ] = None,
    committed: Annotated[
        bool,
        typer.Option("--committed", help="Also what a modality was told that we keep for good."),
    ] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove pixels, proxy, vectors and identifiers of a case; the chain still verifies.

    Of a delivery that was accepted also what joined the archive. Refused (exit status 2) for what
    was promised by storage commitment, without --committed.
    """
    with in_words():
        from diptych.audit import forget as forgetting

        if (case is None) == (delivery is None):
            raise UsageError("name one case, or one delivery with --delivery")
        chosen = load(data, config)
        store = open_store(chosen)
        try:
            if delivery is not None:
                _forget_delivery(chosen, store, delivery, committed)
            else:
                assert case is not None
                _forget_case(chosen, store, case, committed)
        except forgetting.Promised as error:
            raise UsageError(f"{error}; --committed forgets them all the same") from error


def _forget_case(chosen: Config, store: Store, case: int, committed: bool) -> None:
    from diptych.audit import forget as forgetting
    from diptych.receive.spool import Spool

    if abs(case) > LARGEST_ID:  # the driver would refuse to ask
        raise forgetting.UnknownCase(f"case {case}: unknown")
    gone = forgetting.forget(store, case, committed)
    spool = Spool(chosen.spool_folder, chosen.source_names())
    for locator in gone.locators:
        spool.remove(locator)
    _let_go(chosen, store)
    typer.echo(
        f"case {case}: forgotten; {len(gone.locators)} files, {len(gone.keys)} vectors, "
        f"identifiers of {len(gone.verdicts)} verdicts removed"
    )


def _forget_delivery(chosen: Config, store: Store, name: str, committed: bool) -> None:
    from diptych.screen import accepting

    gone = accepting.forget_delivery(chosen, name, committed)
    if gone.joined:
        _let_go(chosen, store)
    typer.echo(f"delivery {name}: forgotten; {gone.cases} cases of the archive, its own archive")


def _let_go(chosen: Config, store: Store) -> None:
    """What else of the forgotten lies about: a running daemon reads the event and does it."""
    from diptych import data_folder, doctor
    from diptych.receive import journal
    from diptych.receive.spool import Spool

    try:
        with data_folder.locked(chosen.data):
            # A daemon that was killed may have left the pixels in its journal.
            journal.recover(store, Spool(chosen.spool_folder, chosen.source_names()))
            # Nobody else would take the vectors out of the snapshot before the next start.
            doctor.rebuild_index(chosen, store)
    except data_folder.Occupied:
        pass
