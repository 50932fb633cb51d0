"""A series of the catalogue → local files: plain ones where they are, the rest taken out."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .archives import members_of
from .limits import Budget, Limits, Refused
from .reader import open_file
from .sniff import ARCHIVES, sniff
from .streams import PIECE, Forward, of_file

At = tuple[int, ...]
"""The member's number in each archive, from the outermost on; () is the file itself."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_NAME_BYTES = 120


@contextmanager
def materialise(
    db: sqlite3.Connection, series: int, scratch: Path, limits: Limits | None = None
) -> Iterator[list[Path]]:
    """The files of ``series``, in the order of the catalogue, as paths that can be read now.

    What lies in archives or behind URLs is laid down below ``scratch``, under the limits of the
    intake, and removed at the end. Detached values and sidecars lie beside their image. Raises
    Refused for what is no longer as the catalogue says, or does not fit on the disk.
    """
    own = Path(tempfile.mkdtemp(prefix=f"series-{series}-", dir=scratch))
    try:
        yield _paths(db, series, own, limits or Limits())
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _paths(db: sqlite3.Connection, series: int, own: Path, limits: Limits) -> list[Path]:
    rows = db.execute(
        "SELECT file, at, where_, whole, entry.size FROM series_entry JOIN entry USING (file, at) "
        "JOIN file ON file.id = entry.file WHERE series_entry.series = ? ORDER BY whole, file, at",
        (series,),
    ).fetchall()
    paths: list[Path] = []
    wanted: dict[bytes, dict[At, Path]] = defaultdict(dict)
    needed = 0
    for number, (file, at, where, whole, size) in enumerate(rows):
        parts = db.execute(
            "SELECT file, at, where_, whole, entry.size FROM part JOIN entry USING (file, at) "
            "JOIN file ON file.id = entry.file WHERE of_file = ? AND of_at = ? "
            "AND role IN ('detached-data', 'sidecar') ORDER BY whole",
            (file, at),
        ).fetchall()
        if at == "" and where.startswith(b"/"):
            # Its parts are local and beside it, too.
            paths.append(Path(_local(where)))
            continue
        folder = own / f"{number:06d}"
        folder.mkdir()
        paths.append(folder / _safe(whole))
        wanted[where][_numbers(at)] = paths[-1]
        needed += size or 0
        place = whole.rpartition("/")[0] + "/"
        for _, part_at, part_where, part_whole, part_size in parts:
            inside = part_whole.removeprefix(place)
            path = folder.joinpath(*inside.split("/"))
            if not _is_inside(inside):
                raise Refused("path-traversal", "the values lie outside the header's folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            wanted[part_where][_numbers(part_at)] = path
            needed += part_size or 0
    if needed > shutil.disk_usage(own).free:
        raise Refused("no-room", f"{needed} bytes do not fit in {own.parent}")
    for where, targets in wanted.items():
        _take_out(where, targets, own, limits)
    return paths


def _take_out(where: bytes, targets: dict[At, Path], scratch: Path, limits: Limits) -> None:
    try:
        with open_file(where) as file:
            size = file.seek(0, 2)
            file.seek(0)
            budget = Budget(limits, size)
            found = _from(of_file(file), file, "", targets, budget, scratch)
    except Refused:
        raise
    except Exception as error:
        raise Refused("changed", f"{type(error).__name__} where an archive was read") from error
    if found < len(targets):
        raise Refused("changed", f"{len(targets) - found} members are not there any more")


def _from(
    stream: Forward,
    file: IO[bytes] | None,
    name: str,
    targets: dict[At, Path],
    budget: Budget,
    scratch: Path,
) -> int:
    """Lay down the targets in one pass; how many were there."""
    if () in targets:
        with targets[()].open("xb") as target:
            while piece := stream.read(PIECE):
                target.write(piece)
        return 1
    kind, found = sniff(stream), 0
    if kind not in ARCHIVES:
        return 0
    for member in members_of(kind, stream, name, budget, scratch, file):
        budget.member()
        below = {at[1:]: path for at, path in targets.items() if at[0] == member.number}
        if below:
            found += _from(member.open(), None, member.name, below, budget, scratch)
            member.finish()
        if found == len(targets):
            break
    return found


def _numbers(at: str) -> At:
    return tuple(int(number) for number in at.split("/")) if at else ()


def _local(where: bytes) -> str:
    return where.decode("utf-8", "surrogateescape")


def _safe(whole: str) -> str:
    """The end of the name, as its suffix matters and its detached values are named after it."""
    name = _UNSAFE.sub("_", whole.rpartition("/")[2])[-_NAME_BYTES:].lstrip(".")
    return name or "file"


def _is_inside(inside: str) -> bool:
    return not inside.startswith("/") and ".." not in inside.split("/") and "\0" not in inside
