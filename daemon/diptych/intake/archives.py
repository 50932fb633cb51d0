"""Zip and tar → their members in order, each as a stream or as refused; nothing is unpacked.

A member is refused that is encrypted, a link or a device, whose name leads elsewhere or came
before, or that expands like a bomb. Folders are no members.
"""

from __future__ import annotations

import re
import stat
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from .limits import Budget, Limits, Refused
from .streams import PIECE, Forward, expanded

_DRIVE = re.compile(r"[A-Za-z]:")
_END = b"PK\x05\x06"  # APPNOTE.TXT 4.3.16
_END_64 = b"PK\x06\x06"  # 4.3.14
_END_BYTES = 22 + 65535
_IN_MEMORY = 8 << 20
_ENCRYPTED = 0x1 | 0x40  # 4.4.4


@dataclass(frozen=True)
class Member:
    """``number``: its place among the archive's entries. ``size``: bytes, None when unknown.

    open: its bytes; called at most once, before the next member is asked for. finish: to be called
    when enough was read; raises when the rest is not there, returns the size.
    """

    number: int
    name: str
    size: int | None
    open: Callable[[], Forward]
    finish: Callable[[], int | None]


def members_of(
    kind: str,
    stream: Forward,
    name: str,
    budget: Budget,
    scratch: Path,
    file: IO[bytes] | None = None,
) -> Iterator[Member]:
    """The members of an archive of that kind. ``file``: the same as ``stream``, when it can be
    sought in; a zip that cannot is laid down in ``scratch``.

    Raises Refused for the whole, and what the libraries raise for a damaged one.
    """
    if kind == "zip" and file is not None:
        yield from zip_members(file, budget)
    elif kind == "zip":
        with laid_down(stream, scratch) as seekable:
            yield from zip_members(seekable, budget)
    elif kind == "tar":
        yield from tar_members(stream, budget.limits)
    elif kind.startswith("tar."):
        packing = kind.removeprefix("tar.")
        yield from tar_members(expanded(stream, packing, budget), budget.limits)
    else:
        inner = expanded(stream, kind, budget)
        yield Member(0, name.rpartition(".")[0] or name, None, lambda: inner, inner.drain)


def laid_down(stream: Forward, scratch: Path, most: int | None = None) -> IO[bytes]:
    """The rest of ``stream`` as a file that can be sought in: in memory, or in ``scratch`` when
    large. Raises Refused when it has more than ``most`` bytes."""
    spooled = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(scratch))  # noqa: SIM115 - returned
    file = cast(IO[bytes], spooled)
    while piece := stream.read(PIECE):
        file.write(piece)
        if most is not None and file.tell() > most:
            file.close()
            raise Refused("too-large", f"more than {most} bytes")
    file.seek(0)
    return file


def zip_members(file: IO[bytes], budget: Budget) -> Iterator[Member]:
    """Raises Refused for the whole, and what zipfile raises for a damaged one."""
    whole = _check_directory(file, budget.limits)
    seen: set[int] = set()
    with zipfile.ZipFile(file) as archive:
        for number, info in enumerate(archive.infolist()):
            if info.is_dir():
                continue
            refused = _refused_name(info.filename, seen, budget.limits) or _refused_info(
                info, whole, budget
            )
            if refused is not None:
                yield _no(number, info.filename, info.file_size, refused)
                continue
            # What is declared; zipfile delivers no more.
            budget.expand(info.file_size)
            yield from _zip_member(archive, number, info)


def tar_members(stream: Forward, limits: Limits) -> Iterator[Member]:
    """From a stream that goes forward only. Raises as above."""
    seen: set[int] = set()
    with tarfile.TarFile(fileobj=stream, errorlevel=2) as archive:  # type: ignore[arg-type]
        number = -1
        while (info := archive.next()) is not None:
            number += 1
            archive.members.clear()  # type: ignore[attr-defined]
            if info.isdir():
                continue
            refused = _refused_name(info.name, seen, limits) or _refused_tar(info)
            if refused is not None:
                yield _no(number, info.name, info.size, refused)
                continue
            yield _tar_member(stream, number, info)
    if stream.last.strip(b"\0"):
        # tarfile takes a header that is none for the end.
        raise tarfile.ReadError("no header where one must be")


def _zip_member(archive: zipfile.ZipFile, number: int, info: zipfile.ZipInfo) -> Iterator[Member]:
    opened: list[IO[bytes]] = []

    def start() -> Forward:
        opened.append(archive.open(info))
        return Forward(opened[0].read)

    yield Member(number, info.filename, info.file_size, start, lambda: info.file_size)
    for each in opened:
        each.close()


def _tar_member(stream: Forward, number: int, info: tarfile.TarInfo) -> Member:
    start, end = info.offset_data, info.offset_data + info.size

    def begin() -> Forward:
        stream.seek(start)
        return stream.part(info.size)

    def finish() -> int:
        if stream.tell() < end:
            stream.seek(end - 1)
            if not stream.read(1):
                raise EOFError("the archive ends in this member")
        return info.size

    return Member(number, info.name, info.size, begin, finish)


def _no(number: int, name: str, size: int, refused: Refused) -> Member:
    def refuse() -> Forward:
        raise refused

    return Member(number, name, size, refuse, lambda: None)


def _refused_name(name: str, seen: set[int], limits: Limits) -> Refused | None:
    parts = name.replace("\\", "/").split("/")
    if len(name) > limits.name_bytes:
        return Refused("name-too-long", f"{len(name)} characters")
    if ".." in parts:
        return Refused("path-traversal", "its name leads out of the archive")
    if not parts[0] or _DRIVE.match(name):
        return Refused("absolute-name", "its name begins at a root")
    if "\0" in name:
        return Refused("name-with-nul")
    # A hash of eight bytes is enough, and a million names would not be.
    key = hash(name)
    if key in seen:
        return Refused("duplicate-name", "an earlier member has this name")
    seen.add(key)
    return None


def _refused_info(info: zipfile.ZipInfo, whole: int, budget: Budget) -> Refused | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return Refused("link")
    if kind and kind != stat.S_IFREG:
        return Refused("device")
    if info.flag_bits & _ENCRYPTED:
        return Refused("encrypted")
    if info.compress_type not in _METHODS:
        return Refused("unsupported-compression", f"method {info.compress_type}")
    if budget.too_dense(info.file_size, min(info.compress_size, whole)):
        return Refused("expands-too-much", f"{info.compress_size} bytes become {info.file_size}")
    return None


_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def _refused_tar(info: tarfile.TarInfo) -> Refused | None:
    if info.issym() or info.islnk():
        return Refused("link")
    if info.issparse():
        return Refused("sparse", "its size is made of holes")
    if not info.isreg():
        return Refused("device")
    if info.size < 0:
        return Refused("negative-size")
    return None


def _check_directory(file: IO[bytes], limits: Limits) -> int:
    """Before zipfile holds all of the central directory in memory; the bytes of the archive."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_BYTES))
    tail = file.read(_END_BYTES)
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        raise zipfile.BadZipFile("no end of central directory")
    count, directory = struct.unpack_from("<HI", tail, at + 10)
    at = tail.rfind(_END_64)
    if at >= 0 and len(tail) >= at + 48:
        count, directory = struct.unpack_from("<QQ", tail, at + 32)
    if count > limits.members:
        raise Refused("too-many-members", f"{count}, at most {limits.members}")
    if directory > limits.directory_bytes:
        raise Refused("directory-too-long", f"{directory} bytes, at most {limits.directory_bytes}")
    return size
