"""Series that the terms leave out of the count: found here, listed by whoever decides."""

from __future__ import annotations

from dataclasses import dataclass

from .findings import Series
from .terms import Exclude

MODALITY, FEW_SLICES, LOCALIZER, PHANTOM = "modality", "few slices", "localizer", "phantom"


@dataclass(frozen=True)
class Excluded:
    """A series by its number, and why it is not counted."""

    series: int
    why: str


def excluded(series: Series, terms: Exclude) -> Excluded | None:
    """By the first rule that says so; None: it is counted."""
    why = _why(series, terms)
    return Excluded(series.number, why) if why else None


def _why(series: Series, terms: Exclude) -> str:
    if series.modality in terms.modalities:
        return MODALITY
    if terms.localizers and _holds(series, "ImageType", "LOCALIZER"):
        return LOCALIZER
    parts = [series.facts.get("BodyPartExamined", ""), *(s.body_part for s in series.stacks)]
    if terms.phantoms and any("phantom" in part.casefold() for part in parts):
        return PHANTOM
    if series.slices < terms.min_slices:
        return FEW_SLICES
    rule = next((rule for rule in terms.fact if _holds(series, rule.keyword, rule.contains)), None)
    return rule.why if rule else ""


def _holds(series: Series, keyword: str, text: str) -> bool:
    return text.casefold() in series.facts.get(keyword, "").casefold()
