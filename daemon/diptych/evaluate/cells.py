"""What the tables are made of: the names of the sets, numbers as text, numbers as CSV columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diptych.evaluate.answers import Transform
from diptych.evaluate.statistics import Estimate

Record = dict[str, str | int | float | None]

NOTHING = "–"
"""What could not be computed."""

KINDS = {
    "duplicate": "No transform (duplicate)",
    "crop": "Cropping",
    "rotation": "Rotation",
    "translation": "Translation",
    "blur": "Blurring",
    "jpeg": "JPEG compression",
    "noise": "Gaussian noise",
}
_STRENGTH: dict[str, Callable[[float], str]] = {
    "crop": lambda s: f"crop={s:.0%}",
    "rotation": lambda s: f"angle={s:g}°",
    "translation": lambda s: f"shift={s:.0%}",
    "blur": lambda s: f"sigma={s:g}",
    "jpeg": lambda s: f"quality={s:g}%",
    "noise": lambda s: f"std={s:g}",
}
_INDEXES = {"lsh": "LSH", "hnsw": "HNSW", "exact": "exact"}


@dataclass(frozen=True)
class Table:
    """name: its file's. rows: to be read, as long as the header. records: as the CSV holds them."""

    name: str
    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    records: tuple[Record, ...]


def strength(transform: Transform) -> str:
    """As the paper writes it, ``crop=5%``; empty for the duplicate."""
    return "" if transform.strength is None else _STRENGTH[transform.name](transform.strength)


def label(transform: Transform) -> str:
    """``Cropping (crop=5%)``, as in Table V."""
    kind = KINDS[transform.name]
    return kind if transform.strength is None else f"{kind} ({strength(transform)})"


def index_name(index: str | None) -> str:
    return NOTHING if index is None else _INDEXES[index]


def number(value: float | None) -> str:
    """Four digits, as the paper."""
    return NOTHING if value is None else f"{value:.4f}"


def rate_text(estimate: Estimate) -> str:
    """``0.9977 (442/443; 0.9875–0.9999)``."""
    return _text(estimate, "/")


def auc_text(estimate: Estimate) -> str:
    """``0.9834 (443 v 444; 0.9763–0.9884)``: copies against strangers."""
    return _text(estimate, " v ")


def named(transform: Transform) -> Record:
    """The first columns of a set's record."""
    return {"transform": transform.name, "strength": transform.strength}


def rate_columns(name: str, estimate: Estimate) -> Record:
    """A rate as columns: NAME, NAME_low, NAME_high, NAME_hits, NAME_of."""
    return _columns(name, estimate) | {
        f"{name}_hits": estimate.counts[0],
        f"{name}_of": estimate.counts[1],
    }


def auc_columns(estimate: Estimate) -> Record:
    """An AUC as columns: auc, auc_low, auc_high, copies, strangers."""
    copies, strangers = estimate.counts
    return _columns("auc", estimate) | {"copies": copies, "strangers": strangers}


def _text(estimate: Estimate, between: str) -> str:
    if estimate.value is None:
        return NOTHING
    counts = between.join(map(str, estimate.counts))
    bound = f"{number(estimate.low)}–{number(estimate.high)}"
    return f"{number(estimate.value)} ({counts}; {bound})"


def _columns(name: str, estimate: Estimate) -> Record:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
