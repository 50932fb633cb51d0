"""The beginning of a NIfTI, NRRD or MetaImage file → what it is. Values are never read.

NIfTI-1/2: nifti1.h, nifti2.h; NRRD: teem.sourceforge.net/nrrd/format.html; MetaImage: ITK's
MetaIO documentation.
"""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath

import nibabel
import numpy as np

from .entry import Entry, Name, Status
from .streams import Forward

_HEAD = 1 << 16
"""Bytes of a text header; real ones have one or two thousand."""

_MOST_NAMES = 100_000
_NIFTI = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
_PATTERN = re.compile(r"(\S*%0?\d*d\S*)\s+(-?\d+)\s+(-?\d+)\s+(-?\d+)")


def describe_nifti(entry: Entry, head: bytes, plain_size: int | None) -> list[Name]:
    """``plain_size``: bytes of the uncompressed file, None when compressed."""
    entry.kind = "nifti"
    little, big = (int.from_bytes(head[:4], order) for order in ("little", "big"))
    size = little if little in _NIFTI else big
    try:
        header = _NIFTI[size](head[:size], check=False)
        shape = tuple(int(n) for n in header.get_data_shape())
        bits, offset = int(header["bitpix"]), float(header["vox_offset"])
    except Exception as error:
        entry.becomes(Status.UNREADABLE, "damaged", f"header: {type(error).__name__}")
        return []
    pair = head[344:347] == b"ni1" or head[4:7] == b"ni2"
    _shape(entry, shape)
    needed = math.prod(shape) * bits // 8 + (offset if np.isfinite(offset) else 0)
    if not pair and plain_size is not None and plain_size < needed:
        entry.becomes(Status.UNREADABLE, "truncated", f"{plain_size} bytes of {needed:.0f}")
    if not pair:
        return []
    name = entry.whole.rpartition("/")[2]
    packed = ".gz" if name.lower().endswith(".gz") else ""
    stem = PurePosixPath(name.removesuffix(packed)).stem
    return [Name(entry.at, 0, "data", f"{stem}.img{packed}")]


def describe_nrrd(entry: Entry, stream: Forward) -> list[Name]:
    """Names the files that hold the values, where they are not in this one."""
    entry.kind = "nrrd"
    text, ended, _ = stream.peek(_HEAD).replace(b"\r\n", b"\n").partition(b"\n\n")
    fields: dict[str, str] = {}
    lines = text.decode("latin-1").splitlines()
    names: list[str] = []
    for number, line in enumerate(lines[1:], 1):
        key, colon, value = line.partition(":")
        if not colon or line.startswith("#") or value.startswith("="):
            continue
        fields[key.strip().lower().replace(" ", "")] = value.strip()
        if key.strip().lower().replace(" ", "") == "datafile" and value.strip().startswith("LIST"):
            names = [name.strip() for name in lines[number + 1 :] if name.strip()]
            break
    try:
        sizes = [int(n) for n in fields["sizes"].split()]
    except (KeyError, ValueError):
        entry.becomes(Status.UNREADABLE, "damaged", "no sizes in the header")
        return []
    kinds = fields.get("kinds", "").lower().split()
    if len(kinds) == len(sizes):
        in_voxel = ("list", "vector", "color", "matrix", "point", "normal", "quaternion", "complex")
        spatial = [n for n, kind in zip(sizes, kinds, strict=True) if not _any(kind, in_voxel)]
        sizes = spatial or sizes
    _shape(entry, tuple(sizes))
    data = fields.get("datafile", "")
    if not data:
        if not ended and len(text) < _HEAD:
            entry.becomes(Status.UNREADABLE, "truncated", "the header does not end")
        return []
    return _names(entry, names or _expand(data))


def describe_metaimage(entry: Entry, stream: Forward) -> list[Name]:
    """As for NRRD."""
    entry.kind = "metaimage"
    fields: dict[str, str] = {}
    lines = stream.peek(_HEAD).decode("latin-1").splitlines()
    names: list[str] = []
    for number, line in enumerate(lines):
        key, _, value = line.partition("=")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":  # by definition the last
            if value.strip().startswith("LIST"):
                names = [name.strip() for name in lines[number + 1 :] if name.strip()]
            break
    try:
        _shape(entry, tuple(int(n) for n in fields["DimSize"].split()))
    except (KeyError, ValueError):
        entry.becomes(Status.UNREADABLE, "damaged", "no DimSize in the header")
        return []
    data = fields.get("ElementDataFile", "")
    if not data:
        entry.becomes(Status.UNREADABLE, "damaged", "no ElementDataFile in the header")
        return []
    return [] if data.upper() == "LOCAL" else _names(entry, names or _expand(data))


def _shape(entry: Entry, shape: tuple[int, ...]) -> None:
    """(i, j, k, …) → columns, rows, planes, and whether that is a volume."""
    words = " × ".join(map(str, shape))
    if not shape or min(shape) < 1 or max(shape) >= 2**31:
        entry.becomes(Status.NOT_SCREENABLE, "empty", f"array of {words or 'nothing'}")
        return
    entry.columns, entry.rows = shape[0], shape[1] if len(shape) > 1 else 1
    entry.planes = min(math.prod(shape[2:]), 2**31)
    if len(shape) < 3 or shape[2] == 1:
        entry.becomes(Status.NOT_SCREENABLE, "not-3d", f"array of {words}")
    else:
        entry.becomes(Status.READABLE)


def _expand(data: str) -> list[str]:
    """``slice%03d.raw 1 40 1`` is forty names."""
    found = _PATTERN.match(data)
    if not found:
        return [data]
    pattern, first, last, step = found[1], int(found[2]), int(found[3]), int(found[4]) or 1
    numbers = range(first, last + (1 if step > 0 else -1), step)[:_MOST_NAMES]
    try:
        return [pattern % number for number in numbers]
    except (ValueError, TypeError, MemoryError):
        return [data]


def _names(entry: Entry, names: list[str]) -> list[Name]:
    return [Name(entry.at, n, "data", name) for n, name in enumerate(names[:_MOST_NAMES])]


def _any(kind: str, words: tuple[str, ...]) -> bool:
    return any(word in kind for word in words)
