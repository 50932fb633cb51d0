"""``diptych policy`` and ``diptych reverdict``: what verdicts are made by, and made again."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tomli_w
import typer
from rich.table import Table
from rich.text import Text

from diptych import reports
from diptych.cli.common import (
    ConfigOption,
    DataOption,
    in_words,
    load,
    moment,
    open_store,
    open_store_if_any,
)
from diptych.errors import ModelError, UsageError
from diptych.log import printable

if TYPE_CHECKING:
    from diptych.audit.store import Store
    from diptych.config import Config
    from diptych.policies import Known
    from diptych.reverdict import Replayed

NAMED = 50
"""Changed series in the table; --json names all."""

policy_app = typer.Typer(help="The numbers that verdicts are made by.", no_args_is_help=True)
PolicyArgument = Annotated[
    str, typer.Argument(metavar="NAME/VERSION", help="As `policy list` prints it.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines.")]


@policy_app.command("list")
def policy_list(
    as_json: JsonOption = False, data: DataOption = None, config: ConfigOption = None
) -> None:
    """List the policies of the archive; * marks the one in use. `policy show` has every number."""
    with in_words():
        store = open_store_if_any(load(data, config))
        found, used = _known(store)
        if as_json:
            print(json.dumps([_row(one, used) for one in found], indent=1))  # noqa: T201
            return
        names = ("d_max", "threshold", "min_correlation", "max_error")
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("", "policy", *names, "added"):
            table.add_column(heading, no_wrap=True)
        for one in found:
            mark = "*" if one.title == used else ""
            values = one.definition.values() if one.definition else {}
            numbers = [_shown(values[name]) for name in names] if values else ["?"] * len(names)
            table.add_row(mark, one.title, *numbers, _day(one.added_at) if values else one.problem)
        _print(table)


@policy_app.command("show")
def policy_show(
    name: PolicyArgument,
    as_json: JsonOption = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Print a policy as `policy add` reads it."""
    with in_words():
        from diptych import policies

        chosen = load(data, config)
        store = open_store_if_any(chosen)
        if store is None:
            one, used = policies.find(None, name), policies.in_use(None).title
        else:
            with store.read() as connection:
                one, used = policies.find(connection, name), policies.in_use(connection).title
        if as_json:
            print(json.dumps(_row(one, used), indent=1))  # noqa: T201 - the result
            return
        assert one.definition is not None
        values = one.definition.values()
        given = {key: value for key, value in values.items() if value is not None}
        typer.echo(f"# sha256 {one.sha256}; {'in use' if one.title == used else 'not in use'}")
        typer.echo(tomli_w.dumps(given), nl=False)
        if one.definition.follows_model:
            typer.echo(f"# d_max: the model's{_of_model(chosen, store)}")


@policy_app.command("add")
def policy_add(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.toml", help="name, version, and what differs from the defaults."
        ),
    ],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Write a policy into the archive; a name and version stand for its numbers for good.

    Fields left out have their defaults; without d_max it is that of the model in use.
    """
    with in_words():
        from diptych import policies
        from diptych.judge.definition import read

        store = open_store(load(data, config))
        try:
            new = read(tomllib.loads(file.read_text("utf-8")))
        except (ValueError, OSError) as error:
            raise UsageError(f"{file}: {error}") from error
        added = policies.add(store, new)
        typer.echo(
            f"{new.title}: {'added' if added else 'is there already'}, sha256 {new.sha256()}\n"
            f"`diptych reverdict --since 7d --policy {new.title} --dry-run` says what it would "
            f"change, `diptych policy use {new.title}` judges by it"
        )


@policy_app.command("use")
def policy_use(name: PolicyArgument, data: DataOption = None, config: ConfigOption = None) -> None:
    """Judge by this policy from the next series on; what was judged stays as it is."""
    with in_words():
        from diptych import policies

        chosen = load(data, config)
        store = open_store(chosen)
        changed = policies.use(store, name)
        with store.read() as connection:
            definition = policies.definition(connection, name)
        if not changed:
            typer.echo(f"{name} is in use already")
            return
        typer.echo(
            f"{name} is in use: a running daemon judges by it from the next series on that it "
            "begins a second from now or later; every verdict names the policy it was made under"
        )
        if not definition.follows_model:
            typer.echo(
                f"it has its own d_max, {definition.numbers.d_max}, and keeps it when the model "
                f"is switched; without it the model's counts{_of_model(chosen, store)}"
            )
        typer.echo(
            "earlier verdicts stay; `diptych reverdict --since TIME` judges them again from their "
            "evidence"
        )


def run_reverdict(
    since: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="First judged since then: an ISO time (UTC unless it says) or an age (2h, 7d).",
        ),
    ],
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="And before then (default: now).")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="NAME/VERSION", help="Default: the one in use.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    as_json: JsonOption = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Judge stored evidence again under another policy, without pixels.

    Each verdict then names this policy, and those that say something else are listed. The earlier
    ones stay in the table, and no counter moves. Beside a running daemon, and again after an
    interruption, it is safe.
    """
    start, end = moment("--since", since), moment("--until", until)
    assert start is not None
    with in_words():
        if end is not None and end <= start:
            raise UsageError(f"--until is not after --since: {until} and {since}")
        from diptych import policies
        from diptych.registry import said
        from diptych.reverdict import reverdict

        chosen = load(data, config)
        store = open_store(chosen)
        with store.read() as connection:
            definition = (
                policies.definition(connection, policy)
                if policy is not None
                else policies.in_use(connection)
            )
        with said.progress() as progress:
            done = reverdict(chosen, store, definition, start, end, dry_run, progress)
        if as_json:
            print(json.dumps(_replayed(done, definition.title, dry_run), indent=1))  # noqa: T201
        else:
            _tell(done, definition.title, dry_run)


def _tell(done: Replayed, title: str, dry_run: bool) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("from", "to"):
        table.add_column(heading, no_wrap=True)
    table.add_column("verdicts", justify="right", no_wrap=True)
    for (before, after), count in sorted(done.outcomes.items()):
        table.add_row(before, after if before != after else "(the same)", str(count))
    if done.outcomes:
        _print(table)
    if done.changed:
        cases = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("case", "source", "modality", "from", "to", "matched case", "because"):
            cases.add_column(heading, no_wrap=heading != "because")
        for one in done.changed[:NAMED]:
            stack = one.stack
            cases.add_row(
                str(stack.case_id),
                stack.source,
                # A sender's text: no markup, no control characters.
                Text(printable(stack.modality or "–")),
                stack.relation,
                one.relation,
                f"{_dash(stack.matched_case_id)} → {_dash(one.matched_case_id)}"
                if stack.matched_case_id != one.matched_case_id
                else _dash(one.matched_case_id),
                Text(one.detail),
            )
        _print(cases)
        if len(done.changed) > NAMED:
            typer.echo(f"and {len(done.changed) - NAMED} more: --json names them all")
    for reason, count in done.left.items():
        typer.echo(f"{count} left as they are: {reason}")
    what = f"{done.judged} verdicts judged again by {title}, {len(done.changed)} say something else"
    if dry_run:
        typer.echo(f"{what}; nothing was written (--dry-run)")
    else:
        typer.echo(f"{what}; {done.written} now name this policy, the earlier verdicts stay")


def _replayed(done: Replayed, title: str, dry_run: bool) -> dict[str, Any]:
    return {
        "policy": title,
        "labels": done.policies,
        "dry_run": dry_run,
        "judged": done.judged,
        "written": done.written,
        "outcomes": [
            {"from": before, "to": after, "verdicts": count}
            for (before, after), count in sorted(done.outcomes.items())
        ],
        "changed": [
            {
                "case_id": one.stack.case_id,
                "from": one.stack.relation,
                "to": one.relation,
                "flags_from": list(one.stack.flags),
                "flags_to": list(one.flags),
                "matched_case_id_from": one.stack.matched_case_id,
                "matched_case_id_to": one.matched_case_id,
                "policy_from": one.stack.policy,
                "policy_to": one.policy,
                "detail": one.detail,
            }
            for one in done.changed
        ],
        "left": dict(done.left),
    }


def _known(store: Store | None) -> tuple[list[Known], str]:
    from diptych import policies

    if store is None:
        return policies.known(None), policies.in_use(None).title
    with store.read() as connection:
        return policies.known(connection), policies.in_use(connection).title


def _row(one: Known, used: str) -> dict[str, Any]:
    return {
        "policy": one.title,
        "in_use": one.title == used,
        "sha256": one.sha256,
        "added_at": None if one.added_at is None else _time(one.added_at).isoformat(),
        "values": one.definition.values() if one.definition else None,
        "problem": one.problem or None,
    }


def _of_model(config: Config, store: Store | None) -> str:
    from diptych.active import model_in_use

    try:
        entry = model_in_use(config, store)
    except ModelError:
        return ""
    return f" ({entry.d_max} of {entry.name})"


def _print(table: Table) -> None:
    console = reports.console()
    with console.capture() as captured:
        console.print(table)
    print(captured.get(), end="")  # noqa: T201 - the result


def _shown(value: object) -> str:
    return "model's" if value is None else str(value)


def _dash(value: object) -> str:
    return "–" if value is None else str(value)


def _day(at: int | None) -> str:
    return "ships" if at is None else f"{_time(at):%Y-%m-%d}"


def _time(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1e6, UTC)
