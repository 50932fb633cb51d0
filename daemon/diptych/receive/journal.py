"""The bytes of small instances, on disk after one write over blocks that a file has already.

A new file costs the file system two or three commits of its own (its data, its size, its name), and
one is 4 ms on many a disk; writing over what was allocated before costs none. So an instance's
bytes go here, synced together with those of everybody who waits, and its file is written aside
without a sync and put in its place afterwards. Files are synced in the background before their
place here is used again; after a power cut ``recover`` writes anew what they have lost.

    segment:  record, record, … of one generation, then what is left of older ones
    record:   a block of 4096 bytes (generation, number, locator, lengths, hashes), then the Part 10
              file, padded to whole blocks: a torn write cannot reach the record before it

An acceptor has two segments: one is written, the other's files are synced. They take turns every
few seconds, and what lies behind the records of the last turn is overwritten with zeros; when
nothing comes for a while, all is. So pixels do not stay here after they are forgotten.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from diptych import faults
from diptych.audit import blobs
from diptych.audit.store import Store
from diptych.errors import StoreError
from diptych.log import get_logger
from diptych.receive.spool import Spool, sync_folder

log = get_logger(__name__)

SEGMENT_BYTES = 32 << 20
_GROW_BYTES = 4 << 20
_BLOCK = 4096
# Magic, generation, number in it, offset of the data set, bytes of the file, SHA-256 of the data
# set, bytes of the locator; then the locator, then the CRC of all that and of the file meta.
_HEAD = struct.Struct(">4s16sIIQ32sH")
_CRC = struct.Struct(">I")
_MAGIC = b"DPJ1"
_IDLE_SECONDS = 2.0
# Files are synced this long after they were written at the latest, however little comes.
_SYNC_SECONDS = 2.0
_LOOK_SECONDS = 0.5
_RETRY_SECONDS = 1.0
# Senders wait so long for a segment whose files are still being synced, then hear 0xA700.
_WAIT_SECONDS = 10.0
# The file system puts syncs that come together into one commit.
_SYNCS_AT_ONCE = 8


@dataclass(frozen=True)
class Entry:
    """A Part 10 file that will lie at ``locator``; ``sha256``: of what follows ``offset``."""

    locator: str
    offset: int
    sha256: str
    content: bytes


class NoRoom(StoreError):
    """The journal cannot grow: its file system is full. Files can still be kept one by one."""


class Journal:
    """The segments of one acceptor. One thread at a time appends."""

    def __init__(self, spool: Spool, name: str) -> None:
        """Raises OSError. ``name``: none has had it before."""
        self._spool = spool
        self._segments = [_Segment(spool.journal / f"{name}.{n}") for n in range(2)]
        sync_folder(spool.journal)
        self._changed = threading.Condition()
        self._appended_at = self._turned_at = time.monotonic()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def append(self, entries: Sequence[tuple[Entry, Path]]) -> None:
        """Bring entries to the disk, all of them, and put their files (``Spool.write_aside``) in
        place. Raises NoRoom, StoreError or OSError: then none may be answered with success."""
        with self._changed:
            if self._stopped:  # the descriptors may be other files' by now
                raise StoreError("journal: closed")
            self._appended_at = time.monotonic()
            segment = self._with_room(sum(_padded(entry) for entry, _ in entries))
            try:
                for entry, _ in entries:
                    faults.point("journal.append")
                    segment.append(entry)
                faults.point("journal.sync")
                os.fdatasync(segment.descriptor)
            except OSError as error:
                # What a failed sync left on disk is not known, and the next one would not say.
                segment.spoilt = True
                raise StoreError(f"journal: {error.strerror}") from error
            faults.point("journal.after-sync")
            # Before a turn can come between: it would find no files to sync.
            for entry, aside in entries:
                self._spool.place(aside, entry.locator)

    def close(self) -> None:
        """Sync every file and leave empty segments."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()
        for segment in self._segments:
            segment.close()
            if not segment.dirty:
                segment.path.unlink(missing_ok=True)

    def _with_room(self, size: int) -> _Segment:
        current = self._segments[0]
        if current.spoilt or current.tail + size > SEGMENT_BYTES:
            self._turn()
            current = self._segments[0]
        current.grow_to(current.tail + size)
        return current

    def _turn(self) -> None:
        """Go on with the other segment, once its files are on disk."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while self._segments[1].busy:
            self._changed.notify_all()
            if not self._changed.wait(deadline - time.monotonic()):
                raise StoreError("journal: full, its files cannot be synced")
        self._segments[0].busy = True
        self._segments.reverse()
        self._segments[0].begin()
        self._turned_at = time.monotonic()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopped or self._segments[1].busy, timeout=_LOOK_SECONDS
                )
                now = time.monotonic()
                idle = self._stopped or now - self._appended_at > _IDLE_SECONDS
                if not self._segments[1].busy:
                    old = self._segments[0].entries and now - self._turned_at > _SYNC_SECONDS
                    if old or (idle and any(segment.dirty for segment in self._segments)):
                        self._turn()
                    elif self._stopped:
                        return
                    else:
                        continue
                segment = self._segments[1]
            try:
                self._finish(segment, 0 if idle or segment.spoilt else segment.tail)
            except Exception as error:  # while this thread lives the segment can become free
                why = getattr(error, "strerror", None) or type(error).__name__
                log.error("journal-not-synced", error=why)
                if self._stopped:  # the next start recovers
                    return
                time.sleep(_RETRY_SECONDS)

    def _finish(self, segment: _Segment, begin: int) -> None:
        """Sync the files of a segment that nobody appends to and scrub it from ``begin``; then its
        place may be used."""
        faults.point("journal.before-files")
        _sync_files(self._spool, segment)
        faults.point("journal.after-files")
        segment.scrub(begin)
        with self._changed:
            segment.entries.clear()
            segment.busy = segment.spoilt = False
            self._changed.notify_all()


def recover(store: Store, spool: Spool, name: str = "*") -> int:
    """Make every file that was acknowledged by way of a journal what it was; returns how many had
    to be written anew. ``name``: of a dead acceptor's journal; without it no acceptor may run.

    A record without a row was never acknowledged (or it is forgotten): it brings no file back, and
    a file that is not whole goes.
    """
    paths = sorted(spool.journal.glob(f"{name}.[01]"))
    count = 0
    for path in paths:
        segment = _Segment(path)
        try:
            found = list(segment.read())
            kept = blobs.kept(store, [entry.locator for entry, _ in found])
            restored = []
            for entry, at in found:
                if not _holds(spool.path(entry.locator), entry.content):
                    if entry.locator in kept:
                        spool.restore(entry.locator, entry.content)
                        restored.append(entry.locator)
                    else:
                        spool.remove(entry.locator)
                segment.entries[entry.locator] = at
            # A worker may have purged, or an operator forgotten, what was kept a moment ago.
            gone = set(restored) - blobs.kept(store, restored)
            for locator in gone:
                spool.remove(locator)
            count += len(restored) - len(gone)
            _sync_files(spool, segment)
            segment.scrub()
        finally:
            segment.close()
        path.unlink()
    if paths:  # a folder restored from a backup has no journal
        sync_folder(spool.journal)
    return count


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:  # it is gone, or the disk cannot read it
        return False


def _sync_files(spool: Spool, segment: _Segment) -> None:
    """Every file and its name to the disk; who is gone meanwhile was purged or known before."""
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
        failed = [
            locator
            for locator, error in zip(
                segment.entries,
                pool.map(lambda locator: _sync_file(spool.path(locator)), segment.entries),
                strict=True,
            )
            if error is not None
        ]
    for locator in failed:
        # The next sync would succeed without the bytes: they are written again, from here.
        entry = segment.at(segment.entries[locator])
        if entry is None:
            raise OSError(errno.EIO, "a file cannot be synced, nor its record be read")
        if spool.path(locator).exists():
            spool.restore(locator, entry.content)
    for folder in {spool.path(locator).parent for locator in segment.entries}:
        sync_folder(folder)


def _sync_file(path: Path) -> OSError | None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    try:
        os.fsync(descriptor)
    except OSError as error:
        return error
    finally:
        os.close(descriptor)
    return None


def _padded(entry: Entry) -> int:
    return _BLOCK + -(-len(entry.content) // _BLOCK) * _BLOCK


class _Segment:
    """``entries``: locators whose files are not synced yet, and where their records begin.
    ``tail``: where the next record goes. ``dirty``: what is not zero ends there. ``busy``: its
    files are to be synced before it is written again. ``spoilt``: a write or a sync failed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = self.dirty = os.fstat(self.descriptor).st_size
        self.entries: dict[str, int] = {}
        self.busy = self.spoilt = False
        self.begin()

    def begin(self) -> None:
        self._generation, self._number, self.tail = uuid.uuid4().bytes, 0, 0

    def grow_to(self, size: int) -> None:
        """Allocate, and write, so that writing there later changes nothing but the bytes."""
        if size <= self._size:
            return
        size = min(-(-size // _GROW_BYTES) * _GROW_BYTES, max(size, SEGMENT_BYTES))
        try:
            os.pwrite(self.descriptor, bytes(size - self._size), self._size)
            os.fsync(self.descriptor)
            if os.fstat(self.descriptor).st_size < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(self.descriptor, self._size)
            raise NoRoom(f"journal: {error.strerror}") from error
        self._size = size

    def append(self, entry: Entry) -> None:
        locator = entry.locator.encode("ascii")
        head = _HEAD.pack(
            _MAGIC,
            self._generation,
            self._number,
            entry.offset,
            len(entry.content),
            bytes.fromhex(entry.sha256),
            len(locator),
        )
        head += locator
        head += _CRC.pack(zlib.crc32(entry.content[: entry.offset], zlib.crc32(head)))
        size = _padded(entry)
        self.dirty = max(self.dirty, self.tail + size)
        end = bytes(size - _BLOCK - len(entry.content))
        at = self.tail
        for part in (head.ljust(_BLOCK, b"\0"), entry.content, end):
            if os.pwrite(self.descriptor, part, at) != len(part):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            at += len(part)
        self.entries[entry.locator] = self.tail
        self.tail += size
        self._number += 1

    def read(self) -> Iterator[tuple[Entry, int]]:
        """The whole records of the last generation begun, and where they begin."""
        at, number, generation = 0, 0, None
        while (head := self._head(at)) and head[1] == number:
            generation = generation or head[0]
            entry = self.at(at)
            if head[0] != generation or entry is None:
                return
            yield entry, at
            at, number = at + _padded(entry), number + 1

    def at(self, at: int) -> Entry | None:
        """The record that begins there, None where there is no whole one."""
        block = os.pread(self.descriptor, _BLOCK, at)
        if len(block) < _BLOCK or not block.startswith(_MAGIC):
            return None
        _, _, _, offset, length, sha256, named = _HEAD.unpack_from(block)
        end = _HEAD.size + named
        if end + _CRC.size > _BLOCK or offset > length or at + _BLOCK + length > self._size:
            return None
        content = os.pread(self.descriptor, length, at + _BLOCK)
        crc = zlib.crc32(content[:offset], zlib.crc32(block[:end]))
        if (
            len(content) < length
            or _CRC.unpack_from(block, end)[0] != crc
            or hashlib.sha256(memoryview(content)[offset:]).digest() != sha256
        ):
            return None
        locator = block[_HEAD.size : end].decode("ascii")
        return Entry(locator, offset, sha256.hex(), content)

    def _head(self, at: int) -> tuple[bytes, int] | None:
        block = os.pread(self.descriptor, _HEAD.size, at)
        if len(block) < _HEAD.size or not block.startswith(_MAGIC):
            return None
        _, generation, number, *_ = _HEAD.unpack(block)
        return generation, number

    def scrub(self, begin: int = 0) -> None:
        """Overwrite what was written from there on, durably."""
        if begin < self.dirty:
            for at in range(begin, self.dirty, _GROW_BYTES):
                os.pwrite(self.descriptor, bytes(min(_GROW_BYTES, self.dirty - at)), at)
            os.fdatasync(self.descriptor)
            self.dirty = begin

    def close(self) -> None:
        os.close(self.descriptor)
