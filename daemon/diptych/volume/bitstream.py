"""What compressed frames declare about themselves, read before any decoder sees them.

A decoder allocates what the codestream declares, not what (0028,0010) and (0028,0011) say: the two
must agree first, or a few bytes can ask for gigabytes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pydicom.encaps import generate_frames

from diptych.errors import NotScreenable, Reason

_ITEM = b"\xfe\xff\x00\xe0"
_DELIMITER = b"\xfe\xff\xdd\xe0"
_J2K_MAGIC = b"\xff\x4f\xff\x51"
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_START_OF_FRAME = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_SEARCH_BYTES = 4096
"""A JP2 wrapper around a codestream is a few hundred bytes."""


class FrameSize(NamedTuple):
    """Rows, columns, components and bits per sample that one compressed frame declares."""

    rows: int
    columns: int
    components: int
    precision: int


def check_fragments(value: bytes) -> None:
    """Walk the items of encapsulated Pixel Data (PS3.5 §A.4) to its end.

    Raises ``NotScreenable(TRUNCATED_PIXEL_DATA)`` when an item runs past the end, and
    ``DECODE_FAILED`` when something that is not an item stands where one must.
    """
    offset, items = 0, 0
    while offset + 8 <= len(value):
        tag, length = value[offset : offset + 4], struct.unpack_from("<I", value, offset + 4)[0]
        if tag == _DELIMITER:
            break
        if tag != _ITEM:
            raise NotScreenable(Reason.DECODE_FAILED, f"(7FE0,0010) holds no item at byte {offset}")
        offset += 8 + length
        items += 1
        if offset > len(value):
            raise NotScreenable(
                Reason.TRUNCATED_PIXEL_DATA,
                f"(7FE0,0010): item {items} ends at byte {offset}, the value at {len(value)}",
            )
    if items < 2:
        raise NotScreenable(Reason.TRUNCATED_PIXEL_DATA, "(7FE0,0010) holds no fragment")


def split_frames(value: bytes, frames: int) -> list[bytes]:
    """The compressed bytes of each frame; exactly ``frames`` of them, or ``NotScreenable``."""
    found: list[bytes] = []
    try:
        for frame in generate_frames(value, number_of_frames=frames):
            found.append(bytes(frame))
            if len(found) == frames:
                break
    except (ValueError, EOFError, struct.error) as error:
        raise NotScreenable(
            Reason.DECODE_FAILED, "fragments of (7FE0,0010) cannot be told apart"
        ) from error
    if len(found) < frames:
        raise NotScreenable(
            Reason.TRUNCATED_PIXEL_DATA,
            f"(0028,0008) says {frames} frames, (7FE0,0010) holds {len(found)}",
        )
    return found


def frame_size(frame: bytes) -> FrameSize | None:
    """What a JPEG, JPEG-LS, JPEG 2000 or HTJ2K codestream declares; None for anything else."""
    start = frame.find(_J2K_MAGIC, 0, _SEARCH_BYTES)
    if start >= 0 and len(frame) >= start + 43:
        # SIZ, ISO/IEC 15444-1 §A.5.1: length, capability, X, Y, X offset, Y offset, tiles, count
        x, y, x_offset, y_offset = struct.unpack_from(">4I", frame, start + 8)
        components, depth = struct.unpack_from(">HB", frame, start + 40)
        return FrameSize(y - y_offset, x - x_offset, components, (depth & 0x7F) + 1)
    return _jpeg_size(frame) if frame[:2] == b"\xff\xd8" else None


def _jpeg_size(frame: bytes) -> FrameSize | None:
    offset = 2
    while offset + 4 <= len(frame) and frame[offset] == 0xFF:
        marker = frame[offset + 1]
        if marker == 0xFF or marker in _STANDALONE:
            offset += 1 if marker == 0xFF else 2
            continue
        if marker in _START_OF_FRAME and offset + 10 <= len(frame):
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, offset + 4)
            return FrameSize(rows, columns, components, precision)
        offset += 2 + struct.unpack_from(">H", frame, offset + 2)[0]
    return None
