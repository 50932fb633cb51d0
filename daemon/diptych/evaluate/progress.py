"""How far a long command is, and how long it will take: a bar on a terminal, else plain lines.

On stderr: results go to stdout.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINE_SECONDS = 15.0
"""Between two plain lines: a log of an hour stays readable."""


class Phase:
    """One part of the work: ``total`` items of known weights."""

    def __init__(self, title: str, items: int, weight: float, console: Console) -> None:
        self._title, self._items, self._weight, self._console = title, items, weight, console
        self._done, self._done_weight = 0, 0.0
        self._started = self._said = time.monotonic()
        self._bar: Bar | None = None
        if console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(self._words(), total=weight)
            self._bar.start()

    def finished(self, weight: float) -> None:
        """One item of this weight is done."""
        self._done += 1
        self._done_weight += weight
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done_weight, description=self._words())
        elif time.monotonic() - self._said >= LINE_SECONDS:
            self._said = time.monotonic()
            self._print(f"{self._words()}, about {_duration(self._left())} left")

    def end(self) -> None:
        """The last word on it."""
        if self._bar is not None:
            self._bar.stop()
        self._print(f"{self._words()}, {_duration(time.monotonic() - self._started)}")

    def _words(self) -> str:
        return f"{self._title}: {self._done} of {self._items}"

    def _left(self) -> float:
        """Seconds, by what the weight done so far has taken."""
        spent = time.monotonic() - self._started
        return spent * (self._weight - self._done_weight) / max(self._done_weight, 1e-9)

    def _print(self, words: str) -> None:
        self._console.print(words, highlight=False, markup=False, soft_wrap=True)


class Progress:
    """Says on stderr what happens."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    @contextmanager
    def phase(self, title: str, items: int, weight: float) -> Iterator[Phase]:
        """For the time of one part of the work."""
        phase = Phase(title, items, weight, self._console)
        try:
            yield phase
        finally:
            phase.end()

    def say(self, words: str) -> None:
        """One line."""
        self._console.print(words, highlight=False, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
