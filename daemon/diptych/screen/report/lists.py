"""Lists of the page: groups, what to keep, what was not screened, inputs, what changed, method."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from diptych.screen.findings import Screening, Series
from diptych.screen.report import figures, words
from diptych.screen.report.evidence import Naming
from diptych.screen.report.given import Report
from diptych.screen.since import Since, What

MOST_GROUPS, MOST_MEMBERS, MOST_REASONS, MOST_NAMED = 60, 20, 30, 12
MOST_ABSENT, MOST_EXCLUDED, MOST_DISMISSED = 60, 20, 60


def changes(since: Since | None) -> dict[str, Any]:
    """What an earlier delivery had, and this one has."""
    if since is None:
        return {"since": None}
    left = [(words.upper(what), words.number(since.count(what))) for what in What]
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


def dismissed(report: Report) -> dict[str, Any]:
    """Copies that somebody took out of the count; the vendor hears that, not who and why."""
    rows = [
        {
            "series": words.number(each.series),
            "where": words.KINDS[each.match.kind],
            "relation": each.match.relation.value,
            "who": "" if report.vendor_copy else words.short(each.dismissal.who, 60),
            "why": "" if report.vendor_copy else words.short(each.dismissal.why, 300),
        }
        for each in report.dismissed[:MOST_DISMISSED]
    ]
    return {
        "dismissed": rows,
        "more_dismissed": max(0, len(report.dismissed) - MOST_DISMISSED),
    }


def groups(report: Report) -> dict[str, Any]:
    """Each around its representative."""
    naming = Naming(report.screening, report.vendor_copy)
    shown = []
    for group in report.groups[:MOST_GROUPS]:
        members = [
            {
                "name": words.upper(naming.of(member.ref)),
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
    return words.upper(words.verified(verified, why)) + "."


def kept(report: Report) -> dict[str, Any]:
    """How many series are kept for which reason."""
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


def unscreened(report: Report) -> dict[str, Any]:
    """Series in no rate, and why."""
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


def accounting(screening: Screening) -> dict[str, Any]:
    """Entries and their outcomes, held against each other."""
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


def method(report: Report) -> dict[str, Any]:
    """Versions of everything that decided."""
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
