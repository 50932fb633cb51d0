"""``diptych report``: whether a report is still what was signed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.common import in_words
from diptych.log import printable

app = typer.Typer(help="Reports of screened deliveries.", no_args_is_help=True)

CHANGED = 1


@app.callback()
def _commands() -> None:
    """A group, though it has one command yet."""


@app.command("verify")
def verify(
    folder: Annotated[Path, typer.Argument(help="The report's folder.")],
    key: Annotated[
        str | None,
        typer.Option(
            metavar="PUBLIC", help="Who must have signed: a key's fingerprint, or its PEM file."
        ),
    ] = None,
) -> None:
    """Whether every file of a report is as it was signed; names each changed, missing or extra one.

    Without --key only this is shown: that the files fit the key that lies beside them.
    Exit status 1: not as signed.
    """
    with in_words():
        from diptych.screen.report import seal

        expected = None if key is None else seal.named_key(key)
        found = seal.check(folder, expected)
        for problem in found.problems:
            typer.echo(printable(problem, 500), err=True)
        if found.problems:
            typer.echo(f"NOT as signed: {len(found.problems)} found", err=True)
            raise typer.Exit(CHANGED)
        who = "the key asked for" if key else "the key that lies in the folder"
        lines = [f"as signed: {found.files} files, by {who}", found.fingerprint]
        if key is None:
            lines.append(
                "Who signed is not shown by this: whoever changes a report can sign it anew. "
                "Ask the signer for the fingerprint, and give it with --key."
            )
        typer.echo("\n".join(lines))
