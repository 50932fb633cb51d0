"""The simulated disk owes no more than POSIX does."""

from __future__ import annotations

import random
from pathlib import Path

from diptych.selftest.disk import Disk
from diptych.selftest.trace import MakeFolder, Open, SyncBegun, Synced, Write


def test_a_sync_brings_what_was_written_before_it_began_whoever_else_syncs_meanwhile(
    tmp_path: Path,
) -> None:
    path, folder = "/disk/data/file", "/disk/data"
    disk = Disk(Path("/disk"))
    for event in (
        MakeFolder(folder),
        SyncBegun("/disk", 1),
        Synced("/disk", 1),
        Open(path, 3, frozenset({"O_CREAT"})),
        Write(path, 3, None, b"before"),
        *(SyncBegun(where, thread) for thread, where in enumerate((path, path, folder, folder))),
        Synced(path, 0),
        Synced(folder, 2),
        Write(path, 3, None, b" and after"),
        Open(f"{folder}/later", 4, frozenset({"O_CREAT"})),
        Synced(path, 1),
        Synced(folder, 3),
    ):
        disk.apply(event)
    disk.cut(tmp_path / "left", "nothing", random.Random(1))
    left = tmp_path / "left" / "data"
    assert {file.name: file.read_bytes() for file in left.iterdir()} == {"file": b"before"}
