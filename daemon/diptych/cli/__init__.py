"""The commands. Progress goes to stderr and only to a terminal; results go to stdout.

Exit codes: 0 done · 1 the answer is no (a broken chain, an unexpected verdict) · 2 usage ·
3 done, but some inputs could not be read · 4 the environment or the configuration, with the
repair in words · 130 interrupted · 141 who read the output went away.

What only some commands need is imported by those: ``verdicts`` must not wait for a decoder.
"""

from __future__ import annotations

from typing import Annotated

import typer

from diptych import __version__
from diptych.cli import (
    archive,
    backing,
    calibrating,
    configuration,
    database,
    delivering,
    dismissing,
    evaluating,
    forwarding,
    judging,
    model,
    node,
    pulling,
    reporting,
    screening,
    selftest,
    similar,
    splitting,
    why,
)

app = typer.Typer(
    help="A DICOM node that finds the scans you already have.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


app.command()(node.serve)
app.command()(node.demo)
app.command()(evaluating.evaluate)
app.command("verdicts")(archive.list_verdicts)
app.command()(similar.similar)
app.command()(screening.screen)
app.command()(delivering.accept)
app.command("deliveries")(delivering.list_deliveries)
app.command()(dismissing.dismiss)
app.command("dismissals")(dismissing.list_dismissals)
app.command("splits")(splitting.run_splits)
app.command("calibrate")(calibrating.run_calibrate)
app.command("reverdict")(judging.run_reverdict)
app.command("pull")(pulling.run_pull)
app.command()(archive.forget)
app.command()(node.conformance)
app.command("doctor")(node.run_doctor)
app.command("log-id")(node.log_id)
app.command("backup")(backing.run_backup)
app.command("restore")(backing.run_restore)
app.add_typer(archive.audit_app, name="audit")
app.add_typer(archive.index_app, name="index")
app.add_typer(forwarding.app, name="forward")
app.add_typer(model.app, name="model")
app.add_typer(judging.policy_app, name="policy")
app.add_typer(configuration.app, name="config")
app.add_typer(database.app, name="db")
app.add_typer(reporting.app, name="report")
app.add_typer(selftest.app, name="selftest")
app.add_typer(why.app, name="why")
