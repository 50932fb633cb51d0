"""Deliveries as real files, with copies of every kind planted, and the truth about each series.

    scans → what is owned, the test set, and rounds of the delivery, each with everything in it

Every round has scans of its own, so a larger delivery holds more strangers, not the same again.
Nothing here is a patient: scans are phantoms, or what the caller gives.
"""

from __future__ import annotations

import copy
import csv
import io
import tarfile
import tomllib
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import BasicTextSRStorage, EncapsulatedPDFStorage

from dicom_factory import save
from diptych.demo.copies import new_uids
from diptych.demo.phantoms import Kind, Recipe, generate
from diptych.demo.series import phantom_series, uid, write_series
from diptych.evaluate import cases
from diptych.evaluate.reading import Unreadable
from diptych.judge.ladder import Relation
from diptych.screen.findings import COPIES
from diptych.volume.decoders import DecoderPool
from diptych.volume.value import Volume
from screen import copying
from screen.copying import EXACT, NEAR, PARTS

Series = list[Dataset]
SHAPE = (20, 96, 96)
SCANS_PER_ROUND = 22
LEAST_SLICES, MOST_SLICES = 8, 150
"""Of a real scan: half of fewer is hardly a part, and more only takes time."""

KINDS: tuple[Kind, ...] = ("chest", "abdomen", "head", "limb")

EXACTLY = frozenset({Relation.EXACT})
NEARLY = frozenset({Relation.NEAR_DUPLICATE, Relation.PARTIAL})
PARTLY = frozenset({Relation.PARTIAL})
NOT_A_COPY = frozenset({Relation.UNIQUE, Relation.RELATED})
NOT_SCREENABLE = frozenset({Relation.NOT_SCREENABLE})


@dataclass(frozen=True)
class Scan:
    """A series as its scanner wrote it: single frames in slice order, and whose it is."""

    name: str
    patient: str
    series: Series


@dataclass(frozen=True)
class Planted:
    """A series of the delivery.

    place, kind, files, slices: as the catalogue has them; the place is relative to the delivery.
    scan, patient: of what it was made; made: how. relations: what it may be to that scan, where
    that is owned or in the test set. content: equal where the stored values are.
    """

    place: str
    kind: str
    scan: str
    patient: str
    made: str
    relations: frozenset[Relation]
    content: str
    files: int
    slices: int
    vendor: str
    split: str
    price: Decimal


@dataclass(frozen=True)
class Delivery:
    """What was written and what is true of it. collections: name → scans in it. outcomes: status
    or ``status: reason`` → entries. files: on disk; absent: named by the manifest, not there."""

    folder: Path
    manifest: Path
    owned: Path
    test_set: Path
    series: tuple[Planted, ...]
    collections: Mapping[str, frozenset[str]]
    outcomes: Mapping[str, int]
    files: int
    absent: int

    def document(self) -> dict[str, Any]:
        """As JSON: for each series also its partners, by place."""
        rows = [
            {
                **asdict(one),
                "relations": sorted(one.relations),
                "price": str(one.price),
                "partners": [other.place for other in self.partners(one)],
            }
            for one in self.series
        ]
        return {
            "series": rows,
            "collections": {name: sorted(scans) for name, scans in self.collections.items()},
            "outcomes": dict(self.outcomes),
            "files": self.files,
            "absent": self.absent,
        }

    def beside(self, one: Planted, collection: str) -> frozenset[Relation]:
        """What ``one`` may be to "owned" or "test-set"."""
        if one.relations == NOT_SCREENABLE or one.scan in self.collections[collection]:
            return one.relations
        return NOT_A_COPY

    def inside(self, one: Planted, earlier: Sequence[Planted]) -> frozenset[Relation]:
        """What ``one`` may be to the delivery when ``earlier`` ones were judged before it."""
        if one.relations == NOT_SCREENABLE:
            return NOT_SCREENABLE
        same = [other for other in earlier if other.scan == one.scan]
        same = [other for other in same if other.relations != NOT_SCREENABLE]
        if any(other.content == one.content for other in same):
            return EXACTLY
        return COPIES - EXACTLY if same else NOT_A_COPY

    def partners(self, one: Planted) -> list[Planted]:
        """The other series of the same scan."""
        return [other for other in self.series if other.scan == one.scan and other is not one]


def phantom_scans(seed: int, shape: tuple[int, int, int] = SHAPE) -> Iterator[Scan]:
    """Without end, each of a patient of its own; kinds take turns."""
    spacing = (120 / shape[0], 290 / shape[1], 290 / shape[2])
    number = 0
    while True:
        kind = KINDS[number % len(KINDS)]
        name = f"{kind}-{seed}-{number:04d}"
        recipe = Recipe(name, kind, 10_000 * seed + number, shape, spacing)
        yield Scan(name, f"P{seed}-{number:04d}", phantom_series(generate(recipe), number))
        number += 1


def scans_of(data: Path, split: Path, sets: Sequence[str], decoders: DecoderPool) -> Iterator[Scan]:
    """Real ones: of each patient of a split (models/split.toml) the first case that fits, anatomies
    in turns; written as a classic series, values that 16 bits do not hold in 4,096 steps."""
    listed: dict[str, list[dict[str, str]]] = defaultdict(list)
    for entry in tomllib.loads(split.read_text())["case"]:
        if entry["set"] in sets:
            listed[entry["anatomy"]].append(entry)
    found = {case.id: case for case in cases.find(data).cases}
    seen: set[str] = set()
    for entry in filter(None, chain.from_iterable(zip_longest(*listed.values()))):
        if entry["patient"] in seen or entry["path"] not in found:
            continue
        try:
            volume = found[entry["path"]].read(decoders).volume
            series = _as_series(volume, entry)
        except (Unreadable, ValueError):
            continue
        if LEAST_SLICES <= len(series) <= MOST_SLICES:
            seen.add(entry["patient"])
            yield Scan(entry["id"], entry["patient"], series)


def _as_series(volume: Volume, entry: Mapping[str, str]) -> Series:
    low, high = volume.extremes
    values = volume.array
    if low < -(2**15) or high >= 2**15 or (values != np.rint(values)).any():
        values = (values - low) * (4095 / (high - low))
    pixels = np.rint(values).astype(np.int16)
    is_ct = entry["modality"] == "CT" and pixels.min() >= -1024 and pixels.max() <= 3071
    return write_series(pixels, volume.affine, "CT" if is_ct else "MR", entry["id"])


def plant(
    folder: Path, seed: int = 1, rounds: int = 1, scans: Iterator[Scan] | None = None
) -> Delivery:
    """Write ``folder``/delivery, /owned and /test-set. scans: at least SCANS_PER_ROUND a round, of
    different patients; a round stops being planted with the last whole set of them."""
    writer = _Writer(folder, seed)
    scans = phantom_scans(seed) if scans is None else scans
    for number in range(rounds):
        some = [scan for scan, _ in zip(scans, range(SCANS_PER_ROUND), strict=False)]
        if len(some) < SCANS_PER_ROUND:
            break
        _round(writer.below(f"batch-{number:02d}", "acme" if number % 2 else "bmed"), some)
    return writer.finished()


def _round(to: _Round, scans: list[Scan]) -> None:
    _as_files(to, *scans[:4])
    _processed(to, *scans[4:8])
    _in_collections(to, *scans[8:14])
    _strangers(to, *scans[14:22])
    _beside_images(to, scans[14])


def _as_files(to: _Round, a: Scan, b: Scan, c: Scan, d: Scan) -> None:
    """Copies that keep the pixels, in every wrapping."""
    to.dicom("exam-1/CT", a, "as it was", EXACTLY, a.series)
    to.dicom("again/exam-1", a, "verbatim", EXACTLY, a.series, "IM{:06d}".format)
    to.dicom("a-new", a, "new UIDs", EXACTLY, EXACT["new UIDs"](a.series, 1))
    to.archive("archives/rest.tar.gz", a, EXACT["de-identified"](a.series, 2))
    to.dicom("exam-2", b, "as it was", EXACTLY, b.series, "{:04d}".format)
    for name in ("JPEG-LS", "JPEG 2000", "RLE"):
        to.dicom(f"b-{name}", b, name, EXACTLY, EXACT[name](b.series, 3))
    for name in ("JPEG", "JPEG 2000, lossy"):
        to.dicom(f"b-{name}", b, name, NEARLY, NEAR[name](b.series, 4), content=name)
    to.medium("medium", c)
    turned = copying.nifti(c.series, turned=True)
    to.file("nifti/c.nii.gz", "nifti", c, "NIfTI, turned", NEARLY, copying.packed(turned), "turned")
    same = "" if c.series[0].get("RescaleIntercept", 0) == 0 else "modality values"
    for name, kind in (("c.nrrd", "nrrd"), ("c.mha", "metaimage")):
        path = copying.itk(c.series, to.path(name))
        relations = NEARLY if same else EXACTLY
        to.file(name, kind, c, kind, relations, path.read_bytes(), same)
    to.dicom("exam-4", d, "as it was", EXACTLY, d.series)
    to.dicom("d-enhanced", d, "multi-frame", EXACTLY, [copying.enhanced(d.series, 5)])
    header, values = copying.pair(copying.nifti(d.series, turned=False))
    to.file("nifti/d.hdr", "nifti", d, "NIfTI, as stored", EXACTLY, header)
    to.other("nifti/d.img", values, "not-an-image: detached-data")


def _processed(to: _Round, e: Scan, f: Scan, g: Scan, h: Scan) -> None:
    """Copies with other pixels, and parts."""
    to.dicom("e", e, "as it was", EXACTLY, e.series)
    for name in ("rotated, noise", "shifted", "blurred"):
        to.dicom(f"e-{name}", e, name, NEARLY, NEAR[name](e.series, 6), content=name)
    to.dicom("f", f, "as it was", EXACTLY, f.series)
    for name in ("noisy", "resampled", "cropped"):
        to.dicom(f"f-{name}", f, name, NEARLY, NEAR[name](f.series, 7), content=name)
    to.dicom("g", g, "as it was", EXACTLY, g.series)
    for name, part in PARTS.items():
        to.dicom(f"g-{name}", g, name, PARTLY, part(g.series, 8), content=name)
    to.dicom("h", h, "as it was", EXACTLY, h.series)


def _in_collections(
    to: _Round, j: Scan, k: Scan, m: Scan, n: Scan, p: Scan, other_exam: Scan
) -> None:
    """Copies of what is owned and of the test set, and another exam of an owned patient."""
    for scan in (j, k, m, p):
        to.collect("owned", scan)
    to.collect("test-set", n)
    to.dicom("j-owned", j, "de-identified", EXACTLY, EXACT["de-identified"](j.series, 9))
    to.dicom("k-owned", k, "rotated", NEARLY, NEAR["rotated, noise"](k.series, 10), content="r")
    part = PARTS["every second slice"](m.series, 11)
    to.dicom("m-owned", m, "every second slice", PARTLY, part, content="second")
    to.dicom("n-tested", n, "JPEG 2000", EXACTLY, EXACT["JPEG 2000"](n.series, 12))
    turned = copying.packed(copying.nifti(n.series, turned=True))
    to.file("n-tested.nii.gz", "nifti", n, "NIfTI, turned", NEARLY, turned, "turned")
    later = Scan(other_exam.name, p.patient, _of_patient(other_exam.series, p))
    to.dicom("p-later", later, "same patient, other exam", EXACTLY, later.series)


def _strangers(to: _Round, *scans: Scan) -> None:
    """As they come: no copy of anything. Of the first only a screenshot is delivered."""
    shot, bids, series_4d, *others = scans
    number = sum(map(ord, shot.name))
    capture = copying.secondary_capture(shot.series, number)
    path = save(capture, to.path("captures/shot"))
    to.file("captures", "dicom", shot, "screenshot", NEARLY, path.read_bytes(), "shot", "shot")
    place = "bids/sub-01/anat/sub-01_T1w.nii.gz"
    content = copying.packed(copying.nifti(bids.series, turned=True))
    to.file(place, "nifti", bids, "NIfTI, turned", NEARLY, content, "turned")
    to.other(place.replace(".nii.gz", ".json"), b'{"Modality": "MR"}', "not-an-image: sidecar")
    to.other("bids/dataset_description.json", b'{"Name": "x"}', "not-an-image: json")
    content = copying.packed(copying.nifti(series_4d.series, turned=False, volumes=3))
    to.file("bold.nii.gz", "nifti", series_4d, "4D", NEARLY, content, "4D", volumes=3)
    for number, scan in enumerate(others):
        to.dicom(f"s{number}", scan, "as it was", EXACTLY, scan.series)


def _beside_images(to: _Round, scan: Scan) -> None:
    """What is no image, damaged, hidden, empty, or not followed."""
    for name, sop_class, words in (
        ("report", BasicTextSRStorage, "structured report"),
        ("letter.dcm", EncapsulatedPDFStorage, "encapsulated document"),
    ):
        path = copying.no_image(sop_class, to.path(f"papers/{name}"), sum(map(ord, scan.name)))
        to.other(f"papers/{name}", path.read_bytes(), f"not-an-image: {words}")
    to.other("papers/terms.pdf", b"%PDF-1.7\n", "not-an-image: pdf")
    to.other("papers/photo.jpg", b"\xff\xd8\xff\xe0" + bytes(99), "not-screenable: picture")
    to.other("README.txt", b"As agreed.\n", "not-an-image: other")
    to.other(".DS_Store", b"\0\0\0\1Bud1", "not-an-image: other")
    to.other("._0001.dcm", b"\0\5\x16\7\0\2", "not-an-image: apple-double")
    to.other("garbage.dcm", b"\xff" * 700, "unreadable: not-what-its-name-says")
    to.other("nothing.dcm", b"", "unreadable: empty-file")
    to.other("nothing", b"", "not-an-image: empty-file")
    to.other("locked.rar", b"Rar!\x1a\x07\0" + bytes(99), "refused: unsupported-archive")
    to.link("latest", "exam-1")
    cut = copying.cut_off(scan.series)
    to.file("cut/dicom", "dicom", scan, "cut off", NOT_SCREENABLE, cut, "cut", "0001", slices=1)
    whole = copying.packed(copying.nifti(scan.series, turned=True))
    half = whole[: len(whole) // 2]
    to.file("cut/half.nii.gz", "nifti", scan, "cut off", NOT_SCREENABLE, half, "cut")


def _of_patient(series: Series, patient: Scan) -> Series:
    """Under the other patient's name and number; still another study, at another date."""
    made = copy.deepcopy(series)
    for instance in made:
        for keyword in ("PatientName", "PatientID", "PatientBirthDate"):
            setattr(instance, keyword, patient.series[0].get(keyword, ""))
    return made


@dataclass
class _Writer:
    folder: Path
    seed: int
    planted: list[Planted] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    collections: dict[str, set[str]] = field(
        default_factory=lambda: {"owned": set(), "test-set": set()}
    )
    lines: list[tuple[str, str, str, str]] = field(default_factory=list)

    def below(self, name: str, vendor: str) -> _Round:
        return _Round(self, name, vendor)

    def finished(self) -> Delivery:
        """With a manifest that also names what is not there."""
        delivery = self.folder / "delivery"
        manifest = delivery / "manifest.csv"
        self.lines.append(("lost/IM0001", "acme", "train", "1"))
        with manifest.open("w", newline="") as target:
            csv.writer(target).writerows([("path", "vendor", "split", "price"), *self.lines])
        self.outcomes["not-an-image: other"] += 1
        return Delivery(
            folder=delivery,
            manifest=manifest,
            owned=self.folder / "owned",
            test_set=self.folder / "test-set",
            series=tuple(self.planted),
            collections={name: frozenset(scans) for name, scans in self.collections.items()},
            outcomes=self.outcomes,
            files=sum(not path.is_dir() or path.is_symlink() for path in delivery.rglob("*")),
            absent=1,
        )


@dataclass
class _Round:
    writer: _Writer
    name: str
    vendor: str

    def path(self, place: str) -> Path:
        path = self.writer.folder / "delivery" / self.name / place
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def dicom(
        self,
        place: str,
        scan: Scan,
        made: str,
        relations: frozenset[Relation],
        series: Series,
        names: Callable[[int], str] = "{:04d}.dcm".format,
        content: str = "",
    ) -> None:
        """A folder of instances."""
        files = copying.files_of(series, names)
        for name, raw in files.items():
            self.path(f"{place}/{name}").write_bytes(raw)
        slices = sum(int(instance.get("NumberOfFrames") or 1) for instance in series)
        self._plant(place, "dicom", scan, made, relations, content, len(files), slices)

    def file(
        self,
        place: str,
        kind: str,
        scan: Scan,
        made: str,
        relations: frozenset[Relation],
        raw: bytes,
        content: str = "",
        name: str = "",
        volumes: int = 1,
        slices: int = 0,
    ) -> None:
        """A series in one file: ``place`` itself, or ``name`` in it."""
        self.path(f"{place}/{name}" if name else place).write_bytes(raw)
        slices = slices or (1 if name else volumes * len(scan.series))
        self._plant(place, kind, scan, made, relations, content, 1, slices)

    def archive(self, place: str, scan: Scan, series: Series) -> None:
        """A zip in a packed tar, and in the zip the series and a text."""
        inner = io.BytesIO()
        files = {f"s/{name}": raw for name, raw in copying.files_of(series).items()}
        with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, raw in {**files, "note.txt": b"as discussed"}.items():
                zipped.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), raw)
        outer = io.BytesIO()
        with tarfile.open(fileobj=outer, mode="w") as archive:
            member = tarfile.TarInfo("more/inner.zip")
            member.size = inner.tell()
            archive.addfile(member, io.BytesIO(inner.getvalue()))
        self.path(place).write_bytes(copying.packed(outer.getvalue()))
        self.writer.outcomes.update({"opened": 2, "not-an-image: other": 1})
        inside = f"{place}!/more/inner.zip!/s"
        self._plant(inside, "dicom", scan, "in archives", EXACTLY, "", len(files), len(series))

    def medium(self, place: str, scan: Scan) -> None:
        """A DICOMDIR and its files, laid out as pydicom does."""
        files = FileSet()
        for instance in new_uids(scan.series, 13):
            files.add(instance)
        files.UID = uid("medium", scan.name)
        files.write(self.path(f"{place}/DICOMDIR").parent)
        self.writer.outcomes["not-an-image: media-directory"] += 1
        found = {path.parent for path in self.path(place).rglob("IM*")}
        (inside,) = {path.relative_to(self.path("")).as_posix() for path in found}
        count = len(scan.series)
        self._plant(inside, "dicom", scan, "on a medium", EXACTLY, "", count, count)

    def other(self, place: str, raw: bytes, outcome: str) -> None:
        self.path(place).write_bytes(raw)
        self.writer.outcomes[outcome] += 1

    def link(self, place: str, target: str) -> None:
        self.path(place).symlink_to(target)
        self.writer.outcomes["refused: link"] += 1

    def collect(self, collection: str, scan: Scan) -> None:
        """Into what is owned, or the test set; not into the delivery."""
        folder = self.writer.folder / collection / scan.name
        folder.mkdir(parents=True)
        for name, raw in copying.files_of(scan.series).items():
            (folder / name).write_bytes(raw)
        self.writer.collections[collection].add(scan.name)

    def _plant(
        self,
        place: str,
        kind: str,
        scan: Scan,
        made: str,
        relations: frozenset[Relation],
        content: str,
        files: int,
        slices: int,
    ) -> None:
        number = len(self.writer.planted)
        split = ("train", "validation", "test")[number % 3]
        price = Decimal(2 + number % 5)
        whole = f"{self.name}/{place}"
        self.writer.planted.append(
            Planted(
                place=whole, kind=kind, scan=scan.name, patient=scan.patient, made=made,
                relations=relations, content=f"{scan.name} {content}".strip(), files=files,
                slices=slices, vendor=self.vendor, split=split, price=price,
            )
        )  # fmt: skip
        self.writer.lines.append((whole.partition("!")[0], self.vendor, split, str(price)))
        self.writer.outcomes["readable"] += files
