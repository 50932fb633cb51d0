"""Durable files: pixels from the wire until the purge.

``incoming/`` holds large transfers in flight and files that wait for their name,
``instances/<source>/<xx>/`` what was acknowledged,
``journal/`` the bytes of what was acknowledged last (``receive.journal``), ``quarantine/`` copies
of what could not be parsed. Names are UUIDs and configured source names,
never anything from the wire. Everything lies on one file system, so a rename is atomic.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path

from pydicom.filereader import read_file_meta_info

from diptych import faults
from diptych.errors import StoreError

_SHARDS = [f"{n:02x}" for n in range(256)]
# (0002,0000) FileMetaInformationGroupLength: tag, VR, length and a UL stand right after "DICM".
_META_GROUP_LENGTH_AT = 128 + 4 + 8
_META_STARTS_AT = _META_GROUP_LENGTH_AT + 4
# The first bytes of a file that say where its data set begins.
DATA_SET_WITHIN = _META_STARTS_AT
_CHUNK = 1 << 20
# What is in memory of one transfer, and for how long: afterwards it is a file, which says that its
# series is not complete (``in_flight``).
MEMORY_BYTES = 1 << 20
_MEMORY_SECONDS = 1.0
_SMALL = 4096
_LOCATOR = re.compile(r"instances/([^/]+)/[0-9a-f]{2}/[0-9a-f]{32}\.dcm")


class Part:
    """A transfer in flight: memory while it is small and quick, then a file.

    It never raises while the library writes to it: an error inside the library's receiving thread
    would tear down the association without an answer. It is kept here and raised by ``Spool.keep``
    or ``head``, where it becomes 0xA700.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self.file = self
        self.size = 0
        self._memory: list[bytes | memoryview] = []
        # Of the data set, while it comes: the sender sends the next fragment meanwhile.
        self._digest: hashlib._Hash | None = None
        self._digest_from = 0
        self._began = time.monotonic()
        self._error: OSError | None = None
        self._raw: BufferedWriter | None = None
        self._shown = self._discarded = False
        self._lock = threading.Lock()

    def begin(self, meta: bytes) -> None:
        """Append the File Meta Information; what follows is the data set."""
        self.write(meta)
        self._digest, self._digest_from = hashlib.sha256(), self.size

    def write(self, data: bytes | memoryview) -> int:
        """Append; after the first error only swallow, so that the peer can finish and be told.
        ``data`` must not change afterwards."""
        self.size += len(data)
        if self._digest is not None:
            self._digest.update(data)
        if self._error is None:
            try:
                if self._raw is not None:
                    faults.point("receive.write")
                    self._raw.write(data)
                else:
                    # A view keeps its whole PDU, and is itself larger than a few bytes.
                    self._memory.append(data if len(data) > _SMALL else bytes(data))
                    slow = time.monotonic() - self._began > _MEMORY_SECONDS
                    if self.size > MEMORY_BYTES or slow:
                        self._to_file()
            except OSError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Nothing: the library flushes every fragment, durability needs one flush at the end."""

    def content(self) -> bytes | None:
        """The whole Part 10 file, None when it is a file already. Raises StoreError."""
        self._raise()
        if self._raw is not None:
            return None
        content = b"".join(self._memory)
        if len(content) != self.size:  # discarded
            raise StoreError("spool: the association ended")
        self._memory = [content]
        return content

    def head(self, limit: int) -> bytes:
        """The first bytes of the Part 10 file, at most ``limit``. Raises StoreError."""
        content = self.content()
        if content is not None:
            return content[:limit]
        try:
            assert self._raw is not None
            self._raw.flush()
            with self.path.open("rb") as file:
                return file.read(limit)
        except OSError as error:
            self._error = error
            raise StoreError(f"spool: {error.strerror}") from error

    def sha256(self, offset: int) -> str:
        """SHA-256 of what follows ``offset``. Raises StoreError."""
        self._raise()
        if self._digest is not None and self._digest_from == offset:
            return self._digest.hexdigest()
        content = self.content()
        if content is None:
            return content_sha256(self.path, offset)[0]
        return hashlib.sha256(memoryview(content)[offset:]).hexdigest()

    def close(self) -> None:
        """Close the file; safe to repeat."""
        try:
            if self._raw is not None:
                self._raw.close()
        except OSError as error:
            self._error = self._error or error

    def sync(self) -> None:
        """Bring every byte to the disk, into a file. Raises StoreError for any error so far."""
        self._raise()
        try:
            if self._raw is None:
                self._to_file()
            assert self._raw is not None
            faults.point("receive.fsync")
            self._raw.flush()
            os.fsync(self._raw.fileno())
        except OSError as error:
            self._error = error
            raise StoreError(f"spool: {error.strerror}") from error

    def show(self) -> None:
        """Give a slow transfer its file, for ``Spool.in_flight``, though nothing comes to fill it;
        another thread may discard it meanwhile. Raises OSError."""
        with self._lock:
            slow = time.monotonic() - self._began > _MEMORY_SECONDS
            if slow and self._raw is None and not (self._shown or self._discarded):
                self.path.touch()
                self._shown = True

    def discard(self) -> None:
        """Remove the file if it is still there."""
        with self._lock:
            self._discarded = True
        self.close()
        self._memory = []
        if self._shown or self._raw is not None:
            self.path.unlink(missing_ok=True)

    def _to_file(self) -> None:
        faults.point("receive.open")
        self._raw = self.path.open("wb")
        for data in self._memory:
            faults.point("receive.write")
            self._raw.write(data)
        self._memory = []

    def _raise(self) -> None:
        if self._error is not None:
            raise StoreError(f"spool: {self._error.strerror}") from self._error


class Spool:
    """The folder and its rules."""

    def __init__(self, folder: Path, sources: tuple[str, ...]) -> None:
        self.folder = folder
        self.incoming = folder / "incoming"
        self.quarantine = folder / "quarantine"
        self.journal = folder / "journal"
        self._instances = folder / "instances"
        self._sources = sources
        self._quarantine_lock = threading.Lock()

    def prepare(self) -> None:
        """Make every folder now, so that storing an instance syncs exactly one folder."""
        self.incoming.mkdir(parents=True, exist_ok=True)
        self.quarantine.mkdir(exist_ok=True)
        self.journal.mkdir(exist_ok=True)
        for source in self._sources:
            for shard in _SHARDS:
                (self._instances / source / shard).mkdir(parents=True, exist_ok=True)
            sync_folder(self._instances / source)
        sync_folder(self._instances)
        sync_folder(self.folder)
        # The data folder, where the database lies as well, and the names above it, any of which may
        # be new: until all are synced a power cut may take everything below them.
        for folder in self.folder.absolute().parents:
            try:
                sync_folder(folder)
            except OSError as error:
                # What is not ours to read or to write to was not ours to make either.
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL):
                    raise

    def part(self, association: str, acceptor: str) -> Part:
        """A new file for a transfer in flight; both arguments are our own names."""
        began = time.time_ns() // 1000
        name = f"{association}.{began}.{acceptor}.{uuid.uuid4().hex}.part"
        return Part(self.incoming / name)

    def in_flight(self) -> dict[str, int]:
        """Transfers in flight: association → when its transfer began, in UTC microseconds."""
        names = (path.name.split(".") for path in self.incoming.glob("*.*.*.*.part"))
        return {association: int(began) for association, began, *_ in names}

    def keep(self, part: Part, source: str) -> str:
        """Make a finished transfer durable: fsync, rename, fsync the folder; returns its locator.

        Raises StoreError; then the file is not kept.
        """
        faults.point("receive.after-temporary-write")
        part.sync()
        part.close()
        locator = self.locator(source)
        target = self.path(locator)
        try:
            faults.point("receive.before-rename")
            part.path.rename(target)
            faults.point("receive.after-rename")
            sync_folder(target.parent)
        except OSError as error:
            target.unlink(missing_ok=True)
            raise StoreError(f"spool: {error.strerror}") from error
        return locator

    def locator(self, source: str) -> str:
        """A new one for an instance of this source."""
        name = uuid.uuid4().hex
        return f"instances/{source}/{name[:2]}/{name}.dcm"

    def write_aside(self, acceptor: str, content: bytes) -> Path:
        """Make a file, unsynced, that ``place`` gives its name when a journal holds its bytes: half
        a file must not be filed by the next start. Raises OSError; then there is none."""
        faults.point("receive.write-file")
        path = self.incoming / f"aside.0.{acceptor}.{uuid.uuid4().hex}"
        with path.open("xb", buffering=0) as file:
            try:
                if file.write(content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                path.unlink(missing_ok=True)
                raise
        return path

    def place(self, aside: Path, locator: str, durably: bool = False) -> None:
        """Give the file its name; ``durably``: no journal holds its bytes. Raises OSError."""
        target = self.path(locator)
        if durably:
            with aside.open("rb") as file:
                os.fsync(file.fileno())
        aside.rename(target)
        if durably:
            sync_folder(target.parent)

    def restore(self, locator: str, content: bytes) -> None:
        """Make the file anew, durably and at once. Raises OSError."""
        temporary, target = self.incoming / f"{uuid.uuid4().hex}.restored", self.path(locator)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def path(self, locator: str) -> Path:
        """Where a locator lies."""
        return self.folder / locator

    def remove(self, locator: str) -> None:
        """Remove a kept file (purged, or its bytes were known already)."""
        self.path(locator).unlink(missing_ok=True)

    def put_in_quarantine(self, part: Part, max_files: int, max_bytes: int) -> None:
        """Keep a copy of what could not be parsed; the oldest make room."""
        content = part.content()
        part.close()
        with self._quarantine_lock:
            copy = self.quarantine / f"{uuid.uuid4().hex}.dcm"
            if content is None:
                part.path.rename(copy)
            else:
                copy.write_bytes(content)
            files = []
            for path in self.quarantine.iterdir():
                with suppress(FileNotFoundError):  # another acceptor made room
                    stat = path.stat()
                    files.append((stat.st_mtime_ns, stat.st_size, path))
            files.sort()
            total = sum(size for _, size, _ in files)
            while files and (len(files) > max_files or total > max_bytes):
                _, size, oldest = files.pop(0)
                oldest.unlink(missing_ok=True)
                total -= size

    def free_bytes(self) -> int:
        """Bytes free for us on the spool's file system."""
        return shutil.disk_usage(self.folder).free

    def probe(self) -> None:
        """Raise StoreError unless a small file can be written and synced now."""
        path = self.incoming / f"probe.{os.getpid()}"
        try:
            with path.open("wb") as file:
                file.write(b"\0" * 4096)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"spool: {error.strerror}") from error
        finally:
            path.unlink(missing_ok=True)

    def kept(self) -> Iterator[tuple[str | None, str]]:
        """(source, locator) of every kept file; source None: not a name that we give. Raises
        OSError: what is in a folder that cannot be read is not gone."""
        for folder, _, names in os.walk(self._instances, onerror=_unless_missing):
            for name in names:
                locator = str((Path(folder) / name).relative_to(self.folder))
                ours = _LOCATOR.fullmatch(locator)
                yield (ours[1] if ours else None), locator

    def orphans(self, acceptor: str | None = None) -> Iterator[Path]:
        """What a dead acceptor (None: any process, when none is alive) left half-sent."""
        for path in self.incoming.glob(f"*.*.{acceptor}.*" if acceptor else "*"):
            if not path.is_dir():
                yield path


def data_set_offset(path: Path) -> int:
    """Where the data set begins in a Part 10 file we wrote (PS3.10 section 7.1)."""
    with path.open("rb") as file:
        return data_set_offset_in(file.read(_META_STARTS_AT))


def data_set_offset_in(head: bytes) -> int:
    """The same, of the first bytes of the file."""
    if len(head) < _META_STARTS_AT or head[128:132] != b"DICM":
        raise StoreError("spool: not a file of ours: no DICM prefix")
    return _META_STARTS_AT + int.from_bytes(head[_META_GROUP_LENGTH_AT:_META_STARTS_AT], "little")


def transfer_syntax(path: Path) -> str:
    """The TransferSyntaxUID (0002,0010) of a Part 10 file we wrote."""
    try:
        return str(read_file_meta_info(path).TransferSyntaxUID)
    except Exception as error:  # pydicom raises whatever its helpers raise
        raise StoreError("spool: not a file of ours: no TransferSyntaxUID (0002,0010)") from error


def content_sha256(path: Path, offset: int) -> tuple[str, int]:
    """SHA-256 and length in bytes of the data set as received."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
