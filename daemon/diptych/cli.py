"""The commands. Progress goes to stderr and only to a terminal; results go to stdout.

Exit codes: 0 done · 1 the answer is no (a broken chain, an unexpected verdict) · 2 usage ·
4 the environment or the configuration, with the repair in words · 130 interrupted ·
141 who read the output went away.

What only some commands need is imported by those: ``verdicts`` must not wait for a decoder.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from diptych import __version__, reports
from diptych import log as logs
from diptych.audit import forget as forgetting
from diptych.audit import indexing, migrate, verdicts
from diptych.audit import verify as verifying
from diptych.audit.store import Store
from diptych.config import Config, load
from diptych.errors import ConfigError, DiptychError, ModelError, StoreError
from diptych.judge.ladder import Relation

ENVIRONMENT = 4
# What a shell reports of a program that a closed pipe ended: 128 + SIGPIPE.
PIPE_CLOSED = 141
# SQLite's and PostgreSQL's largest integer.
LARGEST_ID = 2**63 - 1

app = typer.Typer(
    help="A DICOM node that finds the scans you already have.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
audit_app = typer.Typer(help="The audit table.", no_args_is_help=True)
index_app = typer.Typer(help="The vector index, a cache of the database.", no_args_is_help=True)
config_app = typer.Typer(help="The configuration.", no_args_is_help=True)
app.add_typer(audit_app, name="audit")
app.add_typer(index_app, name="index")
app.add_typer(config_app, name="config")

DataOption = Annotated[
    str | None,
    typer.Option("--data", metavar="DIR", help="Data folder (DIPTYCH_DATA; default diptych-data)."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration in TOML (DIPTYCH_CONFIG)."),
]


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"diptych {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.Exit(2)


@app.command()
def serve(
    data: DataOption = None,
    config: ConfigOption = None,
    dicom_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="DICOM port; 0: any free one (default 11112)."),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            help="Port of /metrics, /healthz and /readyz; 0: any free one (default 8112).",
        ),
    ] = None,
    ae_title: Annotated[
        str | None, typer.Option(metavar="TITLE", help="Our AE title (default DIPTYCH).")
    ] = None,
) -> None:
    """Receive series over DICOM and judge them, until SIGTERM or Ctrl-C."""
    stop = threading.Event()
    # First of all: a stop that comes while libraries are loaded is a clean stop as well.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    dicom = {"port": dicom_port, "ae_title": ae_title}
    with _said():
        chosen = _load(data, config, dicom=dicom, http={"port": http_port})
        logs.configure(chosen.log.level, "supervisor")
        from diptych import service

        if not stop.is_set():
            service.run(chosen, stop)


@app.command()
def demo(
    dicom: Annotated[
        Path | None, typer.Option(help="Use the series of this folder.", exists=True)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the table as a JSON array.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Use this new or empty data folder and keep it.", file_okay=False),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run the main job for real: a daemon, DICOM associations, copies, verdicts.

    Exit status 0 only if every verdict is the expected one.
    """
    from diptych.demo.run import run

    with _said():
        raise typer.Exit(run(dicom, json_file, data, config))


@app.command("verdicts")
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
    moment = _moment(since)
    with _said():
        store = _store(_load(data, config))
        with store.read() as connection:
            found = verdicts.current(connection, relation, moment)
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
    with _said():
        chosen = _load(data, config)
        store = _store(chosen)
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
    with _said():
        from diptych import doctor

        chosen = _load(data, config)
        problems, said = doctor.check_index(chosen, _store(chosen))
        for line in (*problems, said):
            typer.echo(line)
        raise typer.Exit(1 if problems else 0)


@index_app.command("rebuild")
def index_rebuild(data: DataOption = None, config: ConfigOption = None) -> None:
    """Build the index anew from the database; a running daemon is asked to do it."""
    with _said():
        from diptych import doctor, service

        chosen = _load(data, config)
        store = _store(chosen)
        try:
            with service.locked(chosen.data):
                typer.echo(f"{doctor.rebuild_index(chosen, store)} vectors")
        except service.Occupied:
            indexing.request_rebuild(store)
            typer.echo("asked the running daemon to rebuild its index")


@app.command()
def forget(
    case: Annotated[int, typer.Argument(metavar="CASE", help="case_id, as `verdicts` prints it.")],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove pixels, proxy, vectors and identifiers of a case; the chain still verifies."""
    with _said():
        from diptych import doctor, service
        from diptych.receive.spool import Spool

        chosen = _load(data, config)
        store = _store(chosen)
        if abs(case) > LARGEST_ID:  # the driver would refuse to ask
            raise forgetting.UnknownCase(f"case {case}: unknown")
        gone = forgetting.forget(store, case)
        spool = Spool(chosen.spool_folder, chosen.source_names())
        for locator in gone.locators:
            spool.remove(locator)
        try:
            with service.locked(chosen.data):
                # Nobody else would take the vectors out of the snapshot before the next start.
                doctor.rebuild_index(chosen, store)
        except service.Occupied:
            pass  # the daemon reads the event
        typer.echo(
            f"case {case}: forgotten; {len(gone.locators)} files, {len(gone.keys)} vectors, "
            f"identifiers of {len(gone.verdicts)} verdicts removed"
        )


@app.command("doctor")
def run_doctor(data: DataOption = None, config: ConfigOption = None) -> None:
    """Can the daemon run here, and does it? Exit status 4 with the repair in words if not."""
    with _said():
        from diptych import doctor

        # What the libraries log while they are tried stands in the findings.
        logging.getLogger("diptych").setLevel(logging.CRITICAL)
        findings = doctor.examine(_load(data, config))
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.ok else 'FAIL'} {finding.what}: {finding.said}")
        raise typer.Exit(0 if all(finding.ok for finding in findings) else ENVIRONMENT)


@config_app.command("check")
def config_check(data: DataOption = None, config: ConfigOption = None) -> None:
    """Refuse unknown keys and impossible values in words."""
    with _said():
        _load(data, config)
        typer.echo("the configuration is good")


@config_app.command("show")
def config_show(data: DataOption = None, config: ConfigOption = None) -> None:
    """Print the configuration in force as JSON."""
    with _said():
        typer.echo(_load(data, config).model_dump_json(indent=1))


def _load(data: str | None, config: Path | None, **sections: dict[str, Any]) -> Config:
    given = {
        name: {key: value for key, value in section.items() if value is not None}
        for name, section in sections.items()
    }
    overrides: dict[str, Any] = {name: section for name, section in given.items() if section}
    if data is not None:
        overrides["data"] = data
    return load(config, overrides)


def _store(config: Config) -> Store:
    """The database of a data folder that exists; commands never make one."""
    if not config.database.url and not (config.data / "diptych.sqlite3").exists():
        raise ConfigError(
            f"{config.data} holds no archive: start `diptych serve` there first, or name the "
            "right folder with --data or DIPTYCH_DATA"
        )
    store = Store(config.database_url)
    migrate.check(store)
    return store


def _moment(text: str | None) -> int | None:
    """UTC microseconds of an ISO time or an age."""
    if text is None:
        return None
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    try:
        if text[-1:] in units and text[:-1].replace(".", "", 1).isdigit():
            moment = datetime.now(UTC) - timedelta(**{units[text[-1]]: float(text[:-1])})
        else:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1_000_000)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"--since {text!r}: neither an ISO time nor an age") from error


@contextmanager
def _said() -> Iterator[None]:
    """Say in words what stands in the way, once, at the edge."""
    try:
        yield
        sys.stdout.flush()
    except (ConfigError, ModelError, StoreError) as error:
        _fail(str(error), ENVIRONMENT)
    except DiptychError as error:
        _fail(str(error), 1)
    except ImportError as error:
        _fail(f"{error}: install diptych[cpu] or diptych[gpu]", ENVIRONMENT)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        # Nothing more can be said to who read us; not even by the interpreter's last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(PIPE_CLOSED) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", ENVIRONMENT)


def _fail(words: str, code: int) -> NoReturn:
    typer.echo(f"diptych: {words}", err=True)
    raise typer.Exit(code)
