"""The cases below a folder, and which half of the protocol each one serves.

A case is a NIfTI, NRRD or MetaImage file or one DICOM series of one folder. Every file below the
folder is accounted for: part of a case, unreadable, or named as no image.

**Halves** (Truong et al. 2023, section III-A: first and second 50 % of each task): the cases of
each leaf folder, in path order; the first half goes to the database, an odd one out to the second
half. A folder that holds a single case (patient/study/series) is no task: its case is pooled with
its siblings' under the parent folder, and on upwards until the pool has two or FOLDER is reached.
"""

from __future__ import annotations

import csv
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian

from diptych.errors import NotScreenable, UsageError
from diptych.evaluate.reading import Reading, read_dicom, read_itk, read_nifti
from diptych.volume.decoders import DecoderPool
from diptych.volume.limits import Limits
from diptych.volume.reading import looks_like_dicom, read_dataset_file

Kind = Literal["nifti", "itk", "dicom"]

_SUFFIXES: dict[str, Kind] = {
    ".nii": "nifti", ".nii.gz": "nifti", ".nrrd": "itk", ".nhdr": "itk", ".mha": "itk",
    ".mhd": "itk",
}  # fmt: skip
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_HEAD_BYTES = 132  # preamble and prefix, PS3.10 §7.1


@dataclass(frozen=True)
class Case:
    """What may become a case: ``id`` is its path relative to FOLDER (a DICOM series' folder, or
    its first file where the folder holds more), ``folder`` the one that directly holds it."""

    id: str
    folder: PurePosixPath
    kind: Kind
    paths: tuple[Path, ...]

    def name_of(self, path: Path) -> str:
        """One of its files, relative to FOLDER."""
        return _text(self.folder / path.name)

    def read(self, decoders: DecoderPool, protocol: bool = True) -> Reading:
        """The volume; raises Unreadable. protocol: only what it can transform."""
        if self.kind == "nifti":
            return read_nifti(self.paths[0])
        if self.kind == "itk":
            return read_itk(self.paths[0])
        return read_dicom(self.paths, decoders, protocol)


@dataclass(frozen=True)
class Listing:
    """All that is below a folder, in path order. unreadable, others: (path, reason) of images that
    cannot be read and of what is no image."""

    cases: tuple[Case, ...]
    unreadable: tuple[tuple[str, str], ...]
    others: tuple[tuple[str, str], ...]


def find(folder: Path, without: Iterable[Path] = ()) -> Listing:
    """Walk ``folder``, links followed; files and folders of ``without`` are passed over.

    Only names and heads of files are read: what proves unreadable later is the reader's to say.
    """
    passed = {path.resolve() for path in without}
    cases: list[Case] = []
    unreadable: list[tuple[str, str]] = []
    others: list[tuple[str, str]] = []
    for directory, names in _walk(folder, passed):
        place = _relative(directory, folder)
        series: dict[str, list[Path]] = defaultdict(list)
        for name in names:
            path = directory / name
            where = _text(place / name)
            kind = _kind(name)
            if name.startswith("."):
                others.append((where, "hidden"))
            elif not path.is_file():
                known = kind is not None or name.lower().endswith(_DICOM_SUFFIXES)
                (unreadable if known else others).append((where, "not a regular file"))
            elif kind is not None:
                cases.append(Case(where, place, kind, (path,)))
            else:
                _place_dicom(path, where, series, unreadable, others)
        for paths in series.values():
            alone = len(series) == 1 and place != PurePosixPath()
            id_ = _text(place if alone else place / paths[0].name)
            cases.append(Case(id_, place, "dicom", tuple(paths)))
    ordered = sorted(cases, key=lambda case: PurePosixPath(case.id).parts)
    return Listing(tuple(ordered), tuple(sorted(unreadable)), tuple(sorted(others)))


def find_file(path: Path) -> Case | None:
    """One file as a case; None when it is no image. Of DICOM this file alone, not its series."""
    kind = _kind(path.name)
    if kind is None:
        with path.open("rb") as file:
            kind = "dicom" if looks_like_dicom(file.read(_HEAD_BYTES)) else None
    return None if kind is None else Case(path.name, PurePosixPath(), kind, (path,))


def halves(
    cases: Sequence[Case], subjects: Mapping[str, str] | None = None
) -> tuple[list[Case], list[Case]]:
    """(database, strangers), both in path order; cases come in path order.

    subjects: case id → subject; all cases of one go to the half of its first.
    """
    pools: dict[PurePosixPath, list[Case]] = defaultdict(list)
    for case in cases:
        pools[case.folder].append(case)
    pending = set(pools)
    while pending:
        deepest = max(pending, key=lambda folder: (len(folder.parts), folder.parts))
        pending.remove(deepest)
        if len(pools[deepest]) == 1 and deepest != PurePosixPath():
            pools[deepest.parent] += pools.pop(deepest)
            pending.add(deepest.parent)
    order = {case.id: number for number, case in enumerate(cases)}
    first: set[str] = set()
    for pool in pools.values():
        pool.sort(key=lambda case: order[case.id])
        first |= {case.id for case in pool[: len(pool) // 2]}
    half: dict[str, bool] = {}
    chosen: tuple[list[Case], list[Case]] = ([], [])
    for case in cases:
        subject = (subjects or {}).get(case.id)
        in_database = case.id in first
        if subject is not None:
            in_database = half.setdefault(subject, in_database)
        chosen[0 if in_database else 1].append(case)
    return chosen


def read_subjects(file: Path, listing: Listing) -> dict[str, str]:
    """``--subjects``: case id → subject, from columns ``case`` and ``subject``.

    UsageError: not such a table, or a case that is nothing below FOLDER.
    """
    names = _Names(listing, file)
    found: dict[str, str] = {}
    for case, subject in _rows(file, ("case", "subject")):
        for id_ in names.ids(case):
            if found.setdefault(id_, subject) != subject:
                raise UsageError(f"{file}: {case} has two subjects, {found[id_]} and {subject}")
    return found


def read_labels(file: Path, listing: Listing, levels: Sequence[str]) -> Labels:
    """``--retrieval``: from a column ``path`` and some of the columns ``levels``; a cell may be
    empty. UsageError as above, and when there is none of the columns or of the labels.
    """
    names = _Names(listing, file)
    said = dict((*listing.others, *listing.unreadable))
    found: dict[str, dict[str, str]] = {}
    lost: list[tuple[str, str]] = []
    heading, rows = _table(file, ("path",), f"path,{','.join(levels)}")
    columns = [level for level in levels if level in heading]
    if not columns:
        raise UsageError(f"{file}: none of the columns {', '.join(levels)} is there")
    for row in rows:
        given = {level: row[level] for level in columns if row[level]}
        ids = names.ids(row["path"])
        if not ids:
            lost.append((row["path"], said[str(PurePosixPath(row["path"]))]))
        for id_ in ids if given else ():
            if found.setdefault(id_, given) != given:
                raise UsageError(f"{file}: {row['path']} is labelled twice, and not alike")
    if not found:
        raise UsageError(f"{file} gives no image a label")
    return Labels(found, tuple(columns), tuple(lost))


def read_pairs(file: Path, listing: Listing) -> list[tuple[str, str]]:
    """``--known-pairs``: pairs of case ids, from columns ``a`` and ``b``; UsageError as above."""
    names = _Names(listing, file)
    pairs = []
    for a, b in _rows(file, ("a", "b")):
        pairs += [(one, other) for one in names.ids(a) for other in names.ids(b) if one != other]
    return pairs


@dataclass(frozen=True)
class Labels:
    """of: case id → level → label, only where one is given. levels: the columns that are there.
    lost: (path, reason) of labelled files that are no case."""

    of: Mapping[str, Mapping[str, str]]
    levels: tuple[str, ...]
    lost: tuple[tuple[str, str], ...]


class _Names:
    """What a table may call a case: its id, or (DICOM) any of its files."""

    def __init__(self, listing: Listing, file: Path) -> None:
        self._file = file
        self._ids = {case.id: case.id for case in listing.cases}
        for case in listing.cases:
            self._ids |= {case.name_of(path): case.id for path in case.paths}
        self._refused = {path for path, _ in (*listing.unreadable, *listing.others)}

    def ids(self, name: str) -> list[str]:
        """The case of that name; none where it is an input that became no case."""
        name = str(PurePosixPath(name))
        if name in self._ids:
            return [self._ids[name]]
        if name in self._refused:
            return []
        raise UsageError(
            f"{self._file}: {name} is no case below the folder; give paths relative to it, "
            f"such as {next(iter(self._ids), 'a/b.nii.gz')}"
        )


def _rows(file: Path, columns: tuple[str, str]) -> list[tuple[str, str]]:
    _, rows = _table(file, columns, ",".join(columns))
    return [(row[columns[0]], row[columns[1]]) for row in rows]


def _table(
    file: Path, needed: Sequence[str], wanted: str
) -> tuple[list[str], list[dict[str, str]]]:
    """Heading and rows of a CSV whose columns ``needed`` are there and filled in every row."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines)
            heading = list(table.fieldnames or ())
            if not set(needed) <= set(heading):
                raise UsageError(f"{file}: a CSV with a heading line {wanted} is expected")
            rows = [{name: (row[name] or "").strip() for name in heading} for row in table]
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file}: a CSV with a heading line {wanted} is expected") from error
    for number, row in enumerate(rows, 2):
        if not all(row[name] for name in needed):
            raise UsageError(f"{file}: line {number} lacks one of {','.join(needed)}")
    return heading, rows


def _walk(folder: Path, passed: set[Path]) -> Iterable[tuple[Path, list[str]]]:
    """Folders with their files, sorted; each real folder once, so a looping link ends."""
    seen: set[Path] = set()
    for name, folders, files in os.walk(folder, followlinks=True):
        directory = Path(name)
        real = directory.resolve()
        if real in seen or real in passed:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        yield directory, sorted(f for f in files if (directory / f).resolve() not in passed)


def _kind(name: str) -> Kind | None:
    lower = name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if lower.endswith(suffix)), None)


def _place_dicom(
    path: Path,
    where: str,
    series: dict[str, list[Path]],
    unreadable: list[tuple[str, str]],
    others: list[tuple[str, str]],
) -> None:
    """Into its series by SeriesInstanceUID (0020,000E); files without one are one series."""
    named = path.name.lower().endswith(_DICOM_SUFFIXES)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        unreadable.append((where, f"unreadable: {error.strerror}"))
        return
    if not looks_like_dicom(head):
        if named:
            unreadable.append((where, "unreadable: no DICM prefix and no plausible first element"))
        else:
            others.append((where, "not NIfTI, NRRD, MetaImage or DICOM"))
        return
    series[_series(path)].append(path)


def _series(path: Path) -> str:
    """(0020,000E) of a file, "" when it has none or cannot be parsed: the decoder will say why."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            meta = pydicom.filereader.read_file_meta_info(path)
            if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                # pydicom inflates without a limit.
                return str(read_dataset_file(path, Limits())[0].get("SeriesInstanceUID", ""))
        except NotScreenable:
            return ""
        except Exception:  # noqa: S110 - no meta information: read as a bare data set below
            pass
        try:
            header = pydicom.dcmread(
                path, force=True, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]
            )
            return str(header.get("SeriesInstanceUID", ""))
        except Exception:
            return ""


def _relative(directory: Path, folder: Path) -> PurePosixPath:
    return PurePosixPath(directory.relative_to(folder).as_posix())


def _text(path: PurePosixPath) -> str:
    """A path that can be written anywhere: bytes that are no UTF-8 are replaced."""
    return os.fsencode(str(path)).decode("utf-8", "replace")
