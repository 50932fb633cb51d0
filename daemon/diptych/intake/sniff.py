"""What a stream is, by its first bytes. Nothing is consumed, and names are not asked."""

from __future__ import annotations

import tarfile

from diptych.volume.formats import is_metaimage, is_nifti, is_nrrd
from diptych.volume.reading import looks_like_dicom

from . import dicom
from .limits import Budget, Limits, Refused
from .streams import DAMAGE, Forward, expanded

HEAD = 1024
_PACKED_HEAD = 1 << 20
"""A block of bzip2 is up to 900 kB and expands only as a whole."""

_DIRECTORY = dicom.MEDIA_DIRECTORY.encode()
_MAGICS = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "rar", b"\x28\xb5\x2f\xfd": "zstd", b"MSCF": "cab",
    b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"II*\0": "tiff", b"MM\0*": "tiff",
    b"GIF8": "gif", b"\0\0\0\x0cjP": "jpeg-2000",
    b"%PDF": "pdf", b"\0\x05\x16\x07": "apple-double", b"SQLite format": "database",
}  # fmt: skip
PACKED = ("gzip", "bzip2", "xz")
ARCHIVES = frozenset(("zip", "tar", *PACKED, *(f"tar.{kind}" for kind in PACKED)))
FOREIGN_ARCHIVES = ("7z", "rar", "zstd", "cab")
PICTURES = ("png", "jpeg", "tiff", "gif", "jpeg-2000")


def sniff(stream: Forward) -> str:
    """One of ARCHIVES, FOREIGN_ARCHIVES, PICTURES; dicom, dicomdir, maybe-dicom, nifti,
    nifti.gzip (…), nrrd, metaimage, pdf, …; "empty", or "other"."""
    head = stream.peek(HEAD)
    if head[128:132] == b"DICM":
        return "dicomdir" if _DIRECTORY in head else "dicom"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    kind = next((kind for magic, kind in _MAGICS.items() if head.startswith(magic)), "")
    if kind in PACKED:
        inner = _plain(beginning(stream, kind))
        return f"{inner}.{kind}" if inner in ("tar", "nifti") else kind
    return kind or _plain(head) or ("maybe-dicom" if looks_like_dicom(head) else _nothing(head))


def _plain(head: bytes) -> str:
    if _is_tar(head):
        return "tar"
    if is_nifti(head):
        return "nifti"
    if is_nrrd(head):
        return "nrrd"
    return "metaimage" if is_metaimage(head) else ""


def _nothing(head: bytes) -> str:
    return "other" if head else "empty"


def beginning(stream: Forward, kind: str) -> bytes:
    """The first bytes that a packed stream expands to; none when it is damaged."""
    packed = stream.peek(_PACKED_HEAD if kind == "bzip2" else 1 << 15)
    once = [packed]
    part = Forward(lambda _count: once.pop() if once else b"")
    try:
        return expanded(part, kind, Budget(Limits(), None)).peek(HEAD)
    except (*DAMAGE, Refused):
        return b""


def _is_tar(head: bytes) -> bool:
    """By its checksum: the oldest format has no magic."""
    if len(head) < tarfile.BLOCKSIZE or not head[0]:
        return False
    try:
        said = int(head[148:156].strip(b" \0"), 8)
    except ValueError:
        return False
    return said == 8 * ord(" ") + sum(head[:148]) + sum(head[156 : tarfile.BLOCKSIZE])
