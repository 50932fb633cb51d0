"""One pair as the page shows it: pictures, transform, numbers, headers side by side."""

from __future__ import annotations

import base64
from typing import Any

from diptych.errors import StoreError
from diptych.judge import proxy
from diptych.judge.check import Check
from diptych.judge.proxy import Proxy
from diptych.judge.verify import verify
from diptych.screen.findings import Kind, Match, Ref, Screening
from diptych.screen.report import slices, words
from diptych.screen.report.given import Pictures
from diptych.screen.report.pairs import Pair
from diptych.screen.report.similarity import Similarity, similarity

MOST_FACTS = 24
_MATRIX = 200
"""Units of the matrix' side in the page's drawing."""


class Naming:
    """How cases are called. hidden: what is not of the delivery has no pictures or headers."""

    def __init__(self, screening: Screening, hidden: bool) -> None:
        self.hidden = hidden
        self._places = {series.number: series.place for series in screening.series}

    def of(self, ref: Ref) -> str:
        """``series 12``, ``owned case 9``, ``case 9 of test set X``."""
        if ref.series is not None:
            return f"series {ref.series:,}"
        if ref.collection in (Kind.DELIVERY.value, Kind.OWNED.value):
            return f"{ref.collection} case {ref.case}"
        return f"case {ref.case} of test set {words.short(ref.collection, 40)}"

    def place(self, ref: Ref) -> str:
        """Where a series of the delivery lies; empty of others."""
        return "" if ref.series is None else words.short(self._places.get(ref.series, ""))


def evidence(pair: Pair, pictures: Pictures, naming: Naming) -> dict[str, Any]:
    """What the template needs of one pair."""
    match, known = pair.match, pair.match.other
    assert known is not None
    hidden = naming.hidden and match.kind is not Kind.DELIVERY
    delivered = _named(pair, naming)
    source = f"source {words.short(known.source, 60)}" if known.source else ""
    ours, theirs = _proxy(pictures, pair.stack.ref), _proxy(pictures, known.ref)
    check = match.check
    if check is None and ours is not None and theirs is not None:
        check = verify(0, ours, theirs)  # identical pixels were not aligned: for the pictures alone
    found = None if ours is None else slices.strips(ours, theirs, check)
    differences, agree = ([], 0) if hidden else _differences(pair)
    return {
        "delivered": delivered,
        "known": naming.of(known.ref),
        "side": words.side(match.kind),
        "heading": f"{delivered[0].upper()}{delivered[1:]} "
        f"{words.COPY_OF[match.relation]} {naming.of(known.ref)}",
        "place": words.short(pair.series.place),
        "known_place": naming.place(known.ref) or source,
        "transform": _transform(match),
        "strips": found and _strips(found, delivered, naming.of(known.ref), match, check),
        "similarity": _similarity(pair, pictures, naming),
        "no_picture": _no_picture(hidden, found, match),
        "evidence": _numbers(match),
        "differences": differences[:MOST_FACTS],
        "more_differences": max(0, len(differences) - MOST_FACTS),
        "others": _others(bool(known.facts), agree),
        "no_differences": _no_differences(hidden, bool(known.facts)),
    }


def _named(pair: Pair, naming: Naming) -> str:
    name = naming.of(pair.stack.ref)
    return name if pair.stack.principal else f"{name} (stack of case {pair.stack.ref.case})"


def _proxy(pictures: Pictures, ref: Ref) -> Proxy | None:
    content = pictures.proxy_of(ref)
    try:
        return None if content is None else proxy.decode(content)
    except StoreError:
        return None


def _transform(match: Match) -> str:
    check = match.check
    if check is None or check.impossible is not None:
        said = words.verified(match.verified, match.why)
        return f"{said[0].upper()}{said[1:]}."
    return words.transform(check, "of the other")


def _strips(
    found: slices.Strips, delivered: str, known: str, match: Match, check: Check | None
) -> dict[str, Any]:
    numbers = ", ".join(map(str, found.numbers))
    caption = f"{found.plane.capitalize()} slices {numbers} of {found.slices}."
    if found.known_numbers:
        caption += f" Below: slices {', '.join(map(str, found.known_numbers))} of the other."
    if found.difference_share is not None:
        caption += (
            f" Where both are they differ by {words.percent(found.difference_share)} of the range "
            "of grey on average."
        )
    if check is not None and check.backwards:
        caption += " The delivered one is shown in reverse order."
    return {
        "delivered": uri(found.delivered),
        "known": found.known and uri(found.known),
        "difference": found.difference and uri(found.difference),
        "width": found.size[0],
        "height": found.size[1],
        "side": words.side(match.kind),
        "alt_delivered": f"{found.plane} slices {numbers} of {delivered}",
        "alt_known": f"The same places of {known}, laid onto {delivered}",
        "alt_difference": "Difference of the two"
        + (
            ""
            if found.difference_share is None
            else f": {words.percent(found.difference_share)} of the range of grey on average"
        ),
        "caption": caption,
    }


def _similarity(pair: Pair, pictures: Pictures, naming: Naming) -> dict[str, Any] | None:
    assert pair.match.other is not None
    ours = pictures.vectors_of(pair.stack.ref)
    theirs = pictures.vectors_of(pair.match.other.ref)
    found = None if ours is None or theirs is None else similarity(ours, theirs)
    if found is None:
        return None
    said = (
        f"{found.on_line} of {found.rows} slices have their most similar slice on one straight line"
    )
    return {
        "picture": uri(found.picture),
        "line": _line(found),
        "down": "delivered",
        "across": words.short(naming.of(pair.match.other.ref), 30),
        "caption": (
            "Every slice beside every slice: dark is similar "
            f"(cosine {found.lowest:.2f} to {found.highest:.2f}). {said}"
            + (", the dashed one." if found.line else ": no copy's diagonal.")
        ),
        "alt": f"Matrix of {found.rows} by {found.columns} slice similarities: {said}",
    }


def _line(found: Similarity) -> list[str] | None:
    if found.line is None:
        return None
    x, y = _MATRIX / found.columns, _MATRIX / found.rows
    return [f"{v * (y if odd else x):.1f}" for v, odd in zip(found.line, (0, 1, 0, 1), strict=True)]


def _numbers(match: Match) -> list[tuple[str, str]]:
    check = match.check
    rows = []
    if check is not None and check.impossible is None:
        rows += [
            ("Correlation in fine detail", f"{check.correlation:.3f} ± {check.error:.3f}"),
            ("Compared at", f"{check.spacing_mm:g} mm"),
            ("Share in common", words.percent(check.overlap[0])),
            ("Noise", words.percent(check.noise)),
        ]
    if match.c3 is not None and match.threshold is not None:
        rows.append(("c(3)", f"{match.c3:.3f} (threshold {match.threshold:g})"))
    if match.c1 is not None:
        rows.append(("c(1)", f"{match.c1:.3f}"))
    rows.append(("Verified", words.verified(match.verified, match.why)))
    return rows


def _differences(pair: Pair) -> tuple[list[tuple[str, str, str]], int]:
    """Fields that differ, UIDs first; how many of the others agree."""
    known, series = pair.match.other, pair.series
    assert known is not None
    uids = {
        "StudyInstanceUID": (series.study_instance_uid, known.study_instance_uid),
        "SeriesInstanceUID": (series.series_instance_uid, known.series_instance_uid),
    }
    facts = {
        name: (series.facts.get(name, ""), known.facts.get(name, ""))
        for name in sorted({*series.facts, *known.facts})
        if known.facts
    }
    both = {**{name: (a, b or "") for name, (a, b) in uids.items()}, **facts}
    rows = [
        (words.short(name, 60), words.short(a) or "–", words.short(b) or "–")
        for name, (a, b) in both.items()
        if a != b
    ]
    return rows, len(both) - len(rows)


def _others(kept: bool, agree: int) -> str:
    if not kept:
        return "; of the other one only identifiers are kept"
    return f"; {agree} others agree" if agree else ""


def _no_differences(hidden: bool, kept: bool) -> str:
    if hidden:
        return "The other side's headers are the buyer's own and are not in this copy."
    return "The headers agree." if kept else "The identifiers agree; other headers are not kept."


def _no_picture(hidden: bool, found: slices.Strips | None, match: Match) -> str:
    if hidden:
        return "The other side's pictures are the buyer's own and are not in this copy."
    if found is None:
        return "No picture: the small volume of the delivered one is not kept."
    if found.known is None:
        return (
            f"The other side cannot be laid beside it: {words.verified(match.verified, match.why)}."
        )
    return ""


def uri(png: bytes) -> str:
    """A picture inside the page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
