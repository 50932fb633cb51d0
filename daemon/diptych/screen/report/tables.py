"""Tables for machines: CSV for a spreadsheet, Parquet with types; and the groups as JSON.

CSV: UTF-8, a heading line, empty where nothing is known; a text that a spreadsheet would take for a
formula has an apostrophe before it. Parquet has the same columns, texts unchanged.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from diptych.judge.check import Interval
from diptych.judge.ladder import Relation
from diptych.log import printable
from diptych.reports import no_formula
from diptych.screen.copies import STRONGEST
from diptych.screen.findings import Kind, Known, Match, Ref, Screening, Series
from diptych.screen.groups import Group
from diptych.screen.keep import Kept
from diptych.screen.report import figures, words
from diptych.screen.report.pairs import Pair

Type = Literal["text", "whole", "real", "truth"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows by column, and the columns' types."""

    name: str
    columns: Mapping[str, Type]
    rows: Sequence[Row]

    def csv(self) -> bytes:
        """The whole file."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.columns), lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({name: _cell(row[name]) for name in self.columns})
        return text.getvalue().encode()

    def parquet(self) -> bytes:
        """The whole file; only where :func:`parquet_there`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"text": pa.string(), "whole": pa.int64(), "real": pa.float64()}
        schema = pa.schema(
            [(name, types.get(kind, pa.bool_())) for name, kind in self.columns.items()]
        )
        found = pa.Table.from_pylist([dict(row) for row in self.rows], schema=schema)
        sink = pa.BufferOutputStream()
        pq.write_table(found, sink)
        content: bytes = sink.getvalue().to_pybytes()
        return content


def parquet_there() -> bool:
    """Whether Parquet can be written: the extra ``parquet`` is installed."""
    return importlib.util.find_spec("pyarrow") is not None


_PAIRS: Mapping[str, Type] = {
    "series": "whole",
    "case": "whole",
    "principal": "truth",
    "place": "text",
    "vendor": "text",
    "study_instance_uid": "text",
    "series_instance_uid": "text",
    "modality": "text",
    "slices": "whole",
    "kind": "text",
    "collection": "text",
    "relation": "text",
    "counted": "truth",
    "other_series": "whole",
    "other_case": "whole",
    "other_study_instance_uid": "text",
    "other_series_instance_uid": "text",
    "other_source": "text",
    "other_modality": "text",
    "other_slices": "whole",
    "c1": "real",
    "c3": "real",
    "threshold": "real",
    "verified": "text",
    "why": "text",
    "correlation": "real",
    "correlation_error": "real",
    "rotation_degrees": "real",
    "shift_s_mm": "real",
    "shift_p_mm": "real",
    "shift_l_mm": "real",
    "blur_mm": "real",
    "noise": "real",
    "inverted": "truth",
    "backwards": "truth",
    "overlap": "real",
    "other_overlap": "real",
    "compared_at_mm": "real",
    "first_slice": "whole",
    "last_slice": "whole",
    "other_first_slice": "whole",
    "other_last_slice": "whole",
    "transform": "text",
}


def pairs_table(pairs: Iterable[Pair], screening: Screening) -> Table:
    """One row per pair; ``counted``: it makes the series a copy in the rates. ``principal``: its
    stack speaks for the series."""
    return Table("pairs", _PAIRS, [_pair(pair, screening) for pair in pairs])


def _pair(pair: Pair, screening: Screening) -> Row:
    series, stack, match = pair.series, pair.stack, pair.match
    known = match.other
    assert known is not None
    return {
        "series": series.number,
        "case": stack.ref.case,
        "principal": stack.principal,
        **_identity(series, screening),
        "modality": _text(stack.modality),
        "slices": stack.slices,
        "kind": match.kind.value,
        "collection": _text(match.collection),
        "relation": match.relation.value,
        "counted": pair.counted,
        **_other(known),
        "c1": match.c1,
        "c3": match.c3,
        "threshold": match.threshold,
        "verified": match.verified,
        "why": _text(match.why),
        **_alignment(match),
    }


def _identity(series: Series, screening: Screening) -> Row:
    return {
        "place": _text(series.place),
        "vendor": _text(figures.vendor_of(series, screening)),
        "study_instance_uid": _text(series.study_instance_uid),
        "series_instance_uid": _text(series.series_instance_uid),
    }


def _other(known: Known) -> Row:
    return {
        "other_series": known.ref.series,
        "other_case": known.ref.case,
        "other_study_instance_uid": _text(known.study_instance_uid),
        "other_series_instance_uid": _text(known.series_instance_uid),
        "other_source": _text(known.source),
        "other_modality": _text(known.modality),
        "other_slices": known.slices or None,
    }


def _alignment(match: Match) -> Row:
    check = match.check
    if check is None or check.impossible is not None:
        begin = list(_PAIRS).index("correlation")
        return dict.fromkeys(list(_PAIRS)[begin:])

    def ends(found: Interval | None) -> tuple[int | None, int | None]:
        return (None, None) if found is None else (found.first, found.last)

    return {
        "correlation": check.correlation,
        "correlation_error": check.error,
        "rotation_degrees": check.rotation_degrees,
        **dict(zip(("shift_s_mm", "shift_p_mm", "shift_l_mm"), check.shift_mm, strict=True)),
        "blur_mm": check.blur_mm,
        "noise": check.noise,
        "inverted": check.inverted,
        "backwards": check.backwards,
        "overlap": check.overlap[0],
        "other_overlap": None if check.theirs is None else check.overlap[1],
        "compared_at_mm": check.spacing_mm,
        **dict(zip(("first_slice", "last_slice"), ends(check.ours), strict=True)),
        **dict(zip(("other_first_slice", "other_last_slice"), ends(check.theirs), strict=True)),
        "transform": words.transform(check, "of the other"),
    }


_SERIES: Mapping[str, Type] = {
    "series": "whole",
    "place": "text",
    "kind": "text",
    "vendor": "text",
    "split": "text",
    "price": "text",
    "study_instance_uid": "text",
    "series_instance_uid": "text",
    "modality": "text",
    "body_part": "text",
    "transfer_syntax": "text",
    "files": "whole",
    "slices": "whole",
    "bytes": "whole",
    "stacks": "whole",
    "informative_slices": "whole",
    "relation": "text",
    "reason": "text",
    "detail": "text",
    "owned": "text",
    "test_set": "text",
    "flags": "text",
    "refused_files": "whole",
    "keep": "truth",
    "why": "text",
    "group": "whole",
}


def series_table(screening: Screening, kept: Sequence[Kept]) -> Table:
    """One row per series. ``relation``: inside the delivery, of the stack that speaks for the
    series; ``owned``, ``test_set``: the weightiest relation there; empty: not compared."""
    chosen = {each.series: each for each in kept}
    places = figures.collections(screening)
    rows = [
        {
            **_series(series, screening, chosen.get(series.number)),
            "owned": _weightiest(series, places, Kind.OWNED),
            "test_set": _weightiest(series, places, Kind.TEST_SET),
        }
        for series in screening.series
    ]
    return Table("series", _SERIES, rows)


def _weightiest(series: Series, places: Iterable[tuple[Kind, str]], kind: Kind) -> str | None:
    """Of its relations to all collections of one kind; None: not compared."""
    found = {figures.relation_to(series, *place) for place in places if place[0] is kind}
    ranks = (*STRONGEST, Relation.RELATED, Relation.UNIQUE)
    return next((relation.value for relation in ranks if relation in found), None)


def _series(series: Series, screening: Screening, kept: Kept | None) -> Row:
    principal = series.principal
    return {
        "series": series.number,
        **_identity(series, screening),
        "kind": _text(series.kind),
        "split": _text(series.split),
        "price": None if series.price is None else format(series.price, "f"),
        "modality": _text(series.modality),
        "body_part": _text(principal.body_part) if principal else None,
        "transfer_syntax": _text(series.transfer_syntax),
        "files": series.files,
        "slices": series.slices,
        "bytes": series.bytes,
        "stacks": len(series.stacks),
        "informative_slices": principal.informative_slices if principal else None,
        "relation": principal.relation.value if principal else None,
        "reason": _text(principal.reason) if principal else None,
        "detail": _text(principal.detail) if principal else None,
        "flags": " ".join(principal.flags) if principal else None,
        "refused_files": len(series.refused),
        "keep": kept.keep if kept else None,
        "why": _text(kept.why) if kept else None,
        "group": kept.group if kept else None,
    }


_CLEAN: Mapping[str, Type] = {
    "keep": "truth",
    "why": "text",
    "group": "whole",
    "series": "whole",
    "place": "text",
    "vendor": "text",
    "split": "text",
    "price": "text",
    "study_instance_uid": "text",
    "series_instance_uid": "text",
    "modality": "text",
    "files": "whole",
    "slices": "whole",
    "bytes": "whole",
}


def clean_manifest(series: Table) -> Table:
    """Of the series' table: which to keep and why; what was not decided is left out."""
    return Table("clean_manifest", _CLEAN, [row for row in series.rows if row["keep"] is not None])


def groups_document(groups: Sequence[Group], screening: Screening) -> list[dict[str, Any]]:
    """Every group: its representative and what was verified against it."""
    places = {series.number: series.place for series in screening.series}

    def of(ref: Ref) -> dict[str, Any]:
        place = None if ref.series is None else _text(places.get(ref.series))
        return {
            "collection": _text(ref.collection),
            "case": ref.case,
            "series": ref.series,
            "place": place,
        }

    return [
        {
            "group": group.number,
            "kind": group.kind.value,
            "representative": of(group.representative),
            "members": [
                {
                    **of(member.ref),
                    "relation": member.relation.value,
                    "verified": member.match.verified,
                    "why": _text(member.match.why),
                    "correlation": _alignment(member.match)["correlation"],
                    "transform": _alignment(member.match)["transform"],
                }
                for member in group.members
            ],
        }
        for group in groups
    ]


def _text(text: str | None) -> str | None:
    return printable(text, words.WHOLE) if text else None


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return no_formula(value)
