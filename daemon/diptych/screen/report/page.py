"""``index.html``: the report for people. One file, no script, nothing fetched.

Values → words here, words → HTML in ``page.html.jinja`` with every value escaped; texts of senders
are made printable and bounded. The page's own policy (CSP) allows its style sheet, by hash, and
pictures inside it, nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from diptych.judge.ladder import Relation
from diptych.screen.findings import Kind, Screening, Series
from diptych.screen.groups import Group
from diptych.screen.keep import Kept
from diptych.screen.limits import Decision, Ruling
from diptych.screen.rates import Rate
from diptych.screen.report import figures, tables, words
from diptych.screen.report.evidence import Naming, evidence
from diptych.screen.report.figures import Cell
from diptych.screen.report.given import Pictures
from diptych.screen.report.pairs import Pair, worst
from diptych.screen.report.slices import FULL_COLOUR
from diptych.screen.since import Since, What

MOST_VENDORS, MOST_PARTS, MOST_GROUPS, MOST_MEMBERS = 40, 40, 60, 20
MOST_ABSENT, MOST_REASONS, MOST_NAMED, MOST_EXCLUDED = 60, 30, 12, 20
LONG = 90
"""Characters from which on the verdict is set smaller."""
_PLOT = 144
"""Units of the width of the drawing of an interval."""
_HEADINGS = {
    "found": "What was found",
    "rates": "Rates, limits and how sure they are",
    "since": "Since the earlier delivery",
    "meaning": "What the words mean",
    "groups": "Groups of copies",
    "pairs": "The pairs, side by side",
    "keep": "What to keep",
    "unscreened": "What was not screened",
    "accounting": "Inputs and what became of them",
    "method": "Method, model and versions",
    "clause": "A clause for a purchase contract",
    "files": "Files, checksums and signature",
}
_FILES = (
    ("index.html", "this page"),
    ("pairs.csv, pairs.parquet", "each series beside what it was found to be, with all numbers"),
    ("series.csv, series.parquet", "each series of the delivery and its verdict"),
    ("groups.json", "the groups of copies around their representatives"),
    ("clean_manifest.csv", "which series to keep, and why"),
    ("summary.json, summary.schema.json", "this report in numbers, and the JSON Schema of it"),
    ("manifest.sha256, manifest.sha256.sig", "checksums of all files, and the signature of them"),
    ("report.pub.pem", "the public key of the signature"),
)


@dataclass(frozen=True)
class Report:
    """All that the page is made of."""

    screening: Screening
    decision: Decision
    groups: Sequence[Group]
    kept: Sequence[Kept]
    pictures: Pictures
    pairs: Sequence[Pair]
    fingerprint: str
    vendor_copy: bool
    since: Since | None = None

    @property
    def excluded(self) -> frozenset[int]:
        """Numbers of series that the policy leaves out of the count."""
        return frozenset(each.series for each in self.decision.excluded)


def page(report: Report) -> bytes:
    """The whole file."""
    style = _text("page.css")
    headings = {
        anchor: heading
        for anchor, heading in _HEADINGS.items()
        if anchor != "since" or report.since is not None
    }
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_text("page.html.jinja"))
    html = template.render(
        # the style sheet is ours: escaped, its quotes would no longer be CSS
        style=Markup(style),  # noqa: S704
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        headings=headings,
        numbers={anchor: number for number, anchor in enumerate(headings, 1)},
        contents=list(headings.items()),
        vendor_copy=report.vendor_copy,
        version=words.short(report.screening.version, 40),
        fingerprint=report.fingerprint,
        files=_FILES,
        parquet=tables.parquet_there(),
        full_colour=f"{FULL_COLOUR:.0%}",
        meanings=[(relation.value, meaning) for relation, meaning in words.MEANINGS.items()],
        **_head(report),
        **_found(report),
        **_rates(report),
        **_since(report.since),
        **_groups(report),
        **_pairs(report),
        **_kept(report),
        **_unscreened(report),
        **_accounting(report.screening),
        **_method(report),
    )
    return html.encode()


def _text(name: str) -> str:
    return (resources.files(__package__) / name).read_text("utf-8")


def _head(report: Report) -> dict[str, Any]:
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


def _found(report: Report) -> dict[str, Any]:
    rows = figures.matrix(report.screening, report.excluded)
    columns = figures.collections(report.screening)
    related = [
        series
        for series in figures.in_the_count(report.screening, report.excluded)
        if any(figures.relation_to(series, *place) is Relation.RELATED for place in columns)
    ]
    return {
        "columns": [_upper(words.collection(*place)) for place in columns],
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


def _upper(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _cell(cells: Sequence[Cell]) -> dict[str, str]:
    found, of = sum(cell.duplicates for cell in cells), sum(cell.series for cell in cells)
    kinds: Counter[Relation] = sum((cell.relations for cell in cells), Counter())
    names = [r for r, meaning in words.MEANINGS.items() if meaning.duplicate and kinds[r]]
    return {
        "count": words.number(found),
        "share": words.percent(found / of) if of else "–",
        "kinds": ", ".join(f"{words.number(kinds[relation])} {relation}" for relation in names),
    }


def _rates(report: Report) -> dict[str, Any]:
    whole = [rate for rate in report.decision.rates if not rate.modality and not rate.vendor]
    parts = [rate for rate in report.decision.rates if rate.modality or rate.vendor]
    limited = [rate for rate in parts if rate.limit.set]
    parts = [rate for rate in parts if not rate.limit.set and rate.relation is None]
    vendors = {rate.vendor for rate in parts}
    if len(vendors - {""}) < 2:
        parts = [rate for rate in parts if not rate.vendor]  # one vendor is the whole
    limits = [rate for rate in whole if rate.limit.set]
    return {
        "rate_tables": [
            (caption, any(rate.limit.set for rate in some), _scaled(some))
            for caption, some in (
                ("The whole delivery, and what has limits of its own", [*whole, *limited]),
                ("By vendor and by modality", parts[:MOST_PARTS]),
            )
            if some
        ],
        "more_parts": max(0, len(parts) - MOST_PARTS),
        "lost": [
            {
                "what": _upper(lost.what),
                "count": f"{words.number(lost.count)} of {words.number(lost.of)}",
                "share": words.percent(lost.count / lost.of) if lost.of else "–",
                "limit": lost.limit.text,
                "exceeded": lost.exceeded,
            }
            for lost in report.decision.lost
        ],
        "money": _money(report.decision),
        "clause_limits": _clause(limits),
    }


def _scaled(rates: Sequence[Rate]) -> list[dict[str, Any]]:
    """One scale for all of them: from 0 to the largest bound or limit."""
    most = max([0.001, *(rate.high for rate in rates), *(_limit(rate) or 0 for rate in rates)])

    def at(share: float | None) -> str | None:
        return None if share is None else f"{min(1.0, share / most) * (_PLOT - 8) + 4:.1f}"

    return [
        {
            "where": _upper(words.KINDS[rate.kind])
            + "".join(
                f", {words.short(part, 60)}" for part in (rate.modality, rate.vendor) if part
            ),
            "what": "all copies" if rate.relation is None else rate.relation.value,
            "duplicates": words.number(rate.duplicates),
            "unverified": words.number(rate.unverified) if rate.unverified else "",
            "of": words.number(rate.of),
            "share": words.percent(rate.duplicates / rate.of) if rate.of else "–",
            "low": words.percent(rate.low),
            "high": words.percent(rate.high),
            "limit": rate.limit.text if rate.limit.set else "–",
            "exceeded": rate.exceeded,
            "finding": "within" if rate.limit.set else "",
            "x": at(rate.duplicates / rate.of if rate.of else 0.0),
            "x_low": at(rate.low),
            "x_high": at(rate.high),
            "x_limit": at(_limit(rate)),
        }
        for rate in rates
    ]


def _limit(rate: Rate) -> float | None:
    if rate.limit.count is not None:
        return min(1.0, rate.limit.count / rate.of) if rate.of else None
    return None if rate.limit.share is None else float(rate.limit.share)


def _money(decision: Decision) -> list[tuple[str, str]]:
    money = decision.money
    if money is None:
        return []
    by_kind = [
        (f"of them copies, {words.KINDS[kind]}", words.money(amount))
        for kind, amount in money.by_kind.items()
        if amount
    ]
    rows = [
        (f"All {words.number(money.priced)} series with a price", words.money(money.total)),
        ("Series that are a copy of anything, each once", words.money(money.copies)),
        *by_kind,
    ]
    if money.unpriced:
        rows.append(("Series without a price", words.number(money.unpriced)))
    if money.copies_unpriced:
        rows.append(("Copies without a price, not in these sums", str(money.copies_unpriced)))
    return rows


def _clause(limits: Sequence[Rate]) -> str:
    places = {
        Kind.DELIVERY: "of other Series of the Delivery",
        Kind.OWNED: "of Series that the Buyer owns",
        Kind.TEST_SET: "of Series of the Buyer's test sets",
    }
    kinds = {
        None: "Duplicates",
        Relation.EXACT: "exact copies",
        Relation.NEAR_DUPLICATE: "near-duplicates",
        Relation.PARTIAL: "partial copies",
    }
    said = [
        f"at most {rate.limit.text} may be {kinds[rate.relation]} {places[rate.kind]}"
        for rate in limits
    ]
    if not said:
        said = [f"at most [share] % may be Duplicates {where}" for where in places.values()]
    return "; ".join(said) + "."


def _since(since: Since | None) -> dict[str, Any]:
    if since is None:
        return {"since": None}
    left = [(_upper(what), words.number(since.count(what))) for what in What]
    copies = (
        ("Resolved: gone, or no longer a copy", since.resolved),
        ("Remaining", since.remaining),
        ("New", since.new),
    )
    return {
        "since": {
            "earlier": words.short(since.earlier, 80),
            "series": left,
            "copies": [
                (name, words.number(len(found)), _which([each.series for each in found]))
                for name, found in copies
            ],
        }
    }


def _groups(report: Report) -> dict[str, Any]:
    naming = Naming(report.screening, report.vendor_copy)
    shown = []
    for group in report.groups[:MOST_GROUPS]:
        members = [
            {
                "name": _upper(naming.of(member.ref)),
                "place": naming.place(member.ref),
                "relation": member.relation.value,
                "correlation": "–"
                if member.match.check is None or member.match.check.impossible is not None
                else f"{member.match.check.correlation:.3f}",
                "how": _how(member.match.verified, member.match.why)
                if member.match.check is None or member.match.check.impossible is not None
                else words.transform(member.match.check, "of the other"),
            }
            for member in group.members[:MOST_MEMBERS]
        ]
        count = len(group.members)
        shown.append(
            {
                "number": group.number,
                "where": words.KINDS[group.kind],
                "size": f"{words.number(count)} {'copy' if count == 1 else 'copies'}",
                "name": naming.of(group.representative),
                "place": naming.place(group.representative),
                "members": members,
                "more": max(0, count - MOST_MEMBERS),
            }
        )
    return {"groups": shown, "more_groups": max(0, len(report.groups) - MOST_GROUPS)}


def _how(verified: str, why: str) -> str:
    return _upper(words.verified(verified, why)) + "."


def _pairs(report: Report) -> dict[str, Any]:
    counted = sum(pair.counted for pair in report.pairs)
    shown = worst(list(report.pairs))
    naming = Naming(report.screening, report.vendor_copy)
    intro = (
        f"All {words.number(counted)} pairs that count."
        if len(shown) == counted
        else f"{len(shown)} of {words.number(counted)} pairs that count: of each kind of finding "
        "the surest first, in turn."
    )
    return {
        "pairs": [evidence(pair, report.pictures, naming) for pair in shown],
        "pairs_intro": intro,
    }


def _kept(report: Report) -> dict[str, Any]:
    reasons = Counter((each.keep, _in_general(each.why)) for each in report.kept)
    rows = sorted(reasons.items(), key=lambda item: (not item[0][0], -item[1], item[0][1]))
    return {
        "keep": report.kept
        and {
            "kept": words.number(sum(each.keep for each in report.kept)),
            "of": words.number(len(report.kept)),
            "rows": [
                {"keep": "keep" if keep else "leave out", "why": why, "count": words.number(count)}
                for (keep, why), count in rows[:MOST_REASONS]
            ],
            "more": max(0, len(rows) - MOST_REASONS),
        }
    }


def _in_general(why: str) -> str:
    """Without the numbers of series and cases: so that reasons can be counted."""
    text = re.sub(r"\bcase \d+ of ", "a case of ", why)
    return words.short(re.sub(r"\bseries \d+", "another series", text))


def _unscreened(report: Report) -> dict[str, Any]:
    left_out: dict[str, list[int]] = {}
    for each in report.decision.excluded:
        left_out.setdefault(each.why, []).append(each.series)
    return {
        "unscreened": [
            {
                "reason": words.short(name, 60),
                "says": "the run did not come to it"
                if name == figures.PENDING
                else words.reason(name),
                "count": words.number(len(series)),
                "which": _which([each.number for each in series]),
            }
            for name, series in figures.not_screened(report.screening)
        ],
        "excluded": [
            {"why": words.short(why), "count": words.number(len(found)), "which": _which(found)}
            for why, found in sorted(left_out.items())[:MOST_EXCLUDED]
        ],
        "refused": _refused(report.screening.series),
    }


def _which(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers[:MOST_NAMED]))
    return named + (f" and {words.number(len(numbers) - MOST_NAMED)} more"
                    if len(numbers) > MOST_NAMED else "")  # fmt: skip


def _refused(series: Sequence[Series]) -> str:
    some = sum(bool(each.refused) and each.judged for each in series)
    return words.number(some) if some else ""


def _accounting(screening: Screening) -> dict[str, Any]:
    total = sum(outcome.count for outcome in screening.outcomes)
    named = ", ".join(words.short(name, 60) for name in screening.inputs[:4])
    more = f" and {len(screening.inputs) - 4} more" if len(screening.inputs) > 4 else ""
    balanced = total == screening.entries
    return {
        "inputs_said": f"{named}{more}: {words.number(screening.files)} files, "
        f"{words.size(screening.bytes)}; with the members of archives "
        f"{words.number(screening.entries)} entries. Every entry has one outcome; none is dropped.",
        "outcomes": [
            {
                "name": words.short(
                    outcome.status + (f": {outcome.reason}" if outcome.reason else ""), 80
                ),
                "says": words.status(outcome.status),
                "count": words.number(outcome.count),
                "size": words.size(outcome.bytes),
            }
            for outcome in screening.outcomes
        ],
        "outcomes_total": words.number(total),
        "balance": "all entries"
        if balanced
        else f"NOT all entries: {words.number(screening.entries)} were listed",
        "absent": [
            tuple(words.short(part) for part in each) for each in screening.absent[:MOST_ABSENT]
        ],
        "more_absent": max(0, len(screening.absent) - MOST_ABSENT),
    }


def _method(report: Report) -> dict[str, Any]:
    screening = report.screening
    compared = [
        words.collection(each.kind, each.name)
        + ("" if report.vendor_copy else f": {words.number(each.cases)} cases")
        for each in screening.collections
    ]
    return {
        "method": [
            ("Diptych", words.short(screening.version, 40)),
            ("Model", words.short(screening.model)),
            ("Fingerprint of model and preparation", words.short(screening.fingerprint)),
            ("Policy of verdicts", words.short(screening.policy)),
            ("Policy of limits", words.short(report.decision.terms)),
            ("Compared with", "; ".join(compared) or "itself"),
            ("Intervals", "exact (Clopper–Pearson), 95 %"),
        ]
    }
