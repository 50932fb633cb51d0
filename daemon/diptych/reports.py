"""How verdicts are shown: one object per series, as a table, CSV or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text
from sqlalchemy import Row

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


def table(rows: Iterable[Mapping[str, Any]], title: str | None = None) -> Table:
    """A Rich table; a ``name`` or ``verdict`` key of the rows adds its column."""
    rows = list(rows)
    named = any("name" in row for row in rows)
    shown = Table(title=title, header_style="bold", box=None, pad_edge=False)
    if named:
        shown.add_column("sent")
    for heading in ("case", "source", "series", "modality"):
        shown.add_column(heading)
    for heading in ("slices", "informative", "c(1)", "c(3)", "threshold"):
        shown.add_column(heading, justify="right")
    for heading in ("relation", "flags", "matched series"):
        shown.add_column(heading)
    shown.add_column("seconds", justify="right")
    if named:
        shown.add_column("expected")
    for row in rows:
        shown.add_row(*_cells(row, named))
    return shown


def _cells(row: Mapping[str, Any], named: bool) -> list[Text]:
    relation = str(row["relation"])
    words = f"{relation} ({row['reason']})" if row.get("reason") else relation
    cells = [
        Text(str(row["case_id"] or "–")),
        Text(str(row["source"])),
        Text(_short(row["series_instance_uid"])),
        Text(str(row["modality"] or "–")),
        Text(str(row["slices"])),
        Text(str(row["informative_slices"])),
        Text(_score(row["c1"])),
        Text(_score(row["c3"])),
        Text(_score(row["threshold"])),
        Text(words, style=_COLOURS.get(relation, "")),
        Text(" ".join(row["flags"])),
        Text(_short(row["matched_series_instance_uid"])),
        Text(f"{row['seconds']:.2f}"),
    ]
    if not named:
        return cells
    good = row.get("as_expected", True)
    expected = Text(str(row.get("expected", "")) + ("" if good else "  ✗ WRONG"))
    expected.stylize("green" if good else "bold red")
    return [Text(str(row["name"])), *cells, expected]


def _short(uid: str | None) -> str:
    """The end of a UID tells more than its beginning."""
    if not uid:
        return "–"
    return uid if len(uid) <= 14 else f"…{uid[-12:]}"


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
