"""``diptych forward``: what is owed to other nodes."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from diptych.cli.common import ConfigOption, DataOption, in_words, load, open_store
from diptych.errors import UsageError

app = typer.Typer(help="What is owed to other nodes.", no_args_is_help=True)


@app.command("list")
def list_queues(
    data: DataOption = None,
    config: ConfigOption = None,
    json_: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Show each destination's queue."""
    with in_words():
        from diptych.audit import forwards

        chosen = load(data, config)
        configured = tuple(f.name for f in chosen.forward)
        with open_store(chosen).read() as connection:
            found = forwards.queues(connection, configured)
        if json_:
            rows = [
                {**asdict(q), "oldest": _time(q.oldest), "configured": q.destination in configured}
                for q in found
            ]
            typer.echo(json.dumps(rows, indent=1))
            return
        if not found:
            typer.echo("no [[forward]] is configured and nothing is owed")
        for queue in found:
            since = f" since {_time(queue.oldest)}" if queue.oldest else ""
            codes = "".join(f" 0x{answer:04X}" for answer in queue.answers)
            typer.echo(
                f"{queue.destination}: {queue.waiting} waiting{since}, of these {queue.refused} "
                f"refused before{codes}; {queue.lost} lost; {queue.sent} sent"
                + (f"; {queue.uncommitted} not committed yet" if queue.uncommitted else "")
                + ("" if queue.destination in configured else "; no longer configured")
            )


@app.command("drop")
def drop_queue(
    destination: Annotated[str, typer.Argument(metavar="NAME", help="As `forward list` says.")],
    data: DataOption = None,
    config: ConfigOption = None,
    refused: Annotated[
        bool, typer.Option("--refused", help="Only what it refused or what is lost.")
    ] = False,
) -> None:
    """Owe a destination nothing any more; what is being sent now still arrives."""
    with in_words():
        from diptych.audit import forwards

        chosen = load(data, config)
        store = open_store(chosen)
        with store.read() as connection:
            names = [
                q.destination
                for q in forwards.queues(connection, tuple(f.name for f in chosen.forward))
            ]
        if destination not in names:
            raise UsageError(f"no destination {destination!r}: known are {', '.join(names) or '-'}")
        gone = forwards.drop(store, destination, refused)
        typer.echo(f"{destination}: {gone} instances are not sent any more")


def _time(at: int | None) -> str | None:
    if at is None:
        return None
    return (
        datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    )
