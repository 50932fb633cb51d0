"""What a file is, by its first bytes: names are not asked, and nothing large is read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal, cast

ArrayFormat = Literal["nifti", "nrrd", "metaimage"]

HEAD = 1024
"""Bytes that tell; a MetaImage whose text is longer says so in its first line."""

_PACKERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)
_META_IMAGE = re.compile(rb"\s*ObjectType\s*=\s*Image\s")


def array_format(path: Path) -> ArrayFormat | None:
    """None for DICOM, for all else, and where nothing can be read: who reads it all, says why.

    Only NIfTI may be packed (gzip, bzip2, xz).
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
        # PS3.10 §7.1: a preamble may be another format's beginning; the prefix after it decides.
        if head[128:132] == b"DICM":
            return None
        if is_nrrd(head):
            return "nrrd"
        if is_metaimage(head):
            return "metaimage"
        with unpacked(path) as stream:
            return "nifti" if is_nifti(stream.read(HEAD)) else None
    except _DAMAGE:
        return None


def unpacked(path: Path) -> IO[bytes]:
    """The file, or what gzip, bzip2 or xz made it of."""
    with path.open("rb") as file:
        head = file.read(8)
    opener = next((opener for magic, opener in _PACKERS.items() if head.startswith(magic)), None)
    return cast(IO[bytes], opener(path, "rb")) if opener else path.open("rb")


def stem_of(path: Path) -> str:
    """The name without its suffix, and without that of a packer."""
    name = path.name
    for suffix in (".gz", ".bz2", ".xz"):
        name = name.removesuffix(suffix)
    return Path(name).stem


def is_nifti(head: bytes) -> bool:
    """By the magic at 344 (NIfTI-1) or 4 (NIfTI-2)."""
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def is_nrrd(head: bytes) -> bool:
    return head[:7] == b"NRRD000"


def is_metaimage(head: bytes) -> bool:
    """It has no magic: a text of ``Key = value`` lines, ObjectType first or these among them."""
    return _META_IMAGE.match(head) is not None or (
        b"ElementType" in head and b"NDims" in head and b"DimSize" in head
    )
