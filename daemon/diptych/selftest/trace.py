"""What a run asked of the disk, in order: the system calls as strace wrote them down."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diptych.selftest.daemon import SelftestError

_CALLS = (
    *("open", "openat", "creat", "write", "writev", "pwrite64", "pwritev", "ftruncate", "truncate"),
    *("fallocate", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat"),
    *("rmdir", "link", "linkat", "symlink", "symlinkat", "fsync", "fdatasync", "sync_file_range"),
    *("lseek", "copy_file_range", "sendfile", "sendto"),
)

# One line: process, call, arguments and result; a call that another thread interrupts is split.
_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(.*)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+|\?)(.*)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_DESCRIPTOR = re.compile(r"(\d+|AT_FDCWD)<([^>]*)>")
# PS3.8 section 9.3.5: a P-DATA-TF PDU; PS3.7 table 9.3-2: C-STORE-RSP, (0000,0100) = 8001H.
_P_DATA = b"\x04\x00"
_STORE_RESPONSE = b"\x00\x00\x00\x01\x02\x00\x00\x00\x01\x80"
_SUCCESS = b"\x00\x00\x00\x09\x02\x00\x00\x00\x00\x00"
_INSTANCE_UID = b"\x00\x00\x00\x10"


@dataclass(frozen=True)
class Write:
    """``offset`` None: where the descriptor stands. ``descriptor`` tells two openings apart."""

    path: str
    descriptor: int
    offset: int | None
    data: bytes


@dataclass(frozen=True)
class Open:
    """A file was opened; ``flags`` as in open(2)."""

    path: str
    descriptor: int
    flags: frozenset[str]


@dataclass(frozen=True)
class Seek:
    path: str
    descriptor: int
    position: int


@dataclass(frozen=True)
class Truncate:
    path: str
    size: int


@dataclass(frozen=True)
class Rename:
    path: str
    target: str


@dataclass(frozen=True)
class Remove:
    path: str


@dataclass(frozen=True)
class MakeFolder:
    path: str


@dataclass(frozen=True)
class SyncBegun:
    """An fsync or fdatasync by ``thread``; what was written before it is on disk after Synced."""

    path: str
    thread: int


@dataclass(frozen=True)
class Synced:
    path: str
    thread: int


@dataclass(frozen=True)
class Acknowledged:
    """A C-STORE-RSP with status 0x0000 is about to leave."""

    instance_uid: str


Event = (
    Write
    | Open
    | Seek
    | Truncate
    | Rename
    | Remove
    | MakeFolder
    | SyncBegun
    | Synced
    | Acknowledged
)


def recorder(trace: Path) -> tuple[str, ...]:
    """The command under which a daemon writes ``trace``. Raises SelftestError without strace."""
    strace = shutil.which("strace")
    if strace is None:
        raise SelftestError("strace is missing: install the package strace; nothing was recorded")
    calls = f"trace=/^({'|'.join(_CALLS)})$"
    # -xx and -s: every byte of every write; --seccomp-bpf: other calls cost nothing.
    words = ("-f", "-y", "-qq", "-xx", "-s", str(1 << 26), "--seccomp-bpf", "-e", calls)
    return (strace, *words, "-o", str(trace))


def read(trace: Path, below: Path) -> list[Event]:
    """The events of a trace on files ``below`` a folder, and the acknowledgements.

    Raises SelftestError for a call there that the simulation does not know.
    """
    return list(_events(trace, f"{below}/", str(below)))


def _events(trace: Path, below: str, root: str) -> Iterator[Event]:
    begun: dict[int, str] = {}
    with trace.open(encoding="ascii") as lines:
        for line in lines:
            if found := _BEGUN.match(line):
                thread, call, arguments = int(found[1]), found[2], found[3]
                begun[thread] = arguments
                if call in ("fsync", "fdatasync"):
                    yield from _sync_begun(thread, arguments, below, root)
                continue
            if found := _RESUMED.match(line):
                thread, call = int(found[1]), found[2]
                arguments, result, rest = begun.pop(thread, "") + found[3], found[4], found[5]
            elif found := _LINE.match(line):
                thread, call = int(found[1]), found[2]
                arguments, result, rest = found[3], found[4], found[5]
                if call in ("fsync", "fdatasync"):
                    yield from _sync_begun(thread, arguments, below, root)
            else:
                continue
            if result == "?" or int(result) < 0:
                continue
            yield from _event(thread, call, arguments, int(result), rest, below, root)


def _sync_begun(thread: int, arguments: str, below: str, root: str) -> Iterator[Event]:
    path = _decoded(_DESCRIPTOR.match(arguments)[2])  # type: ignore[index]
    if path.startswith(below) or path == root:
        yield SyncBegun(path, thread)


def _event(
    thread: int, call: str, arguments: str, result: int, rest: str, below: str, root: str
) -> Iterator[Event]:
    if call == "sendto":
        found = _TEXT.search(arguments)
        yield from _acknowledged(bytes.fromhex(found[1].replace("\\x", "")) if found else b"")
        return
    of = _DESCRIPTOR.match(arguments)
    path = _decoded(of[2]) if of else ""
    descriptor = int(of[1]) if of and of[1].isdigit() else -1
    if call in ("fsync", "fdatasync"):
        if path.startswith(below) or path == root:
            yield Synced(path, thread)
    elif call in ("write", "pwrite64", "lseek", "ftruncate"):
        if not path.startswith(below):
            return
        last = arguments.rpartition(", ")[2]
        if call == "lseek":
            yield Seek(path, descriptor, result)
        elif call == "ftruncate":
            yield Truncate(path, int(last))
        else:
            found = _TEXT.search(arguments)
            assert found is not None
            assert found[2] is None, "strace cut a write short"
            data = bytes.fromhex(found[1].replace("\\x", ""))[:result]
            yield Write(path, descriptor, int(last) if call == "pwrite64" else None, data)
    else:
        yield from _names(call, arguments, rest, below, result)


def _names(call: str, arguments: str, rest: str, below: str, result: int) -> Iterator[Event]:
    named = [_decoded(found[1]) for found in _TEXT.finditer(arguments)]
    # Relative to a folder's descriptor (os.walk, shutil): the folder stands before the name.
    folders = [_decoded(found[2]) for found in _DESCRIPTOR.finditer(arguments)]
    if call.endswith(("at", "at2")):
        pairs = zip(folders[: len(named)], named, strict=False)
        named = [name if name.startswith("/") else f"{folder}/{name}" for folder, name in pairs]
    if not any(name.startswith(below) for name in named):
        if (of := _DESCRIPTOR.match(arguments)) and _decoded(of[2]).startswith(below):
            raise SelftestError(f"the power-cut simulation does not know {call}")
        return
    if call in ("open", "openat", "creat"):
        opened = _DESCRIPTOR.search(f"{result}{rest}")
        flags = frozenset(re.findall(r"O_[A-Z]+", arguments)) | (
            {"O_CREAT", "O_TRUNC"} if call == "creat" else set()
        )
        yield Open(_decoded(opened[2]) if opened else named[0], result, flags)
    elif call.startswith("rename"):
        yield Rename(named[0], named[1])
    elif call.startswith("unlink") or call == "rmdir":
        yield Remove(named[0])
    elif call.startswith("mkdir"):
        yield MakeFolder(named[0])
    else:
        raise SelftestError(f"the power-cut simulation does not know {call}")


def _acknowledged(sent: bytes) -> Iterator[Event]:
    if not sent.startswith(_P_DATA) or _STORE_RESPONSE not in sent or _SUCCESS not in sent:
        return
    at = sent.index(_INSTANCE_UID) + len(_INSTANCE_UID)
    length = int.from_bytes(sent[at : at + 4], "little")
    yield Acknowledged(sent[at + 4 : at + 4 + length].rstrip(b"\0 ").decode("ascii"))


def _decoded(text: str) -> str:
    return bytes.fromhex(text.replace("\\x", "")).decode("utf-8", "replace") if text else ""
