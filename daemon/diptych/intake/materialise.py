"""A series of the catalogue → local files: plain ones where they are, the rest taken out."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
    with materialise_all(db, [series], scratch, limits) as found:
        yield found[series]


@contextmanager
def materialise_all(
    db: sqlite3.Connection, series: Sequence[int], scratch: Path, limits: Limits | None = None
) -> Iterator[dict[int, list[Path]]]:
    """The same for several at once: an archive that many of them lie in is read once."""
    own = Path(tempfile.mkdtemp(prefix=f"series-{series[0]}-", dir=scratch))
    try:
        laying = _Laying(db, own)
        found = {number: laying.plan(number) for number in series}
        laying.lay_down(limits or Limits())
        yield found
    finally:
        shutil.rmtree(own, ignore_errors=True)


class _Laying:
    """What is to be taken out of which file, and where to."""

    def __init__(self, db: sqlite3.Connection, own: Path) -> None:
        self._db, self._own = db, own
        self._wanted: dict[bytes, dict[At, Path]] = defaultdict(dict)
        self._needed = 0

    def plan(self, series: int) -> list[Path]:
        """Where its files will be."""
        rows = self._db.execute(
            "SELECT file, at, where_, whole, entry.size FROM series_entry "
            "JOIN entry USING (file, at) JOIN file ON file.id = entry.file "
            "WHERE series_entry.series = ? ORDER BY whole, file, at",
            (series,),
        ).fetchall()
        return [self._one(f"{series}-{number:06d}", *row) for number, row in enumerate(rows)]

    def _one(
        self, name: str, file: int, at: str, where: bytes, whole: str, size: int | None
    ) -> Path:
        if at == "" and where.startswith(b"/"):
            # Its parts are local and beside it, too.
            return Path(_local(where))
        parts = self._db.execute(
            "SELECT at, where_, whole, entry.size FROM part JOIN entry USING (file, at) "
            "JOIN file ON file.id = entry.file WHERE of_file = ? AND of_at = ? "
            "AND role IN ('detached-data', 'sidecar') ORDER BY whole",
            (file, at),
        )
        folder = self._own / name
        folder.mkdir()
        place = whole.rpartition("/")[0] + "/"
        self._want(where, at, folder / _safe(whole), size)
        for part_at, part_where, part_whole, part_size in parts:
            inside = part_whole.removeprefix(place)
            if not _is_inside(inside):
                raise Refused("path-traversal", "the values lie outside the header's folder")
            path = folder.joinpath(*inside.split("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._want(part_where, part_at, path, part_size)
        return folder / _safe(whole)

    def _want(self, where: bytes, at: str, path: Path, size: int | None) -> None:
        self._wanted[where][_numbers(at)] = path
        self._needed += size or 0

    def lay_down(self, limits: Limits) -> None:
        if self._needed > shutil.disk_usage(self._own).free:
            raise Refused("no-room", f"{self._needed} bytes do not fit in {self._own.parent}")
        for where, targets in self._wanted.items():
            _take_out(where, targets, self._own, limits)


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
