"""A manifest: a table that names files or folders, and what they cost and are meant for.

CSV with a heading line, or Parquet (extra ``parquet``); columns path, and any of vendor, split,
price. A path is relative to the manifest's folder, absolute, or a URL.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from diptych.errors import ConfigError, UsageError

_SUFFIXES = (".csv", ".parquet")
_COLUMNS = ("path", "vendor", "split", "price")


@dataclass(frozen=True)
class Line:
    path: str
    vendor: str | None
    split: str | None
    price: str | None


@dataclass(frozen=True)
class Manifest:
    """``columns``: those of ours that it has."""

    path: Path
    columns: tuple[str, ...]

    def lines(self) -> Iterator[Line]:
        """One at a time; raises UsageError, naming the line, for one that says nothing."""
        rows = _csv(self.path) if self.path.suffix.lower() == ".csv" else _parquet(self.path, self)
        for number, row in enumerate(rows, 2):
            values = {name: str(row.get(name) or "").strip() or None for name in self.columns}
            path = values.get("path")
            if path is None:
                raise UsageError(f"{self.path}: line {number} has no path")
            price = values.get("price")
            if price is not None and not _is_amount(price):
                raise UsageError(f"{self.path}: line {number}: {price[:40]!r} is no price")
            yield Line(path, values.get("vendor"), values.get("split"), price)


def is_manifest(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES


def read_manifest(path: Path) -> Manifest:
    """Only its heading; raises UsageError for a table without a column path."""
    try:
        if path.suffix.lower() == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as lines:
                heading = [name.strip() for name in next(csv.reader(lines), [])]
        else:
            heading = list(_pyarrow().ParquetFile(path).schema_arrow.names)
    except (ConfigError, OSError):
        raise
    except Exception as error:
        raise UsageError(f"{path} is no table: {type(error).__name__}") from error
    if "path" not in heading:
        raise UsageError(f"{path}: a manifest has a column path, and may have vendor, split, price")
    return Manifest(path, tuple(name for name in _COLUMNS if name in heading))


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines, skipinitialspace=True)
            table.fieldnames = [name.strip() for name in table.fieldnames or ()]
            yield from table
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is no table in UTF-8: {error}") from error


def _parquet(path: Path, manifest: Manifest) -> Iterator[Mapping[str, Any]]:
    for batch in _pyarrow().ParquetFile(path).iter_batches(columns=list(manifest.columns)):
        yield from batch.to_pylist()


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("a Parquet manifest needs pyarrow: install diptych[parquet]") from error
    return pyarrow.parquet


def _is_amount(text: str) -> bool:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return False
    return amount.is_finite() and amount >= 0
