"""One row of the catalogue: a file, or a member of an archive, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Every row has one of these; together they are all rows."""

    READABLE = "readable"  # an image, as far as its header says
    NOT_SCREENABLE = "not-screenable"  # an image that cannot be judged
    NOT_AN_IMAGE = "not-an-image"
    UNREADABLE = "unreadable"  # damaged, or not what its name says
    REFUSED = "refused"  # could be read, but is not: a limit or a rule
    OPENED = "opened"  # an archive; its members are rows of their own


@dataclass(slots=True)
class Entry:
    """``at``: "" for a file itself, else the member's number in each archive from the outermost
    on ("3/0/12"). ``whole``: path and member names, joined with "!/", printable. ``size``: bytes,
    None when only reading it all would tell. ``planes``: 2D images in it (frames, slices).
    ``members``: of an archive. ``facts``: JSON, keyword or field → text: how it was made, nothing
    that identifies."""

    at: str
    whole: str
    size: int | None
    kind: str = "other"
    status: Status = Status.NOT_AN_IMAGE
    reason: str = ""
    detail: str = ""
    study: str = ""
    series: str = ""
    sop_class: str = ""
    sop_instance: str = ""
    transfer_syntax: str = ""
    modality: str = ""
    rows: int | None = None
    columns: int | None = None
    planes: int | None = None
    members: int | None = None
    facts: str = ""

    def becomes(self, status: Status, reason: str = "", detail: str = "") -> None:
        """Its outcome; the detail is kept short."""
        self.status, self.reason, self.detail = status, reason, detail[:200]


@dataclass(frozen=True, slots=True)
class Name:
    """A file that the entry ``at`` names: ``name`` is relative to the entry's own folder.

    role: "dicomdir" (a record's file) or "data" (the pixels of a detached header).
    """

    at: str
    number: int
    role: str
    name: str


def readable_text(raw: str | bytes) -> str:
    """A name that can be stored and shown: what is no UTF-8 becomes ``\\xNN``."""
    text = raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else raw
    return text.encode("utf-8", "backslashreplace").decode()
