"""``diptych backup`` and ``diptych restore``."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.common import ConfigOption, DataOption, in_words, load, open_store


def run_backup(
    into: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Copy database, pixels, index, models and deliveries as they are now; the daemon may run.

    On the same file system pixels are hard links and take no space. The copy holds patient data.
    """
    with in_words():
        from diptych import backup

        chosen = load(data, config)
        made = backup.back_up(chosen, open_store(chosen), into)
        typer.echo(
            f"{into}: {made.receipts} receipts, {made.verdicts} verdicts, {made.files} files of "
            f"{made.bytes / 1e6:.1f} MB, {made.deliveries} deliveries; head of the chain "
            f"{made.head}"
        )


def run_restore(
    backup_folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `backup` wrote.")],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read every file, the database and the chain afterwards."),
    ] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Fill a new data folder from a backup. Exit status 1: --verify found something."""
    with in_words():
        from diptych import backup

        chosen = load(data, config)
        said = backup.restore(chosen, backup_folder)
        at = datetime.fromtimestamp(said.created_at / 1e6, UTC)
        typer.echo(f"{chosen.data}: the archive of {at:%Y-%m-%d %H:%M:%S} UTC, {said.files} files")
        if verify:
            found = backup.problems(chosen, open_store(chosen), said)
            for problem in found:
                typer.echo(problem)
            typer.echo(f"{len(found)} problems; head of the chain {said.head}")
            raise typer.Exit(1 if found else 0)
