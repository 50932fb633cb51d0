"""Streams that are read once, front to back, without believing what they say about themselves."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from typing import IO

from .limits import Budget, Refused

PIECE = 1 << 18
_MOST_AT_ONCE = 32 << 20
"""Nobody here asks for more in one call, but a hostile header might make a library do so."""

DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What the decompressors raise for bytes that are not what they should be."""


class Forward:
    """Bytes from ``read`` (up to n at a time, b"" at the end), with a look ahead.

    skip: moves on by up to n bytes without reading, where that is cheaper.
    """

    def __init__(
        self, read: Callable[[int], bytes], skip: Callable[[int], object] | None = None
    ) -> None:
        self._read, self._skip = read, skip
        self._ahead = bytearray()
        self._at = 0
        self.last = b""
        """What ``read`` gave last."""

    def peek(self, count: int) -> bytes:
        """The next ``count`` bytes, fewer at the end; they are read again afterwards."""
        while len(self._ahead) < count:
            piece = self._read(min(count - len(self._ahead), PIECE))
            if not piece:
                break
            self._ahead += piece
        return bytes(self._ahead[:count])

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _MOST_AT_ONCE:
            raise Refused("header-too-long", f"{count} bytes at once")
        data = self.peek(count)
        del self._ahead[:count]
        self._at += len(data)
        self.last = data
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Forward only; past the end is allowed and found by the next read."""
        if whence or offset < self._at:
            raise OSError("this stream goes forward only")
        rest = offset - self._at
        known = min(rest, len(self._ahead))
        del self._ahead[:known]
        rest -= known
        if rest and self._skip is not None:
            self._skip(rest)
        else:
            while rest:
                piece = self._read(min(rest, PIECE))
                if not piece:
                    break
                rest -= len(piece)
        self._at = offset
        return offset

    def drain(self) -> int:
        """Read to the end; the number of bytes of it all."""
        while self.read(PIECE):
            pass
        return self._at

    def part(self, size: int) -> Forward:
        """The next ``size`` bytes as a stream of their own; this one moves on with it."""
        left = size

        def read(count: int) -> bytes:
            nonlocal left
            data = self.read(min(count, left, PIECE))
            left -= len(data)
            return data

        return Forward(read)


def of_file(file: IO[bytes]) -> Forward:
    """A seekable file from where it stands."""
    return Forward(file.read, lambda count: file.seek(count, 1))


def expanded(packed: Forward, kind: str, budget: Budget) -> Forward:
    """What ``packed`` ("gzip", "bzip2" or "xz") expands to.

    Reading raises Refused (a bomb), or one of DAMAGE.
    """
    source: IO[bytes] | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile
    if kind == "gzip":
        source = gzip.GzipFile(fileobj=packed)
    elif kind == "bzip2":
        source = bz2.BZ2File(packed)  # type: ignore[call-overload]
    else:
        source = lzma.LZMAFile(packed)  # type: ignore[arg-type]  # noqa: SIM115
    produced = 0

    def read(count: int) -> bytes:
        nonlocal produced
        data: bytes = source.read(count)
        produced += len(data)
        budget.expand(len(data))
        if budget.too_dense(produced, packed.tell()):
            raise Refused("expands-too-much", f"{packed.tell()} bytes become more than {produced}")
        return data

    return Forward(read)
