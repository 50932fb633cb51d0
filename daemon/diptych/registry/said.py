"""How the ``model`` commands answer: rows, a table, and progress on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from diptych.embed.manifest import ModelEntry
from diptych.registry.calibrate import Progress as Told
from diptych.registry.register import Listed
from diptych.registry.switch import Switched

DIGITS, SHOWN = 12, 8
"""Of a fingerprint in a sentence and in the table, whose rows fit 80 columns; JSON has it whole."""


def rows(found: Sequence[Listed]) -> list[dict[str, Any]]:
    """One object per model."""
    return [
        {
            "name": one.entry.name, "in_use": one.in_use, "bundled": one.bundled,
            "input_size": one.entry.input_size, "channels": one.entry.channels,
            "dimension": one.entry.dimension, "precision": one.entry.precision,
            "d_max": one.entry.d_max, "fingerprint": one.entry.fingerprint,
            "cases_embedded": one.coverage.embedded, "cases_missing": one.coverage.missing,
            "licence": one.entry.licence, "source": one.entry.source,
            "calibration": one.entry.calibration,
        }
        for one in found
    ]  # fmt: skip


def table(found: Sequence[Listed]) -> Table:
    """The same for a reader; * marks the model in use."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "model", "px", "dim", "d_max", "fingerprint", "from"):
        # Where there is no room, the name is folded and nothing is cut off.
        shown.add_column(heading, no_wrap=heading != "model", overflow="fold")
    for heading in ("embedded", "missing"):
        shown.add_column(heading, justify="right", min_width=len(heading), no_wrap=True)
    for one in found:
        entry = one.entry
        shown.add_row(
            "*" if one.in_use else "", entry.name, str(entry.input_size), str(entry.dimension),
            f"{entry.d_max:.4f}", entry.fingerprint[:SHOWN],
            "bundled" if one.bundled else "registered", str(one.coverage.embedded),
            str(one.coverage.missing),
        )  # fmt: skip
    return shown


def added(entry: ModelEntry) -> str:
    """What was registered, and what to do next."""
    return (
        f"{entry.name}: registered, {entry.input_size} px → {entry.dimension}-d, "
        f"fingerprint {entry.fingerprint[:DIGITS]}\n"
        f"  weights: {entry.source}\n"
        f"  d_max {entry.d_max}: {entry.calibration}\n"
        f"`diptych model use {entry.name}` embeds the archive by it and switches"
    )


def switched(entry: ModelEntry, done: Switched) -> str:
    """What a switch did."""
    left = f", {len(done.lost)} left behind" if done.lost else ""
    return f"{entry.name} is in use: {done.embedded} cases embedded now{left}"


@contextmanager
def progress() -> Iterator[Told]:
    """Tell stderr how far it is, when that is a terminal."""
    terminal = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=terminal, transient=True, disable=not terminal.is_terminal
    ) as shown:
        task = shown.add_task("", total=None)

        def tell(what: str, done: int, total: int | None) -> None:
            shown.update(task, description=what, completed=done, total=total)

        yield tell
