"""Archives made in memory, and what the intake says of them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from diptych.intake.catalogue import Catalogue
from diptych.intake.entry import Entry
from diptych.intake.limits import Limits
from diptych.intake.look import look

Files = Mapping[str, bytes]


def zipped(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


def tarred(files: Files, packing: str = "") -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=f"w:{packing}") as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return target.getvalue()


def looked_at(content: bytes, name: str, scratch: Path, **limits: int) -> dict[str, Entry]:
    """The rows of one file by name, without its own name before members' ("" is itself)."""
    rows = look(io.BytesIO(content), name, len(content), Limits(**limits), scratch)
    entries = [row for row in rows if isinstance(row, Entry)]
    assert entries[-1].whole == name
    found = {each.whole.removeprefix(name).removeprefix("!/"): each for each in entries}
    assert len({each.at for each in entries}) == len(entries)
    return found


def outcomes(catalogue: Catalogue) -> Counter[str]:
    """status or status: reason → entries."""
    rows = catalogue.db.execute("SELECT status, reason FROM outcome")
    return Counter(f"{status}: {reason}" if reason else status for status, reason in rows)
