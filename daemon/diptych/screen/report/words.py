"""What the report says in words: relations as a contract means them, reasons, transforms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from diptych.errors import Reason
from diptych.judge.check import Check, Impossible, Interval
from diptych.judge.ladder import Relation
from diptych.log import printable
from diptych.screen.findings import Kind

CELL = 120
"""Characters of a sender's text in the page; the tables have all of it."""
WHOLE = 4096
"""Characters of any text in the tables: PATH_MAX of Linux."""


@dataclass(frozen=True)
class Meaning:
    """Of a relation: whether it is a duplicate, and what that says."""

    duplicate: bool
    says: str
    rests_on: str


MEANINGS = {
    Relation.EXACT: Meaning(
        True,
        "The same image. New UIDs, new names, removed headers, another file format, lossless "
        "re-compression or another order of the files do not make it another.",
        "Every stored pixel value of every slice agrees.",
    ),
    Relation.NEAR_DUPLICATE: Meaning(
        True,
        "A processed copy of the same scan: turned, shifted, cropped a little, blurred, made "
        "noisy, re-windowed or compressed with loss.",
        "Both were laid onto each other in three dimensions; fine detail that two scans of one "
        "patient do not share agrees.",
    ),
    Relation.PARTIAL: Meaning(
        True,
        "One holds a part of the other: some of its slices, every second slice, a shorter range.",
        "As for a near-duplicate, and less than 80 % of the slices of one of the two have a "
        "counterpart in the other.",
    ),
    Relation.RELATED: Meaning(
        False,
        "The same patient in another exam, another contrast or reconstruction of one study, or "
        "strong resemblance. This is not a duplicate and is counted in no rate.",
        "Many slices resemble each other, and the comparison in three dimensions does not show "
        "the same scan; or both belong to one study.",
    ),
    Relation.UNIQUE: Meaning(False, "None of these was found.", "No candidate was confirmed."),
    Relation.NOT_SCREENABLE: Meaning(
        False,
        "An image that could not be judged. It is in no rate: neither among the duplicates nor "
        "among the series they are a share of.",
        "The reason is named.",
    ),
    Relation.NOT_AN_IMAGE: Meaning(
        False, "A report, an annotation, a document. It is in no rate.", "The object's class."
    ),
}

COPY_OF = {
    Relation.EXACT: "is an exact copy of",
    Relation.NEAR_DUPLICATE: "is a near-duplicate of",
    Relation.PARTIAL: "is a partial copy of",
    Relation.RELATED: "is related to",
}
_REASONS = {
    Reason.NO_INFORMATIVE_SLICE: "every slice is blank or nearly so",
    Reason.NO_PIXEL_DATA: "there are no pixels in it",
    Reason.UNREADABLE: "the file is damaged",
    Reason.UNSUPPORTED_TRANSFER_SYNTAX: "its compression cannot be read",
    Reason.UNSUPPORTED_PIXEL_FORMAT: "its pixel format cannot be read",
    Reason.TRUNCATED_PIXEL_DATA: "pixels are missing at its end",
    Reason.DECODE_FAILED: "its pixels could not be decoded",
    Reason.DECODER_CRASHED: "decoding it made the decoder fail",
    Reason.DECODER_TIMEOUT: "decoding it took too long",
    Reason.TOO_LARGE: "it is larger than the limits allow",
    Reason.SPOOL_FILE_LOST: "a file of it was lost during the run",
    Reason.INTERNAL: "an error of this program",
    Reason.NOT_AN_IMAGE: "no image",
}
_IMPOSSIBLE = {
    Impossible.NO_PROXY: "no small volume of it was kept",
    Impossible.TOO_SMALL: "too small to be aligned",
    Impossible.NO_OVERLAP: "nothing of the two overlaps",
}
_STATUSES = {
    "readable": "images that could be read",
    "not-screenable": "images that cannot be judged",
    "not-an-image": "no images",
    "unreadable": "damaged, or not what their names say",
    "refused": "not read: a limit or a rule",
    "opened": "archives; their members are counted by themselves",
}
KINDS = {Kind.DELIVERY: "inside the delivery", Kind.OWNED: "owned", Kind.TEST_SET: "test set"}
_KNOWN = {Kind.DELIVERY: "Delivered before", Kind.OWNED: "Owned", Kind.TEST_SET: "Test set"}
_TOWARDS = (("head", "feet"), ("back", "front"), ("patient's left", "patient's right"))
_SPACE = "\u00a0"  # a number and its percent sign stay in one line
_SLIGHT_MM, _SLIGHT_DEGREES, _SLIGHT_BLUR_MM = 0.5, 0.25, 0.05


def short(text: str, limit: int = CELL) -> str:
    """``text`` for one line of the page: printable; of a long one the middle is left out, for a
    path's end tells most."""
    clean = printable(text, WHOLE)
    if len(clean) <= limit:
        return clean
    tail = limit * 2 // 3
    return f"{clean[: limit - tail - 1]}…{clean[-tail:]}"


def upper(text: str) -> str:
    """With its first letter a capital."""
    return f"{text[:1].upper()}{text[1:]}"


def reason(name: str) -> str:
    """Why an image could not be judged; a reason this version does not know is shown as it is."""
    return _REASONS[Reason(name)] if name in set(Reason) else ""


def status(name: str) -> str:
    """What an outcome of ``intake.entry`` means."""
    return _STATUSES.get(name, "")


def side(kind: Kind) -> str:
    """What the other side of a pair is called beside its pictures."""
    return _KNOWN[kind]


def collection(kind: Kind, name: str) -> str:
    """A collection as a heading."""
    return f"test set {short(name, 40)}" if kind is Kind.TEST_SET else KINDS[kind]


def verified(value: str, why: str) -> str:
    """How a pair was confirmed."""
    if value == "impossible":
        found = _IMPOSSIBLE[Impossible(why)] if why in set(Impossible) else short(why)
        return f"could not be aligned ({found}); judged by its slices alone"
    known = {
        "pixel-digest": "every plane has the same pixel values",
        "aligned": "aligned in three dimensions and found to be the same scan",
        "refuted": "aligned in three dimensions and found not to be the same scan",
        "not-tried": "not aligned: the policy asks for none",
        "no-candidate": "nothing to align",
    }
    return known.get(why, f"{value}: {short(why)}")


def transform(check: Check, known: str = "known") -> str:
    """The alignment in words; ``known``: what the other side is called."""
    parts = []
    if abs(check.rotation_degrees) >= _SLIGHT_DEGREES:
        parts.append(f"turned by {abs(check.rotation_degrees):.1f}° about the slice axis")
    length = math.hypot(*check.shift_mm)
    if length >= _SLIGHT_MM:
        steps = [
            f"{abs(mm):.1f} mm towards the {names[mm < 0]}"
            for mm, names in zip(check.shift_mm, _TOWARDS, strict=True)
            if abs(mm) >= _SLIGHT_MM
        ]
        far = f"{length:.1f} mm from the other's ({', '.join(steps)})"
        parts.append(f"its middle lies {far if len(steps) > 1 else f'{steps[0]} from the other'}")
    if abs(check.blur_mm) >= _SLIGHT_BLUR_MM:
        who = "the delivered one" if check.blur_mm > 0 else "the other"
        parts.append(f"{who} softer by {abs(check.blur_mm):.1f} mm")
    if check.inverted:
        parts.append("bright and dark exchanged")
    if check.backwards:
        parts.append("its slices in reverse order")
    words = ", ".join(parts) if parts else "neither turned nor moved"
    sentence = f"{words[0].upper()}{words[1:]}."
    if check.ours is None:
        return sentence
    if check.theirs is None:
        return f"{sentence} Of the delivered one, {_range(check.ours)} have a counterpart."
    return f"{sentence} {_range(check.ours).capitalize()} lie on {_range(check.theirs)} {known}."


def _range(found: Interval) -> str:
    return f"slices {found.first} to {found.last} of {found.of}"


def percent(share: float) -> str:
    """0.0058 → "0.58 %"; below a hundredth of a percent two digits that count.
    Between the two is a no-break space."""
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f}{_SPACE}%"
    return f"{value:.2g}{_SPACE}%" if value < 0.01 else f"{value:.2f}{_SPACE}%"


def number(value: int) -> str:
    """1204 → "1,204"."""
    return f"{value:,}"


def money(value: Decimal) -> str:
    """Without a currency: prices come without one."""
    return f"{value:,.2f}"


def size(count: float) -> str:
    """Bytes, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def moment(microseconds: int) -> str:
    """UTC microseconds as ISO 8601."""
    at = datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds")
    return at.replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """In the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
