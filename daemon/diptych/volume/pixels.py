"""Pixel Data → stored values per frame (PS3.3 §C.7.6.3, PS3.5 §8). Runs inside a decoder child."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    RLELossless,
)

from diptych.errors import NotScreenable, Reason

from .bitstream import FrameSize, check_fragments, frame_size, split_frames
from .jpeg12 import RETIRED, decode_jpeg, needs_gdcm
from .limits import Limits
from .plane import Array
from .reading import is_known

LOSSY_TRANSFER_SYNTAXES = frozenset(
    map(str, (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K, *RETIRED))
)
"""Decoders differ in the last bit on these: their frames also get a bitstream hash."""

_VIDEO = "1.2.840.10008.1.2.4.10"  # .100 … .108: MPEG-2, MPEG-4, HEVC (PS3.5 §A.4.5 ff.)
_INTEGER_WIDTHS = (1, 8, 16, 32)
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_FLOAT_KEYWORDS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}
_MESSAGE_LIMIT = 160


class Frame(NamedTuple):
    """Stored values (rows, columns[, 3]), their photometric interpretation, the bitstream hash."""

    stored: Array
    photometric: str
    bitstream: bytes | None


@dataclass(frozen=True)
class PixelFormat:
    """The Image Pixel module (PS3.3 §C.7.6.3), checked."""

    keyword: str
    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str

    @property
    def total_samples(self) -> int:
        return self.rows * self.columns * self.samples * self.frames

    @property
    def native_bytes(self) -> int:
        """Length of native pixel data in bytes, without the trailing pad (PS3.5 §8.1.1)."""
        bits = self.total_samples * self.bits_allocated
        if self.photometric == "YBR_FULL_422":
            bits = bits * 2 // 3
        return (bits + 7) // 8


def pixel_format(dataset: Dataset, limits: Limits) -> PixelFormat:
    """Read and check the Image Pixel module before anything is allocated.

    Raises ``NotScreenable``: NO_PIXEL_DATA, TOO_LARGE, UNSUPPORTED_PIXEL_FORMAT.
    """
    found = [k for k in ("PixelData", *_FLOAT_KEYWORDS) if k in dataset]
    if not found:
        raise NotScreenable(Reason.NO_PIXEL_DATA, "(7FE0,0010) is missing")
    keyword = found[0]
    rows, columns = _count(dataset, "Rows"), _count(dataset, "Columns")
    samples = _count(dataset, "SamplesPerPixel", 1)
    frames = _count(dataset, "NumberOfFrames", 1)
    allocated = _FLOAT_KEYWORDS.get(keyword) or _count(dataset, "BitsAllocated")
    stored = _count(dataset, "BitsStored", allocated)
    high = _count(dataset, "HighBit", stored - 1, at_least=0)
    if stored > allocated:
        stored, high = allocated, allocated - 1
    if not stored - 1 <= high < allocated:
        high = stored - 1
    signed = _count(dataset, "PixelRepresentation", 0, at_least=0) == 1
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip().upper()
    photometric = photometric or ("MONOCHROME2" if samples == 1 else "RGB")
    if max(rows, columns) > limits.max_side:
        raise NotScreenable(
            Reason.TOO_LARGE, f"(0028,0010) {rows} × (0028,0011) {columns}: > {limits.max_side}"
        )
    if rows * columns * samples * frames > limits.max_samples:
        raise NotScreenable(
            Reason.TOO_LARGE,
            f"{rows}×{columns}×{samples}×{frames} samples, limit {limits.max_samples}",
        )
    if keyword == "PixelData" and allocated not in _INTEGER_WIDTHS:
        raise NotScreenable(Reason.UNSUPPORTED_PIXEL_FORMAT, f"(0028,0100) is {allocated}")
    known = photometric in (_GREY if samples == 1 else _COLOUR)
    if samples not in (1, 3) or not known:
        raise NotScreenable(
            Reason.UNSUPPORTED_PIXEL_FORMAT, f"(0028,0002) {samples} with (0028,0004) not known"
        )
    return PixelFormat(
        keyword, rows, columns, samples, frames, allocated, stored, high, signed, photometric
    )


def _count(dataset: Dataset, keyword: str, default: int | None = None, at_least: int = 1) -> int:
    try:
        value = dataset.get(keyword)
        number = int(value) if value not in (None, "") else None
    except (TypeError, ValueError, OverflowError) as error:
        raise NotScreenable(
            Reason.UNSUPPORTED_PIXEL_FORMAT, f"{keyword} is not one number"
        ) from error
    if number is None or (number < at_least and default is not None and number == 0):
        # NumberOfFrames 0 is common and means 1; Rows 0 has no sensible default.
        number = default
    if number is None or number < at_least:
        raise NotScreenable(Reason.UNSUPPORTED_PIXEL_FORMAT, f"{keyword} is {number}")
    return number


def frames_of(dataset: Dataset, transfer_syntax: str, form: PixelFormat) -> Iterator[Frame]:
    """Yield every frame's stored values: overlay bits cleared, sign-extended from BitsStored.

    Colour stays in the space it was stored in (the frame says which); planar configuration is
    undone. Raises ``NotScreenable``: UNSUPPORTED_TRANSFER_SYNTAX, TRUNCATED_PIXEL_DATA (checked
    by length before decoding), DECODE_FAILED.
    """
    syntax = _decodable(transfer_syntax)
    raw = bytes(dataset[form.keyword].value or b"")
    packed: list[_Packed] = []
    if syntax.is_encapsulated:
        packed = _check_encapsulated(raw, syntax, form)
    else:
        form = _check_native(dataset, raw, form)
    lossy = transfer_syntax in LOSSY_TRANSFER_SYNTAXES
    count = 0
    try:
        for array, photometric in _decode(dataset, raw, syntax, form, packed):
            size = packed[count].size if packed else None
            yield Frame(
                _clean(array, form, _shift(syntax, form), size.precision if size else None, lossy),
                photometric,
                packed[count].bitstream if packed else None,
            )
            count += 1
    except (MemoryError, RecursionError, NotScreenable, GeneratorExit):
        raise
    except BaseException as error:
        # A panic in a decoder written in Rust is a BaseException but no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        message = " ".join(str(error).split())[:_MESSAGE_LIMIT]
        raise NotScreenable(
            Reason.DECODE_FAILED, f"frame {count + 1}: {type(error).__name__}: {message}"
        ) from error
    if count < form.frames:
        raise NotScreenable(
            Reason.TRUNCATED_PIXEL_DATA, f"(0028,0008) says {form.frames} frames, {count} decoded"
        )


class _Packed(NamedTuple):
    frame: bytes
    size: FrameSize | None
    bitstream: bytes | None


def _decode(
    dataset: Dataset, raw: bytes, syntax: UID, form: PixelFormat, packed: list[_Packed]
) -> Iterator[tuple[Array, str]]:
    if packed and needs_gdcm(str(syntax), packed[0].size):
        for part in packed:
            if part.size is None:
                raise ValueError("a frame without a JPEG header")
            yield decode_jpeg(part.frame, str(syntax), part.size), form.photometric
        return
    if _plain(syntax, form):
        width = form.bits_allocated // 8
        shape = (form.frames, form.rows, form.columns)
        values = np.frombuffer(raw, f"<{'i' if form.signed else 'u'}{width}", math.prod(shape))
        for frame in values.reshape(shape):
            yield frame.copy(), form.photometric
        return
    _normalise(dataset, syntax, form)
    decoded = get_decoder(syntax).iter_array(
        dataset,
        raw=True,
        validate=False,
        # Unused bits and signs are settled in _clean, the same way for every encoding.
        correct_unused_bits=False,
        apply_j2k_sign_correction=False,
        apply_jls_sign_correction=False,
        allow_excess_frames=False,
    )
    for array, properties in islice(decoded, form.frames):
        yield array, str(properties.get("photometric_interpretation", form.photometric))


def _plain(syntax: UID, form: PixelFormat) -> bool:
    """Whole little-endian numbers of one sample: nothing to decode, and most of what comes."""
    return (
        not syntax.is_encapsulated
        and syntax.is_little_endian
        and form.keyword == "PixelData"
        and form.samples == 1
        and form.bits_allocated in (8, 16, 32)
    )


def _shift(syntax: UID, form: PixelFormat) -> int:
    """Bits below the stored ones; only encodings that keep the memory layout can have any."""
    keeps_layout = syntax == RLELossless or not syntax.is_encapsulated
    return max(0, form.high_bit + 1 - form.bits_stored) if keeps_layout else 0


def _decodable(transfer_syntax: str) -> UID:
    syntax = UID(transfer_syntax)
    if not transfer_syntax:
        raise NotScreenable(
            Reason.UNSUPPORTED_TRANSFER_SYNTAX, "(0002,0010) is missing and pixels are compressed"
        )
    if not is_known(transfer_syntax):
        raise NotScreenable(Reason.UNSUPPORTED_TRANSFER_SYNTAX, "(0002,0010) is not a standard UID")
    if transfer_syntax.startswith(_VIDEO) and len(transfer_syntax) > len(_VIDEO):
        raise NotScreenable(Reason.UNSUPPORTED_TRANSFER_SYNTAX, f"video: {syntax.name}")
    if transfer_syntax in RETIRED:
        return syntax
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise NotScreenable(Reason.UNSUPPORTED_TRANSFER_SYNTAX, f"no decoder for {syntax.name}")
    return syntax


def _check_encapsulated(raw: bytes, syntax: UID, form: PixelFormat) -> list[_Packed]:
    check_fragments(raw)
    lossy = str(syntax) in LOSSY_TRANSFER_SYNTAXES
    packed = []
    for number, frame in enumerate(split_frames(raw, form.frames), start=1):
        size = frame_size(frame)
        if size and (size.rows, size.columns) != (form.rows, form.columns):
            raise NotScreenable(
                Reason.DECODE_FAILED,
                f"frame {number} is {size.rows}×{size.columns}, "
                f"(0028,0010)×(0028,0011) is {form.rows}×{form.columns}",
            )
        if size and size.components > 4:
            raise NotScreenable(
                Reason.UNSUPPORTED_PIXEL_FORMAT, f"frame {number}: {size.components} components"
            )
        # A pad byte after the end-of-image marker is not part of the bitstream.
        bitstream = hashlib.sha256(frame.rstrip(b"\0")).digest() if lossy else None
        packed.append(_Packed(frame, size, bitstream))
    return packed


def _check_native(dataset: Dataset, raw: bytes, form: PixelFormat) -> PixelFormat:
    if form.photometric == "YBR_FULL_422" and len(raw) >= form.native_bytes * 3 // 2:
        # Common mislabelling: the data are not subsampled.
        form = replace(form, photometric="YBR_FULL")
    if len(raw) < form.native_bytes:
        raise NotScreenable(
            Reason.TRUNCATED_PIXEL_DATA,
            f"(7FE0,0010) has {len(raw)} bytes, {form.native_bytes} expected",
        )
    if form.keyword == "PixelData":
        dataset.PixelData = raw[: form.native_bytes + form.native_bytes % 2]
    return form


def _normalise(dataset: Dataset, syntax: UID, form: PixelFormat) -> None:
    """Write the checked values back, so that the library decodes what was checked."""
    if not isinstance(getattr(dataset, "file_meta", None), FileMetaDataset):
        dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.Rows, dataset.Columns = form.rows, form.columns
    dataset.SamplesPerPixel, dataset.NumberOfFrames = form.samples, form.frames
    dataset.PhotometricInterpretation = form.photometric
    if form.keyword != "PixelData":
        return
    dataset.BitsAllocated, dataset.BitsStored = form.bits_allocated, form.bits_stored
    dataset.HighBit, dataset.PixelRepresentation = form.high_bit, int(form.signed)
    if form.samples > 1:
        dataset.PlanarConfiguration = _count(dataset, "PlanarConfiguration", 0, at_least=0)


def _clean(
    array: Array, form: PixelFormat, shift: int, precision: int | None, lossy: bool
) -> Array:
    """Keep BitsStored bits ending at HighBit, sign-extended: whatever else was there is overlay.

    ``precision`` is what the codestream declares: its top bit is the sign where JPEG-LS and
    JPEG 2000 lost it. A lossy value may overshoot BitsStored: it is clipped, not wrapped.
    """
    width = 8 * array.dtype.itemsize
    if array.dtype.kind == "f" or form.bits_allocated == 1:
        return np.ascontiguousarray(array)
    if form.signed and array.dtype.kind == "u":
        array = array.view(f"i{array.dtype.itemsize}")
    bits = min(form.bits_stored, width)
    if lossy:
        low, high = _range(form.bits_stored, form.signed)
        if form.signed and precision and precision < width:
            array = (array << (width - precision)) >> (width - precision)
        info = np.iinfo(array.dtype)
        return np.ascontiguousarray(np.clip(array, max(low, info.min), min(high, info.max)))
    bits = min(bits, precision) if precision else bits
    if bits < width or shift:
        if form.signed:
            array = (array << (width - bits - shift)) >> (width - bits)
        else:
            array = (array >> shift) & array.dtype.type((1 << bits) - 1)
    return np.ascontiguousarray(array)


def _range(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
