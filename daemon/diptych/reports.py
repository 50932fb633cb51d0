"""How verdicts are shown: one object per series, as a table, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from diptych.log import printable

if TYPE_CHECKING:
    from sqlalchemy import Row

WIDE = 220
"""Columns of what is not a terminal: every column of the table fits."""

# Columns between two cells: Rich pads one on each side, not at the edges.
_GAP = 2

COLUMNS = (
    "case_id",
    "revision",
    "source",
    "study_instance_uid",
    "series_instance_uid",
    "modality",
    "slices",
    "informative_slices",
    "c1",
    "c3",
    "count_mode",
    "threshold",
    "relation",
    "flags",
    "matched_case_id",
    "matched_series_instance_uid",
    "search",
    "reason",
    "model",
    "policy",
    "seconds",
    "created_at",
)

_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")

_COLOURS = {
    "exact": "bold red",
    "near-duplicate": "red",
    "partial": "magenta",
    "related": "yellow",
    "unique": "green",
    "resend": "cyan",
}


def series_row(row: Row[Any]) -> dict[str, Any]:
    """The JSON object of a series, in ``COLUMNS`` order; created_at is ISO 8601 in UTC."""
    values = dict(row._mapping)
    values["flags"] = json.loads(values["flags"])
    if values["resends"]:
        values["flags"] = sorted([*values["flags"], "resend"])
    created = datetime.fromtimestamp(values["created_at"] / 1e6, UTC)
    values["created_at"] = created.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {name: values[name] for name in COLUMNS}


def table(rows: Iterable[Mapping[str, Any]], title: str | None = None) -> RenderableType:
    """A table that fits its console; a ``name`` key of the rows adds what was sent and expected.

    Where the console is too narrow, the columns that say least are left out, and named below.
    """
    return _Verdicts(tuple(rows), title)


def console() -> Console:
    """stdout; what is not a terminal (a pipe, a file) is wide unless COLUMNS says otherwise."""
    wide = not sys.stdout.isatty() and not os.environ.get("COLUMNS", "").isdigit()
    return Console(width=WIDE if wide else None)


def spreadsheet(rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV with a heading line; flags are parted by spaces, what is null is empty.

    UIDs and modalities are senders' texts. One that a spreadsheet would take for a formula has an
    apostrophe before it.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {**row, "flags": " ".join(row["flags"])}
        writer.writerow({name: no_formula(cell) for name, cell in cells.items()})
    return text.getvalue()


def no_formula(cell: Any) -> Any:
    """A text that a spreadsheet would take for a formula, with an apostrophe before it."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_BEGINS) else cell


@dataclass(frozen=True)
class _Column:
    """``rank``: 0 is never left out; of the others the highest goes first. ``wraps``: its cells
    are several words, and may stand in several lines."""

    heading: str
    rank: int
    cell: Callable[[Mapping[str, Any]], Text]
    right: bool = False
    wraps: bool = False

    def widths(self, cells: Iterable[Text]) -> tuple[int, int]:
        """Below the first a word would be cut; with the second everything is in one line."""
        texts = [self.heading, *(cell.plain for cell in cells)]
        words = [word for text in texts for word in text.split()] if self.wraps else texts
        return max(map(cell_len, words)), max(map(cell_len, texts))


@dataclass(frozen=True)
class _Verdicts:
    rows: tuple[Mapping[str, Any], ...]
    title: str | None

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        named = any("name" in row for row in self.rows)
        columns = [*_SENT, *_COLUMNS, *_EXPECTED] if named else list(_COLUMNS)
        cells = {column: [column.cell(row) for row in self.rows] for column in columns}
        widths = {column: column.widths(cells[column]) for column in columns}
        shown = list(columns)
        for column in sorted(columns, key=lambda column: -column.rank):
            spare = options.max_width - sum(widths[c][0] + _GAP for c in shown) + _GAP
            if spare >= 0 or column.rank == 0:
                break
            shown.remove(column)
        table = Table(title=self.title, header_style="bold", box=None, pad_edge=False)
        for column in shown:
            least, most = widths[column]
            more = max(0, min(most - least, spare))
            spare -= more
            table.add_column(
                column.heading, justify="right" if column.right else "left", width=least + more
            )
        for number in range(len(self.rows)):
            table.add_row(*(cells[column][number] for column in shown))
        yield table
        if not self.rows:
            yield Text("no series", style="dim")
        elif len(shown) < len(columns):
            names = ", ".join(column.heading for column in columns if column not in shown)
            yield Text(f"no room for: {names}", style="dim")


def _expected(row: Mapping[str, Any]) -> Text:
    good = row.get("as_expected", True)
    words = str(row.get("expected", "")) + ("" if good else "  ✗ WRONG")
    return Text(words, style="green" if good else "bold red")


def _relation(row: Mapping[str, Any]) -> Text:
    relation = str(row["relation"])
    # not-an-image is its own and only reason.
    reason = row.get("reason")
    words = f"{relation} ({reason})" if reason and reason != relation else relation
    return Text(words, style=_COLOURS.get(relation, ""))


def _short(uid: str | None) -> str:
    """The end of a UID tells more than its beginning."""
    if not uid:
        return "–"
    return printable(uid) if len(uid) <= 14 else f"…{printable(uid[-12:])}"


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _text(key: str) -> Callable[[Mapping[str, Any]], Text]:
    """The value made safe for a terminal: it may be a sender's."""
    return lambda row: Text("–" if row[key] is None else printable(str(row[key])))


# In the order of reading.
_COLUMNS = (
    _Column("case", 2, _text("case_id"), right=True),
    _Column("source", 6, _text("source")),
    _Column("series", 0, lambda row: Text(_short(row["series_instance_uid"]))),
    _Column("modality", 7, _text("modality")),
    _Column("slices", 5, _text("slices"), right=True),
    _Column("informative", 9, _text("informative_slices"), right=True),
    _Column("c(1)", 10, lambda row: Text(_score(row["c1"])), right=True),
    _Column("c(3)", 4, lambda row: Text(_score(row["c3"])), right=True),
    _Column("threshold", 11, lambda row: Text(_score(row["threshold"])), right=True),
    _Column("relation", 0, _relation, wraps=True),
    _Column("flags", 3, lambda row: Text(" ".join(row["flags"])), wraps=True),
    _Column("matched series", 1, lambda row: Text(_short(row["matched_series_instance_uid"]))),
    _Column("seconds", 8, lambda row: Text(f"{row['seconds']:.2f}"), right=True),
)
_SENT = (_Column("sent", 0, _text("name"), wraps=True),)
_EXPECTED = (_Column("expected", 0, _expected, wraps=True),)
