"""The plain values that leave a decoder child: a header, its planes, or a refusal.

Everything here is picklable and holds no pydicom object. Fields that are a DICOM element keep its
keyword; the others are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.errors import Reason

Array = npt.NDArray[Any]
Vector = tuple[float, float, float]
Cosines = tuple[float, float, float, float, float, float]

LUMINANCE = (0.299, 0.587, 0.114)
"""R, G, B → Y as the standard's YBR_FULL defines it (PS3.3 §C.7.6.3.1.2)."""


@dataclass(frozen=True)
class InstanceHeader:
    """What is known of one SOP instance apart from its planes.

    ``PatientID`` and ``PatientBirthDate`` are for the caller's keyed hash only: they are never
    stored or logged, and the representation leaves them out. The three hashes say which part of
    the header differs when one SOP Instance UID comes with other content.
    """

    SOPInstanceUID: str
    SOPClassUID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    Modality: str
    BodyPartExamined: str
    PatientID: str = field(repr=False)
    PatientBirthDate: str = field(repr=False)
    FrameOfReferenceUID: str
    AcquisitionDate: str
    AcquisitionTime: str
    transfer_syntax: str
    lossy: bool
    identity_hash: bytes
    private_hash: bytes
    rest_hash: bytes


@dataclass(frozen=True, eq=False)
class Plane:
    """One 2D plane after untiling: a classic slice, one frame, or one mosaic tile.

    ``stored`` has shape (rows, columns) or (rows, columns, 3) and holds stored values with overlay
    bits cleared, or None when only digests were asked for. Lengths are mm, times ms unless said.
    ``padding`` is the inclusive range of stored values that mean "no pixel here" (PS3.3
    §C.7.5.1.1.2). ``palette`` is (first stored value mapped, luminance of each entry).
    """

    SOPInstanceUID: str
    frame_number: int
    rows: int
    columns: int
    samples: int
    photometric: str
    bits_stored: int
    signed: bool
    digest: bytes
    constant: bool
    bitstream: bytes | None = None
    stored: Array | None = field(default=None, repr=False)
    # geometry (PS3.3 §C.7.6.2)
    ImagePositionPatient: Vector | None = None
    ImageOrientationPatient: Cosines | None = None
    PixelSpacing: tuple[float, float] | None = None
    SliceThickness: float | None = None
    SpacingBetweenSlices: float | None = None
    SliceLocation: float | None = None
    # order and split
    InstanceNumber: int | None = None
    AcquisitionNumber: int | None = None
    ImageType: tuple[str, ...] = ()
    StackID: str = ""
    EchoTime: float | None = None
    EchoNumbers: int | None = None
    TemporalPosition: int | None = None
    TriggerTime: float | None = None
    AcquisitionTime: str = ""
    ContentTime: str = ""
    DiffusionBValue: float | None = None
    DiffusionGradientOrientation: Vector | None = None
    DimensionIndexValues: tuple[int, ...] = ()
    # values
    RescaleSlope: float = 1.0
    RescaleIntercept: float = 0.0
    padding: tuple[int, int] | None = None
    palette: tuple[int, npt.NDArray[np.float32]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse a plane whose pixels contradict its header."""
        if min(self.rows, self.columns, self.samples, self.frame_number) < 1:
            raise ValueError(f"plane of {self.rows}×{self.columns}×{self.samples}")
        shape = (self.rows, self.columns) + ((self.samples,) if self.samples > 1 else ())
        if self.stored is not None and self.stored.shape != shape:
            raise ValueError(f"plane of shape {self.stored.shape}, header says {shape}")


@dataclass(frozen=True, eq=False)
class Instance:
    """One image instance, decoded: its header, at least one plane, and what was odd about it."""

    path: str
    header: InstanceHeader
    planes: tuple[Plane, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.planes:
            raise ValueError("an image instance has at least one plane")


@dataclass(frozen=True)
class Refusal:
    """One file that yields no planes: not an image, or an image that cannot be judged, and why.

    ``header`` is None when the file could not be parsed. ``detail`` holds no patient data.
    """

    path: str
    reason: Reason
    detail: str
    header: InstanceHeader | None = None

    @property
    def not_an_image(self) -> bool:
        """True for SR, PR, KOS, PDF …: silently left out, never an error."""
        return self.reason is Reason.NOT_AN_IMAGE
