"""``summary.json``: the report in numbers, of the shape that ``summary.schema.json`` states."""

from __future__ import annotations

from importlib import resources
from typing import Any

from diptych.judge.ladder import Relation
from diptych.log import printable
from diptych.screen.findings import Screening
from diptych.screen.limits import Decision
from diptych.screen.money import Money
from diptych.screen.report import figures, tables, words
from diptych.screen.since import Since, What

SCHEMA = "summary.schema.json"
SCHEMA_VERSION = 1

_RELATIONS = (
    Relation.EXACT,
    Relation.NEAR_DUPLICATE,
    Relation.PARTIAL,
    Relation.RELATED,
    Relation.UNIQUE,
)


def schema() -> bytes:
    """JSON Schema (draft 2020-12)."""
    return (resources.files(__package__) / SCHEMA).read_bytes()


def summary(
    screening: Screening,
    decision: Decision,
    groups: int,
    pairs: int,
    vendor_copy: bool,
    since: Since | None = None,
    dismissed: int = 0,
) -> dict[str, Any]:
    """Times are in ``times`` and nowhere else; shares are 0…1; money is text, for it is exact."""
    excluded = {each.series for each in decision.excluded}
    return {
        "$schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "delivery": _text(screening.delivery),
        "vendor": _text(screening.vendor),
        "vendor_copy": vendor_copy,
        "complete": screening.complete,
        "stopped": _text(screening.stopped),
        "decision": {
            "ruling": decision.ruling.value,
            "sentence": _text(decision.sentence),
            "terms": _text(decision.terms),
            "exceeded": [_text(each.sentence) for each in decision.exceeded],
            "unchecked": [kind.value for kind in decision.unchecked],
        },
        "rates": [
            {
                "kind": rate.kind.value,
                "relation": rate.relation.value if rate.relation else None,
                "modality": _text(rate.modality),
                "vendor": _text(rate.vendor),
                "duplicates": rate.duplicates,
                "unverified": rate.unverified,
                "of": rate.of,
                "low": rate.low,
                "high": rate.high,
                "limit": rate.limit.text,
                "exceeded": rate.exceeded,
            }
            for rate in decision.rates
        ],
        "lost": [
            {
                "what": lost.what,
                "count": lost.count,
                "of": lost.of,
                "limit": lost.limit.text,
                "exceeded": lost.exceeded,
            }
            for lost in decision.lost
        ],
        "money": _money(decision.money),
        "series": {
            "total": len(screening.series),
            "judged": sum(series.judged for series in screening.series),
            "counted": len(figures.in_the_count(screening, excluded)),
            "duplicates": len(figures.duplicates(screening, excluded)),
        },
        "excluded": [{"series": each.series, "why": _text(each.why)} for each in decision.excluded],
        "matrix": [
            {
                "vendor": _text(cell.vendor),
                "kind": cell.kind.value,
                "collection": _text(cell.collection),
                "series": cell.series,
                **{relation.value: cell.relations[relation] for relation in _RELATIONS},
            }
            for row in figures.matrix(screening, excluded)
            for cell in row
        ],
        "not_screened": [
            {"reason": _text(reason), "series": len(series)}
            for reason, series in figures.not_screened(screening)
        ],
        "since": _since(since),
        "dismissed": dismissed,
        "groups": groups,
        "pairs": pairs,
        "inputs": {
            "named": [_text(name) for name in screening.inputs],
            "files": screening.files,
            "entries": screening.entries,
            "bytes": screening.bytes,
            "outcomes": [
                {
                    "status": _text(outcome.status),
                    "reason": _text(outcome.reason),
                    "entries": outcome.count,
                    "bytes": outcome.bytes,
                }
                for outcome in screening.outcomes
            ],
            "balanced": sum(o.count for o in screening.outcomes) == screening.entries,
            "named_but_absent": len(screening.absent),
        },
        "method": {
            "version": _text(screening.version),
            "model": _text(screening.model),
            "fingerprint": _text(screening.fingerprint),
            "policy": _text(screening.policy),
            "collections": [
                {
                    "kind": each.kind.value,
                    "name": _text(each.name),
                    "cases": None if vendor_copy else each.cases,
                }
                for each in screening.collections
            ],
        },
        "parquet": tables.parquet_there(),
        "times": {
            "began": words.moment(screening.began),
            "ended": words.moment(screening.ended),
            "seconds": round(screening.seconds, 3),
        },
    }


def _since(since: Since | None) -> dict[str, Any] | None:
    if since is None:
        return None
    return {
        "earlier": _text(since.earlier),
        "series": {what.value: since.count(what) for what in What},
        "copies": {
            "resolved": len(since.resolved),
            "remaining": len(since.remaining),
            "new": len(since.new),
        },
    }


def _money(money: Money | None) -> dict[str, Any] | None:
    if money is None:
        return None
    return {
        "total": format(money.total, "f"),
        "priced": money.priced,
        "unpriced": money.unpriced,
        "copies": format(money.copies, "f"),
        "copies_unpriced": money.copies_unpriced,
        "by_kind": {kind.value: format(amount, "f") for kind, amount in money.by_kind.items()},
    }


def _text(text: str) -> str:
    return printable(text, words.WHOLE)
