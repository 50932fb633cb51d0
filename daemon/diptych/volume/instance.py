"""One file → its image planes, or the reason why there are none. Runs inside a decoder child.

Nothing but ``Instance`` and ``Refusal`` comes out: whatever a hostile or broken file provokes in a
parser or decoder is turned into a named reason here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut

from diptych.errors import NotScreenable, Reason

from .arrays import decode_array, open_array
from .digest import plane_digest
from .formats import ArrayFormat, array_format
from .functional import FrameValues, finite
from .header import instance_header, value_of
from .limits import Limits
from .mosaic import Mosaic, mosaic_of
from .pixels import Frame, PixelFormat, frames_of, pixel_format
from .plane import LUMINANCE, Array, Instance, InstanceHeader, Plane, Refusal
from .reading import read_dataset_file
from .sidecar import said_of
from .sopclass import declares_image, not_an_image

__all__ = ["Instance", "InstanceHeader", "Plane", "Refusal", "decode_file"]

T = TypeVar("T")
_INLINE_IMAGE = ("Rows", "Columns")


def decode_file(
    path: Path, limits: Limits | None = None, pixels: bool = True
) -> Instance | Refusal:
    """Read one file (DICOM, NIfTI, NRRD or MetaImage) and decode all of its planes.

    ``pixels=False`` leaves the arrays out (digests are computed all the same). Never raises for
    anything the file contains.
    """
    header: InstanceHeader | None = None
    form: ArrayFormat | None = None
    try:
        form = array_format(path)
        if form is not None:
            header = _array_header(path)
            file = open_array(path, form, limits or Limits())
            header = replace(header, Modality=header.Modality or file.modality)
            return decode_array(path, file, header, pixels)
        dataset, transfer_syntax = read_dataset_file(path, limits or Limits())
        header = instance_header(dataset, transfer_syntax)
        planes, notes = _planes(dataset, transfer_syntax, limits or Limits(), pixels)
        return Instance(str(path), header, planes, notes)
    except NotScreenable as error:
        if form is None and error.reason is Reason.NO_PIXEL_DATA and _pixels_cut_off(path):
            return Refusal(
                str(path), Reason.TRUNCATED_PIXEL_DATA, "the file ends in (7FE0,0010)", header
            )
        return Refusal(str(path), error.reason, error.detail, header)
    except MemoryError:
        return Refusal(str(path), Reason.TOO_LARGE, "the decoder's memory limit", header)
    except RecursionError:
        return Refusal(str(path), Reason.UNREADABLE, "sequences nested too deeply", header)
    except Exception as error:
        # The message may quote element values, that is patient data: only the type is kept.
        return Refusal(str(path), Reason.UNREADABLE, f"header: {type(error).__name__}", header)


def _array_header(path: Path) -> InstanceHeader:
    """These formats name no instance and no person; what BIDS says beside them is all."""
    said = said_of(path)
    return InstanceHeader(
        SOPInstanceUID="",
        SOPClassUID="",
        StudyInstanceUID="",
        SeriesInstanceUID="",
        Modality=said.Modality,
        BodyPartExamined=said.BodyPartExamined,
        PatientID=said.PatientID,
        PatientBirthDate="",
        FrameOfReferenceUID="",
        AcquisitionDate="",
        AcquisitionTime="",
        transfer_syntax="",
        lossy=False,
        identity_hash=b"",
        private_hash=b"",
        rest_hash=b"",
    )


def _pixels_cut_off(path: Path) -> bool:
    # The parser drops an element that the file's end cuts off: look for its beginning.
    start = b"\xe0\x7f\x10\x00O"
    return start in path.read_bytes()


def _planes(
    dataset: Dataset, transfer_syntax: str, limits: Limits, pixels: bool
) -> tuple[tuple[Plane, ...], tuple[str, ...]]:
    _refuse_other_classes(dataset)
    form = pixel_format(dataset, limits)
    values = _Values.of(dataset, form)
    planes: list[Plane] = []
    notes = list(values.notes)
    for index, frame in enumerate(frames_of(dataset, transfer_syntax, form)):
        plane = _plane(dataset, index, frame, form, values)
        mosaic = mosaic_of(dataset, plane.ImageType, frame.stored)
        tiles = _untile(plane, mosaic) if mosaic else [plane]
        if "MOSAIC" in plane.ImageType and not mosaic:
            notes.append("mosaic whose tiling is unknown, kept as one plane")
        planes += [_sealed(tile, pixels) for tile in tiles]
    return tuple(planes), tuple(dict.fromkeys(notes))


def _refuse_other_classes(dataset: Dataset) -> None:
    uid = str(value_of(dataset, "SOPClassUID") or "")
    if not uid:
        uid = str(getattr(dataset, "file_meta", {}).get("MediaStorageSOPClassUID", "") or "")
    if kind := not_an_image(uid):
        raise NotScreenable(Reason.NOT_AN_IMAGE, kind)
    if any(k in dataset for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return
    if declares_image(uid) or all(keyword in dataset for keyword in _INLINE_IMAGE):
        raise NotScreenable(Reason.NO_PIXEL_DATA, "(7FE0,0010) is missing")
    raise NotScreenable(Reason.NOT_AN_IMAGE, "no Image Pixel module")


@dataclass(frozen=True)
class _Values:
    """What all frames of an instance share on the way from stored to modality values."""

    padding: tuple[int, int] | None
    palette: tuple[int, npt.NDArray[np.float32]] | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset, form: PixelFormat) -> _Values:
        notes = []
        if value_of(dataset, "ModalityLUTSequence"):
            notes.append("ModalityLUTSequence not applied")
        palette = None
        if form.photometric == "PALETTE COLOR":
            palette = _palette(dataset, form)
            if palette is None:
                notes.append("palette cannot be applied, indices used as values")
        return cls(_padding(dataset, form), palette, tuple(notes))


def _padding(dataset: Dataset, form: PixelFormat) -> tuple[int, int] | None:
    first = finite(value_of(dataset, "PixelPaddingValue"))
    if first is None or form.keyword != "PixelData":
        return None
    last = finite(value_of(dataset, "PixelPaddingRangeLimit"))
    ends = [_as_stored(int(end), form) for end in (first, first if last is None else last)]
    return min(ends), max(ends)


def _as_stored(value: int, form: PixelFormat) -> int:
    # US and SS are mixed up for this element: only the low BitsStored bits are meant.
    value &= (1 << form.bits_stored) - 1
    if form.signed and value >> (form.bits_stored - 1):
        value -= 1 << form.bits_stored
    return value


def _palette(dataset: Dataset, form: PixelFormat) -> tuple[int, npt.NDArray[np.float32]] | None:
    try:
        descriptor = dataset.RedPaletteColorLookupTableDescriptor
        entries, first = int(descriptor[0]) or 65536, int(descriptor[1])
        indices = (first + np.arange(entries)).astype(np.uint32)
        colours = apply_color_lut(indices.reshape(1, -1), dataset)[0]
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return None
    return first, (colours @ np.array(LUMINANCE)).astype(np.float32)


def _plane(dataset: Dataset, index: int, frame: Frame, form: PixelFormat, values: _Values) -> Plane:
    look = FrameValues(dataset, index)
    content, timing = "FrameContentSequence", "CardiacSynchronizationSequence"
    measures, transform = "PixelMeasuresSequence", "PixelValueTransformationSequence"
    slope = look.number("RescaleSlope", transform)
    intercept = look.number("RescaleIntercept", transform)
    dimensions = look.value("DimensionIndexValues", content)
    stored = frame.stored
    return Plane(
        SOPInstanceUID=str(value_of(dataset, "SOPInstanceUID") or ""),
        frame_number=index + 1,
        rows=form.rows,
        columns=form.columns,
        samples=form.samples,
        photometric=frame.photometric,
        bits_stored=form.bits_stored,
        signed=form.signed,
        digest=b"",
        constant=False,
        bitstream=frame.bitstream,
        stored=stored,
        ImagePositionPatient=look.position(),
        ImageOrientationPatient=look.orientation(),
        PixelSpacing=look.pixel_spacing(),
        SliceThickness=look.number("SliceThickness", measures),
        SpacingBetweenSlices=look.number("SpacingBetweenSlices", measures),
        SliceLocation=look.number("SliceLocation"),
        InstanceNumber=look.integer("InstanceNumber"),
        AcquisitionNumber=_first(
            look.integer("FrameAcquisitionNumber", content), look.integer("AcquisitionNumber")
        ),
        ImageType=look.image_type(),
        StackID=look.text("StackID", content),
        EchoTime=_first(
            look.number("EffectiveEchoTime", "MREchoSequence"), look.number("EchoTime")
        ),
        EchoNumbers=look.integer("EchoNumbers"),
        TemporalPosition=_first(
            look.integer("TemporalPositionIndex", content),
            look.integer("TemporalPositionIdentifier"),
        ),
        TriggerTime=_first(
            look.number("NominalCardiacTriggerDelayTime", timing), look.number("TriggerTime")
        ),
        AcquisitionTime=str(look.value("FrameAcquisitionDateTime", content) or "")
        or str(look.value("AcquisitionTime") or ""),
        ContentTime=str(look.value("ContentTime") or ""),
        DiffusionBValue=look.b_value(),
        DiffusionGradientOrientation=look.gradient(),
        DimensionIndexValues=_indices(dimensions),
        RescaleSlope=slope if slope else 1.0,
        RescaleIntercept=intercept or 0.0,
        padding=values.padding,
        palette=values.palette,
    )


def _first(*found: T | None) -> T | None:
    return next((value for value in found if value is not None), None)


def _indices(value: object) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,)
    try:
        return tuple(int(part) for part in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return ()


def _untile(plane: Plane, mosaic: Mosaic) -> list[Plane]:
    assert plane.stored is not None
    known = plane.ImagePositionPatient and plane.ImageOrientationPatient and plane.PixelSpacing
    step = plane.SpacingBetweenSlices or plane.SliceThickness
    tiles = []
    for number, stored in enumerate(mosaic.tiles(plane.stored)):
        position = None
        if known and step:
            assert plane.ImagePositionPatient is not None
            assert plane.ImageOrientationPatient is not None
            assert plane.PixelSpacing is not None
            position = mosaic.position(
                number,
                (plane.rows, plane.columns),
                plane.ImagePositionPatient,
                plane.ImageOrientationPatient,
                plane.PixelSpacing,
                step,
            )
        tiles.append(
            replace(
                plane,
                frame_number=number + 1,
                rows=stored.shape[0],
                columns=stored.shape[1],
                stored=stored,
                SliceLocation=None,
                ImagePositionPatient=position,
            )
        )
    return tiles


def _sealed(plane: Plane, pixels: bool) -> Plane:
    stored: Array | None = plane.stored
    assert stored is not None
    return replace(
        plane,
        digest=plane_digest(stored, plane.rows, plane.columns, plane.samples),
        constant=bool(stored.min() == stored.max()),
        stored=stored if pixels else None,
    )
