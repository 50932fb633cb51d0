"""Geometry, order and value elements of one frame, wherever the object keeps them.

Classic objects hold them at the top level; enhanced ones in Per-Frame or Shared Functional Groups
(PS3.3 §C.7.6.16). One reader serves both: per frame, then shared, then top level.
"""

from __future__ import annotations

import math
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from .header import text_of, value_of
from .plane import Cosines, Vector

_UNIT_TOLERANCE = 0.05
"""A direction cosine triple this far from length 1, or a pair from a right angle, is garbage."""

_FARTHEST_MM = 1e6
"""No voxel is a kilometre from the isocentre."""

_SPACING_MM = (1e-6, 1e4)
"""From electron microscopy to far beyond any detector; outside it PixelSpacing is garbage."""

_FRAME_TYPES = (
    "CTImageFrameTypeSequence",
    "MRImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "XAXRFFrameCharacteristicsSequence",
    "USImageDescriptionSequence",
)


class FrameValues:
    """Looks elements up for one frame (0-based ``index``) of ``dataset``."""

    def __init__(self, dataset: Dataset, index: int) -> None:
        self._top = dataset
        self._groups: list[Dataset] = []
        per_frame = value_of(dataset, "PerFrameFunctionalGroupsSequence")
        if isinstance(per_frame, Sequence) and index < len(per_frame):
            self._groups.append(per_frame[index])
        shared = value_of(dataset, "SharedFunctionalGroupsSequence")
        if isinstance(shared, Sequence) and len(shared):
            self._groups.append(shared[0])

    def group(self, name: str) -> Dataset | None:
        """The first item of a functional group macro, per frame before shared."""
        for groups in self._groups:
            sequence = value_of(groups, name)
            if isinstance(sequence, Sequence) and len(sequence):
                return sequence[0]
        return None

    def value(self, keyword: str, *macros: str) -> Any:
        """``keyword`` in one of the macros, else at the top level, else None."""
        for name in macros:
            item = self.group(name)
            if item is not None and (value := value_of(item, keyword)) not in (None, ""):
                return value
        return value_of(self._top, keyword)

    def number(self, keyword: str, *macros: str) -> float | None:
        """A finite number, or None; the first of several values."""
        value = self.value(keyword, *macros)
        if isinstance(value, MultiValue):
            value = value[0] if len(value) else None
        return finite(value)

    def integer(self, keyword: str, *macros: str) -> int | None:
        number = self.number(keyword, *macros)
        return None if number is None else int(number)

    def text(self, keyword: str, macro: str) -> str:
        item = self.group(macro)
        return text_of(item, keyword) if item is not None else text_of(self._top, keyword)

    # -- geometry ---------------------------------------------------------------------------

    def position(self) -> Vector | None:
        """ImagePositionPatient in mm, LPS (PS3.3 §C.7.6.2.1.1), or None when absent or absurd."""
        values = numbers(self.value("ImagePositionPatient", "PlanePositionSequence"), 3)
        if values is None or max(map(abs, values)) > _FARTHEST_MM:
            return None
        return values[0], values[1], values[2]

    def orientation(self) -> Cosines | None:
        """ImageOrientationPatient: row cosines, column cosines; None when absent or absurd."""
        values = numbers(self.value("ImageOrientationPatient", "PlaneOrientationSequence"), 6)
        if values is None:
            return None
        row, column = values[:3], values[3:]
        off_length = max(abs(math.hypot(*row) - 1), abs(math.hypot(*column) - 1))
        off_angle = abs(sum(a * b for a, b in zip(row, column, strict=True)))
        if max(off_length, off_angle) > _UNIT_TOLERANCE:
            return None
        a, b, c, d, e, f = values
        return a, b, c, d, e, f

    def pixel_spacing(self) -> tuple[float, float] | None:
        """Row spacing, column spacing in mm: PixelSpacing, else ImagerPixelSpacing."""
        for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
            values = numbers(self.value(keyword, "PixelMeasuresSequence"), 2)
            if values is not None and min(values) > _SPACING_MM[0] and max(values) < _SPACING_MM[1]:
                return values[0], values[1]
        return None

    def image_type(self) -> tuple[str, ...]:
        """FrameType of this frame, else ImageType, upper case."""
        value: Any = None
        for name in _FRAME_TYPES:
            item = self.group(name)
            if item is not None and (value := value_of(item, "FrameType")):
                break
        value = value or value_of(self._top, "ImageType") or ()
        parts = str(value).split("\\") if isinstance(value, str) else value
        try:
            return tuple(str(part).strip().upper() for part in parts)
        except TypeError:
            return ()

    # -- diffusion --------------------------------------------------------------------------

    def b_value(self) -> float | None:
        """DiffusionBValue in s/mm²: standard, then Siemens (0019,100C), Philips (2001,1003)."""
        standard = self.number("DiffusionBValue", "MRDiffusionSequence")
        if standard is not None:
            return standard
        maker = text_of(self._top, "Manufacturer").upper()
        if maker.startswith("SIEMENS"):
            return finite(private(self._top, 0x0019, 0x100C))
        if maker.startswith("PHILIPS"):
            return finite(private(self._top, 0x2001, 0x1003))
        return None

    def gradient(self) -> Vector | None:
        """DiffusionGradientOrientation, patient axes: standard, else Siemens or Philips private."""
        item = self.group("MRDiffusionSequence")
        if item is not None:
            direction = value_of(item, "DiffusionGradientDirectionSequence")
            if isinstance(direction, Sequence) and len(direction):
                item = direction[0]
        value = value_of(item if item is not None else self._top, "DiffusionGradientOrientation")
        maker = text_of(self._top, "Manufacturer").upper()
        if value is None and maker.startswith("SIEMENS"):
            value = private(self._top, 0x0019, 0x100E)
        if value is None and maker.startswith("PHILIPS"):
            value = [private(self._top, 0x2005, 0x10B0 + i) for i in range(3)]
        values = numbers(value, 3)
        return None if values is None else (values[0], values[1], values[2])


def finite(value: Any) -> float | None:
    """``value`` as a finite float, else None."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace").strip("\0 ")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def numbers(value: Any, count: int) -> list[float] | None:
    """Exactly ``count`` finite floats, else None."""
    if value is None or isinstance(value, (str, bytes)):
        return None
    try:
        found = [finite(part) for part in value]
    except TypeError:
        return None
    values = [number for number in found if number is not None]
    return values if len(values) == len(found) == count else None


def private(dataset: Dataset, group: int, element: int) -> Any:
    """A private element's value by tag, or None."""
    try:
        found = dataset.get((group, element))
        return None if found is None else found.value
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return None
