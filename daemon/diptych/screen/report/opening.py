"""How the page begins: the verdict, the figures beneath it, who delivered copies of what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from diptych.judge.ladder import Relation
from diptych.screen.findings import Kind
from diptych.screen.limits import Ruling
from diptych.screen.report import figures, words
from diptych.screen.report.figures import Cell
from diptych.screen.report.given import Report

MOST_VENDORS = 40
LONG = 90
"""Characters from which on the verdict is set smaller."""


def opening(report: Report) -> dict[str, Any]:
    """What stands above the contents."""
    screening, decision = report.screening, report.decision
    sentence = words.short(decision.sentence, words.WHOLE)
    before, _, outcome = sentence.rpartition(": ")
    split = (f"{before}: ", outcome) if outcome in set(Ruling) else (sentence, "")
    unchecked = [words.KINDS[kind] for kind in decision.unchecked]
    return {
        "title": f"Delivery {words.short(screening.delivery, 80)}"
        + (f" from {words.short(screening.vendor, 80)}" if screening.vendor else ""),
        "accepted": decision.accepted,
        "verdict": split,
        "verdict_long": len(sentence) > LONG,
        "complete": screening.complete,
        "stopped": _sentence(screening.stopped),
        "judged": words.number(decision.judged),
        "total": words.number(decision.series),
        "unchecked": ", ".join(unchecked),
        "facts": _facts(report),
        "times": f"Screened from {words.moment(screening.began)} to "
        f"{words.moment(screening.ended)}, {words.duration(screening.seconds)}.",
    }


def _sentence(text: str) -> str:
    said = words.short(text, 300).rstrip(".")
    return f"{said[:1].upper()}{said[1:]}." if said else ""


def _facts(report: Report) -> list[dict[str, str]]:
    screening, decision = report.screening, report.decision
    counted = len(figures.in_the_count(screening, report.excluded))
    copies = len(figures.duplicates(screening, report.excluded))
    others = [each for each in screening.collections if each.kind is not Kind.DELIVERY]
    notes = [
        words.collection(each.kind, each.name)
        + ("" if report.vendor_copy else f" ({words.number(each.cases)} cases)")
        for each in others
    ]
    facts = [
        {
            "name": "Series delivered",
            "value": words.number(len(screening.series)),
            "note": f"{words.number(counted)} of them count",
        },
        {
            "name": "Duplicates",
            "value": words.number(copies),
            "note": "copies of anything, each once",
        },
        {
            "name": "Compared with",
            "value": words.number(1 + len(others)),
            "note": "; ".join(["itself", *notes]),
        },
    ]
    if decision.money is not None:
        note = f"of {words.money(decision.money.total)}"
        if decision.money.copies_unpriced:
            note += f"; {words.number(decision.money.copies_unpriced)} duplicates have no price"
        value = words.money(decision.money.copies)
        facts.insert(2, {"name": "Money at stake", "value": value, "note": note})
    return facts


def found(report: Report) -> dict[str, Any]:
    """The matrix of vendors and collections."""
    rows = figures.matrix(report.screening, report.excluded)
    columns = figures.collections(report.screening)
    related = [
        series
        for series in figures.in_the_count(report.screening, report.excluded)
        if any(figures.relation_to(series, *place) is Relation.RELATED for place in columns)
    ]
    return {
        "columns": [words.upper(words.collection(*place)) for place in columns],
        "matrix": [
            {
                "vendor": words.short(row[0].vendor, 60) or "not named",
                "series": words.number(row[0].series),
                "cells": [_cell([cell]) for cell in row],
            }
            for row in rows[:MOST_VENDORS]
        ],
        "more_vendors": max(0, len(rows) - MOST_VENDORS),
        "matrix_total": len(rows) > 1
        and {
            "series": words.number(sum(row[0].series for row in rows)),
            "cells": [_cell(column) for column in zip(*rows, strict=True)],
        },
        "related": "1 series is" if len(related) == 1 else f"{len(related):,} series are",
    }


def _cell(cells: Sequence[Cell]) -> dict[str, str]:
    found, of = sum(cell.duplicates for cell in cells), sum(cell.series for cell in cells)
    kinds: Counter[Relation] = sum((cell.relations for cell in cells), Counter())
    names = [r for r, meaning in words.MEANINGS.items() if meaning.duplicate and kinds[r]]
    return {
        "count": words.number(found),
        "share": words.percent(found / of) if of else "–",
        "kinds": ", ".join(f"{words.number(kinds[relation])} {relation}" for relation in names),
    }
