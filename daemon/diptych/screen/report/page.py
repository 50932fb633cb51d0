"""``index.html``: the report for people. One file, no script, nothing fetched.

Values → words in ``opening``, ``against``, ``evidence`` and ``lists``, words → HTML in
``page.html.jinja`` with every value escaped; texts of senders are made printable and bounded. The
page's own policy (CSP) allows its style sheet, by hash, and pictures inside it, nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from diptych.screen.report import lists, tables, words
from diptych.screen.report.against import rates
from diptych.screen.report.evidence import Naming, evidence
from diptych.screen.report.given import Report
from diptych.screen.report.opening import found, opening
from diptych.screen.report.pairs import worst
from diptych.screen.report.slices import FULL_COLOUR

_HEADINGS = {
    "found": "What was found",
    "rates": "Rates, limits and how sure they are",
    "since": "Since the earlier delivery",
    "dismissed": "What was dismissed",
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


def page(report: Report) -> bytes:
    """The whole file."""
    style = _text("page.css")
    there = {"since": report.since is not None, "dismissed": bool(report.dismissed)}
    headings = {anchor: heading for anchor, heading in _HEADINGS.items() if there.get(anchor, True)}
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
        **opening(report),
        **found(report),
        **rates(report.decision),
        **lists.changes(report.since),
        **lists.dismissed(report),
        **lists.groups(report),
        **_pairs(report),
        **lists.kept(report),
        **lists.unscreened(report),
        **lists.accounting(report.screening),
        **lists.method(report),
    )
    return html.encode()


def _text(name: str) -> str:
    return (resources.files(__package__) / name).read_text("utf-8")


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
