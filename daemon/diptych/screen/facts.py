"""What the facts of a series say of its worth: how it was made, how fine, how much it tells.

Facts are text from headers that anybody may have written: what cannot be read is unknown.
"""

from __future__ import annotations

import math
import re

from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from .findings import Series

ELEMENTS = "elements"
FACTS = (
    "BodyPartExamined",
    "Columns",
    "ImageType",
    "LossyImageCompression",
    "PixelSpacing",
    "Rows",
    "SliceThickness",
    "SpacingBetweenSlices",
    ELEMENTS,
)
"""The keys of ``Series.facts`` that decide anything: DICOM keywords, their values with backslashes
as in the data set, and the number of elements of the header."""

_NUMBER = re.compile(r"\d+(?:\.\d*)?(?:[eE][-+]?\d{1,3})?", re.ASCII)
# PS3.5 A.4: these are never lossless; JPEG 2000 and HTJ2K say it by LossyImageCompression alone.
_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless)
_DERIVED = {"ORIGINAL": 0, "DERIVED": 2}


def derived(series: Series) -> int:
    """0: original pixels by value 1 of ImageType (PS3.3 C.7.6.1.1.2); 1: not said; 2: derived."""
    first = re.match(r"\W*([A-Z]*)", series.facts.get("ImageType", "").upper())
    return _DERIVED.get(first[1] if first else "", 1)


def voxel(series: Series) -> float:
    """mm³, two digits: a rewritten header rounds otherwise. +inf: not known."""
    plane = _numbers(series, "PixelSpacing")
    apart = _numbers(series, "SpacingBetweenSlices") or _numbers(series, "SliceThickness")
    if not plane or not apart:
        return math.inf
    size = plane[0] * plane[-1] * apart[0]
    return float(f"{size:.2g}") if 0 < size < math.inf else math.inf


def lossy(series: Series) -> bool:
    """Whether the pixels have been compressed with loss, ever (PS3.3 C.7.6.1.1.5)."""
    said = series.facts.get("LossyImageCompression", "").strip()
    return said == "01" or series.transfer_syntax in _LOSSY


def plane(series: Series) -> int:
    """Pixels of a slice; 0: not known."""
    rows, columns = _numbers(series, "Rows"), _numbers(series, "Columns")
    return int(min(rows[0] * columns[0], 2**62)) if rows and columns else 0


def elements(series: Series) -> int:
    """Of its header; 0: not known."""
    found = _numbers(series, ELEMENTS)
    return int(min(found[0], 2**62)) if found else 0


def _numbers(series: Series, keyword: str) -> list[float]:
    return [float(text) for text in _NUMBER.findall(series.facts.get(keyword, ""))]
