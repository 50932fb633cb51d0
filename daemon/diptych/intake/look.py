"""One file → its rows: itself, and every member of it when it is an archive, however nested.

What a thing is, its first bytes say; the name only tells damaged from foreign. Archives are read
where they are, under limits; no member's name is ever used as a path.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from . import dicom, volumes
from .archives import Member, laid_down, members_of
from .entry import Entry, Name, Status, readable_text
from .limits import Budget, Exhausted, Limits, Refused
from .sniff import ARCHIVES, FOREIGN_ARCHIVES, HEAD, PICTURES, beginning, sniff
from .streams import Forward, of_file

Row = Entry | Name
Rows = Iterator[Row]

_MOST_BYTES = 1 << 43
"""A member of which more is claimed has no known size."""

_MOST_DIRECTORY = 256 << 20
"""Bytes of a DICOMDIR: half a million images."""

_IMAGE_SUFFIXES = (
    ".dcm", ".dicom", ".ima", ".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd",
    ".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz",
)  # fmt: skip


def look(file: IO[bytes], whole: str, size: int | None, limits: Limits, scratch: Path) -> Rows:
    """The rows of one open, seekable file; an archive's own row comes after its members'.

    whole: what it is called. scratch: where nested zips are laid down while they are read. Never
    raises for what the file holds.
    """
    looker = _Look(Budget(limits, size), scratch)
    entry = Entry("", whole, size)
    with contextlib.suppress(Exhausted):
        yield from looker.settle(entry, looker.below(entry, of_file(file), file), lambda: size)


class _Look:
    def __init__(self, budget: Budget, scratch: Path) -> None:
        self._budget, self._scratch = budget, scratch

    def settle(self, entry: Entry, rows: Rows, finish: Callable[[], int | None]) -> Rows:
        """``rows``, then ``entry``, whatever goes wrong on the way; raises Exhausted."""
        exhausted = None
        try:
            yield from rows
            entry.size = finish()
        except Refused as refused:
            entry.becomes(Status.REFUSED, refused.reason, refused.detail)
            exhausted = refused if isinstance(refused, Exhausted) else None
        except EOFError:
            entry.becomes(Status.UNREADABLE, "truncated")
        except MemoryError:
            entry.becomes(Status.REFUSED, "too-much-memory")
        except OSError as error:
            reason = "cannot-be-read" if error.errno else "damaged"
            entry.becomes(Status.UNREADABLE, reason, error.strerror or type(error).__name__)
        except Exception as error:
            # The libraries raise whatever their helpers raise; messages may quote what is in it.
            entry.becomes(Status.UNREADABLE, "damaged", type(error).__name__)
        yield entry
        if exhausted is not None:
            raise exhausted

    def below(self, entry: Entry, stream: Forward, file: IO[bytes] | None = None) -> Rows:
        """Fill in ``entry``; the rows below it. ``file``: the same, when it can be sought in."""
        entry.kind = kind = sniff(stream)
        if kind in ARCHIVES:
            yield from self._archive(entry, stream, file)
        elif kind == "dicomdir":
            yield from self._dicomdir(entry, stream)
        elif kind == "nifti":
            yield from volumes.describe_nifti(entry, stream.peek(HEAD), entry.size)
        elif kind.startswith("nifti."):
            head = beginning(stream, kind.removeprefix("nifti."))
            yield from volumes.describe_nifti(entry, head, None)
        elif kind == "nrrd":
            yield from volumes.describe_nrrd(entry, stream)
        elif kind == "metaimage":
            yield from volumes.describe_metaimage(entry, stream)
        elif kind in ("dicom", "maybe-dicom"):
            dicom.describe(entry, stream)
            if kind == "maybe-dicom" and not (entry.sop_class or entry.rows or _named(entry)):
                # Chance: a data set without a prefix has at least a class or a size.
                _describe_other(entry, "other")
        else:
            _describe_other(entry, kind)

    def _dicomdir(self, entry: Entry, stream: Forward) -> Rows:
        with laid_down(stream, self._scratch, _MOST_DIRECTORY) as file:
            dicom.describe(entry, of_file(file))
            entry.kind = "dicomdir"
            entry.becomes(Status.NOT_AN_IMAGE, "media-directory")
            file.seek(0)
            yield from dicom.referenced(file, entry.at)

    def _archive(self, entry: Entry, stream: Forward, file: IO[bytes] | None) -> Rows:
        entry.members = 0
        entry.becomes(Status.OPENED)
        depth = entry.at.count("/") + 1 if entry.at else 0
        if depth >= self._budget.limits.depth:
            raise Refused("nested-too-deep", f"in {depth} archives already")
        name = entry.whole.rpartition("/")[2]
        for member in members_of(entry.kind, stream, name, self._budget, self._scratch, file):
            self._budget.member()
            entry.members += 1
            at = f"{entry.at}/{member.number}" if entry.at else str(member.number)
            text = readable_text(member.name[: self._budget.limits.name_bytes])
            inner = Entry(at, f"{entry.whole}!/{text}", _believable(member.size))
            yield from self.settle(inner, self._opened(inner, member), member.finish)

    def _opened(self, entry: Entry, member: Member) -> Rows:
        yield from self.below(entry, member.open())


def _believable(size: int | None) -> int | None:
    """A claim that the catalogue can hold and add up."""
    return None if size is None or not 0 <= size <= _MOST_BYTES else size


def _named(entry: Entry) -> bool:
    return entry.whole.lower().endswith(_IMAGE_SUFFIXES)


def _describe_other(entry: Entry, kind: str) -> None:
    entry.kind = kind
    if kind in FOREIGN_ARCHIVES:
        entry.becomes(Status.REFUSED, "unsupported-archive", f"{kind}: unpack it first")
    elif kind in PICTURES:
        entry.becomes(Status.NOT_SCREENABLE, "picture", f"{kind}: no volume, no geometry")
    elif kind == "empty":
        entry.becomes(Status.UNREADABLE if _named(entry) else Status.NOT_AN_IMAGE, "empty-file")
    elif kind == "other" and _named(entry):
        entry.becomes(Status.UNREADABLE, "not-what-its-name-says")
    else:
        if kind == "other" and entry.whole.lower().endswith(".json"):
            entry.kind = "json"
        entry.becomes(Status.NOT_AN_IMAGE, entry.kind)
