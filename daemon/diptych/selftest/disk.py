"""A disk that loses its power: what a file system owes to who asked for it, and nothing more.

POSIX owes the content of a file after its fsync and a name after the fsync of its folder. Until
then each write may be there, missing or torn at a sector; the changes of one folder arrive in
their order, but independently of other folders'.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from diptych.selftest.trace import (
    Acknowledged,
    Event,
    MakeFolder,
    Open,
    Remove,
    Rename,
    Seek,
    SyncBegun,
    Synced,
    Truncate,
    Write,
)

SECTOR = 512
Mode = Literal["nothing", "some", "everything"]
"""What survives of what was never synced."""


@dataclass(eq=False)
class File:
    """``durable``: content on disk; ``pending``: (offset, bytes) or (new size, None), in order;
    ``synced``: how many changes came before these."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    synced: int = 0
    size: int = 0

    def change(self, offset: int, data: bytes | None) -> None:
        self.pending.append((offset, data))
        self.size = offset if data is None else max(self.size, offset + len(data))

    def sync(self, until: int) -> None:
        while self.pending and self.synced < until:
            _apply(self.durable, *self.pending.pop(0))
            self.synced += 1

    def after(self, mode: Mode, rng: random.Random) -> bytes:
        content = bytearray(self.durable)
        for offset, data in self.pending if mode != "nothing" else ():
            whole = mode == "everything" or rng.random() < 0.5
            if whole:
                _apply(content, offset, data)
            elif data is not None and rng.random() < 0.5:
                _apply(content, offset, data[: rng.randrange(len(data) // SECTOR + 1) * SECTOR])
        return bytes(content)


@dataclass(eq=False)
class Folder:
    """``names``: as processes see it; ``pending``: changes not on disk yet (None: removed)."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[dict[str, File | Folder | None]] = field(default_factory=list)
    synced: int = 0

    def change(self, changes: dict[str, File | Folder | None]) -> None:
        self.pending.append(changes)
        _rename(self.names, changes)

    def sync(self, until: int) -> None:
        while self.pending and self.synced < until:
            _rename(self.durable, self.pending.pop(0))
            self.synced += 1

    def after(self, mode: Mode, rng: random.Random) -> dict[str, File | Folder]:
        kept = {"nothing": 0, "everything": len(self.pending)}.get(mode)
        found = dict(self.durable)
        for changes in self.pending[: rng.randint(0, len(self.pending)) if kept is None else kept]:
            _rename(found, changes)
        return found


class Disk:
    """The folder ``root``, which is there and empty before the first event."""

    def __init__(self, root: Path) -> None:
        self._root, self._top = root, Folder()
        self._positions: dict[tuple[str, int], int] = {}
        self._append: set[tuple[str, int]] = set()
        self._syncing: dict[int, int] = {}
        self.acknowledged: list[str] = []

    def apply(self, event: Event) -> None:
        """One event more, in the order of the trace."""
        match event:
            case Acknowledged(uid):
                self.acknowledged.append(uid)
            case Open():
                self._open(event)
            case Seek(path, descriptor, position):
                self._positions[path, descriptor] = position
            case Write():
                self._write(event)
            case Truncate(path, size):
                self._file(path).change(size, None)
            case Rename(path, target):
                self._rename(path, target)
            case Remove(path):
                folder, name = self._parent(path)
                folder.change({name: None})
            case MakeFolder(path):
                folder, name = self._parent(path)
                folder.change({name: Folder()})
            case SyncBegun(path, thread):
                node = self._find(path)
                self._syncing[thread] = node.synced + len(node.pending) if node else 0
            case Synced(path, thread):
                node = self._find(path)
                if node:
                    node.sync(self._syncing.pop(thread))

    def cut(self, into: Path, mode: Mode, rng: random.Random) -> None:
        """Write what is left after a power cut now into the new folder ``into``."""
        _write_folder(self._top, into, mode, rng)

    def _open(self, event: Open) -> None:
        folder, name = self._parent(event.path)
        node = folder.names.get(name)
        if node is None and "O_CREAT" in event.flags:
            node = File()
            folder.change({name: node})
        if isinstance(node, File) and "O_TRUNC" in event.flags and node.size:
            node.change(0, None)
        key = event.path, event.descriptor
        self._positions[key] = 0
        (self._append.add if "O_APPEND" in event.flags else self._append.discard)(key)

    def _write(self, event: Write) -> None:
        file = self._find(event.path)
        if not isinstance(file, File):  # removed while it was open
            return
        offset, key = event.offset, (event.path, event.descriptor)
        if offset is None:
            offset = file.size if key in self._append else self._positions.get(key, 0)
            self._positions[key] = offset + len(event.data)
        file.change(offset, event.data)

    def _rename(self, path: str, target: str) -> None:
        (source, name), (folder, new) = self._parent(path), self._parent(target)
        node = source.names[name]
        if source is folder:  # one change: both or none
            folder.change({name: None, new: node})
        else:
            folder.change({new: node})
            source.change({name: None})

    def _file(self, path: str) -> File:
        node = self._find(path)
        assert isinstance(node, File), path
        return node

    def _find(self, path: str) -> File | Folder | None:
        node: File | Folder | None = self._top
        for part in Path(path).relative_to(self._root).parts:
            node = node.names.get(part) if isinstance(node, Folder) else None
        return node

    def _parent(self, path: str) -> tuple[Folder, str]:
        folder = self._find(str(Path(path).parent))
        assert isinstance(folder, Folder), path
        return folder, Path(path).name


def without_syncs(events: list[Event], of: Callable[[str], bool]) -> list[Event]:
    """The same run by a program that forgets the fsync of every path that ``of`` says."""
    return [e for e in events if not (isinstance(e, SyncBegun | Synced) and of(e.path))]


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
    content.extend(bytes(max(0, offset - len(content))))
    if data is not None:
        content[offset : offset + len(data)] = data


def _rename(names: dict[str, File | Folder], changes: dict[str, File | Folder | None]) -> None:
    for name, node in changes.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _write_folder(folder: Folder, into: Path, mode: Mode, rng: random.Random) -> None:
    into.mkdir()
    for name, node in folder.after(mode, rng).items():
        # The log is no state, and SQLite makes its shared memory anew after the last process.
        if name.endswith("-shm"):
            continue
        if isinstance(node, Folder):
            _write_folder(node, into / name, mode, rng)
        else:
            (into / name).write_bytes(node.after(mode, rng))
