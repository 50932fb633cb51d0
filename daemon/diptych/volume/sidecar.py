"""What BIDS says of a NIfTI file: the sidecars that apply to it, and whose it is.

BIDS 1.10: "Inheritance principle", "Entities". Runs inside a decoder child.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .formats import stem_of

_SUBJECT = re.compile(r"sub-[A-Za-z0-9+]+")
_DATATYPES = {"anat": "MR", "func": "MR", "dwi": "MR", "fmap": "MR", "perf": "MR", "pet": "PT"}
"""Folders that hold images of one kind only."""

_JSON_BYTES = 1 << 20
_MOST_SIDECARS = 100
"""In one folder; a level above a subject has one for each kind of scan."""

_DEEPEST = 3
"""Folders from a subject's to a file: session, data type."""


@dataclass(frozen=True)
class Said:
    """ "" where nothing is said. PatientID: of the subject, with the name of the data set, as
    ``sub-01`` is somebody in each; for the caller's keyed hash only."""

    Modality: str = ""
    BodyPartExamined: str = ""
    PatientID: str = ""


def said_of(image: Path) -> Said:
    """From the JSON files that apply to ``image``; never raises for a bad one."""
    folders = _above(image.parent)
    subject = next((folder for folder in folders if _SUBJECT.fullmatch(folder.name)), None)
    if subject is None:
        fields = _read(image.with_name(stem_of(image) + ".json"))
        return Said(_text(fields.get("Modality")).upper(), _body_part(fields))
    fields = {}
    for folder in [*folders[: folders.index(subject) + 1], subject.parent]:
        for sidecar in _applying(folder, image):
            fields = _read(sidecar) | fields
    modality = _text(fields.get("Modality")).upper() or _DATATYPES.get(image.parent.name, "")
    return Said(modality, _body_part(fields), _patient(subject))


def _body_part(fields: dict[str, Any]) -> str:
    return _text(fields.get("BodyPartExamined") or fields.get("BodyPart")).upper()


def _above(folder: Path) -> list[Path]:
    return [folder, *folder.parents][: _DEEPEST + 1]


def _patient(subject: Path) -> str:
    description = _read(subject.parent / "dataset_description.json")
    return f"{_text(description.get('Name')) or subject.parent.name}/{subject.name}"


def _applying(folder: Path, image: Path) -> list[Path]:
    """Same suffix, and no entity that the image has not; the one with most entities first."""
    entities, suffix = _parts(image)
    try:
        found = sorted(folder.glob("*.json"))[:_MOST_SIDECARS]
    except OSError:
        return []
    kept = []
    for path in found:
        theirs, kind = _parts(path)
        if kind == suffix and theirs <= entities:
            kept.append((-len(theirs), path))
    return [path for _, path in sorted(kept)]


def _parts(path: Path) -> tuple[frozenset[str], str]:
    """``sub-01_run-1_bold.nii.gz`` → entities, suffix."""
    *entities, suffix = path.name.partition(".")[0].split("_")
    return frozenset(entities), suffix


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file() or path.stat().st_size > _JSON_BYTES:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    """A short word: 16 characters are what a code string may have (PS3.5 §6.2), names 64."""
    if not isinstance(value, str):
        return ""
    return "".join(c for c in value[:64] if c.isprintable()).strip()
