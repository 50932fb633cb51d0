"""Cases of the data folder as volumes: for training and measuring only.

The daemon has its own, far more careful way from DICOM to volumes (``diptych.volume``); here one
line of ``split.toml`` becomes one float32 array (slice, row, column), slices being the native
acquisition planes, turned and flipped in plane to the closest LPS axes.
"""

from __future__ import annotations

import gzip
import tomllib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom

HERE = Path(__file__).resolve().parent
SETS = ("train", "calibration", "evaluation")
SMALLEST = 28
"""Pixels: smaller planes hold nothing that a 112-pixel input could show."""


@dataclass(frozen=True)
class Case:
    """One line of the split."""

    id: str
    set: str
    patient: str
    modality: str
    anatomy: str
    path: str
    series: str = ""
    note: str = ""


def read_split(path: Path = HERE / "split.toml") -> list[Case]:
    """Every case of the split; raises ValueError when a patient serves two purposes."""
    cases = [Case(**entry) for entry in tomllib.loads(path.read_text())["case"]]
    purpose: dict[str, str] = {}
    for case in cases:
        if case.set not in SETS:
            raise ValueError(f"{case.id}: set is one of {SETS}, found {case.set!r}")
        if purpose.setdefault(case.patient, case.set) != case.set:
            raise ValueError(f"{case.patient} is in {purpose[case.patient]} and in {case.set}")
    return cases


def load(case: Case, data: Path) -> np.ndarray:
    """The case as float32 (slice, row, column); raises ValueError when there is no image."""
    path = data / case.path
    if path.name.endswith(".nii.gz"):
        volume = _nifti(path)
    elif path.suffix == ".nrrd":
        volume = _nrrd(path)
    else:
        volume = _dicom(path, case.series)
    if volume.ndim != 3 or min(volume.shape[1:]) < SMALLEST:
        raise ValueError(f"{case.id}: not a stack of planes, found {volume.shape}")
    return np.ascontiguousarray(volume, np.float32)


def _nifti(path: Path) -> np.ndarray:
    image = nibabel.load(path)
    array = np.asarray(image.dataobj, np.float32)
    array = array[..., 0] if array.ndim == 4 else array
    lps = np.diag([-1.0, -1.0, 1.0]) @ image.affine[:3, :3]
    # array axes (i, j, k): columns run along i, rows along j
    return _orient(array.transpose(2, 1, 0), along_row=lps[:, 0], along_column=lps[:, 1])


def _nrrd(path: Path) -> np.ndarray:
    """A gzip-encoded little-endian NRRD of 16-bit numbers in LPS space, as those at hand."""
    header, _, body = path.read_bytes().partition(b"\n\n")
    fields = dict(
        line.split(": ", 1) for line in header.decode("latin-1").splitlines() if ": " in line
    )
    if (fields["encoding"], fields["space"]) != ("gzip", "left-posterior-superior"):
        raise ValueError(f"{path.name}: encoding {fields['encoding']}, space {fields['space']}")
    kind = {"short": "<i2", "unsigned short": "<u2"}[fields["type"]]
    columns, rows, slices = (int(n) for n in fields["sizes"].split())
    array = np.frombuffer(gzip.decompress(body), kind).reshape(slices, rows, columns)
    axes = [
        np.array([float(x) for x in vector.strip("()").split(",")])
        for vector in fields["space directions"].split()
    ]
    return _orient(array.astype(np.float32), along_row=axes[0], along_column=axes[1])


def _dicom(path: Path, series: str) -> np.ndarray:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    planes: dict[tuple, dict[float, np.ndarray]] = {}
    for file in files:
        if not file.is_file():
            continue
        try:
            dataset = pydicom.dcmread(file, force=True)
            if str(dataset.get("SeriesInstanceUID", "")) != series or "PixelData" not in dataset:
                continue
            for key, place, plane in _frames(dataset):
                # the first plane at a place: later ones are other echoes, b-values or times
                planes.setdefault(key, {}).setdefault(place, plane)
        except Exception as error:  # torture files are in these folders on purpose
            print(f"{file.name}: left out ({type(error).__name__}: {error})")
    if not planes:
        raise ValueError(f"{path.name}: no image of series {series}")
    key = max(planes, key=lambda k: len(planes[k]))
    stack = np.stack([planes[key][place] for place in sorted(planes[key])])
    orientation = np.array(key[2:], float)
    if orientation.size == 6 and orientation.any():
        return _orient(stack, along_row=orientation[:3], along_column=orientation[3:])
    return stack


def _frames(dataset: pydicom.Dataset):
    """(rows, columns and orientation; place along the normal; rescaled plane) for every frame."""
    pixels = np.asarray(dataset.pixel_array, np.float32)
    mosaic = "MOSAIC" in list(dataset.get("ImageType", []))
    if mosaic:
        pixels = _untile(pixels, int(dataset[0x0019, 0x100A].value))
    if pixels.ndim == 2:
        pixels = pixels[np.newaxis]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    for index, plane in enumerate(pixels):
        groups = dataset.get("PerFrameFunctionalGroupsSequence")
        frame = groups[index] if groups else None

        def find(name: str, keyword: str, default, frame=frame):
            for level in (frame, shared):
                if level is not None and name in level and keyword in level[name].value[0]:
                    return level[name].value[0][keyword].value
            return dataset.get(keyword, default)

        orientation = [
            round(float(x), 3)
            for x in find("PlaneOrientationSequence", "ImageOrientationPatient", [])
        ]
        position = find("PlanePositionSequence", "ImagePositionPatient", None)
        slope = float(find("PixelValueTransformationSequence", "RescaleSlope", 1) or 1)
        offset = float(find("PixelValueTransformationSequence", "RescaleIntercept", 0) or 0)
        place = float(dataset.get("InstanceNumber") or 0) + index
        if len(orientation) == 6 and position is not None and not mosaic:
            normal = np.cross(orientation[:3], orientation[3:])
            place = round(float(normal @ np.array(position, float)), 2)
        yield (*plane.shape, *orientation), place, plane * slope + offset


def _untile(mosaic: np.ndarray, count: int) -> np.ndarray:
    """A Siemens mosaic: a square of ceil(sqrt(count)) tiles a side."""
    side = int(np.ceil(np.sqrt(count)))
    rows, columns = mosaic.shape[0] // side, mosaic.shape[1] // side
    tiles = mosaic.reshape(side, rows, side, columns).transpose(0, 2, 1, 3)
    return tiles.reshape(-1, rows, columns)[:count]


def _orient(stack: np.ndarray, along_row: np.ndarray, along_column: np.ndarray) -> np.ndarray:
    """Columns along the earlier LPS axis, rows along the later one, both in rising direction."""
    horizontal, vertical = int(np.abs(along_row).argmax()), int(np.abs(along_column).argmax())
    if along_row[horizontal] < 0:
        stack = stack[:, :, ::-1]
    if along_column[vertical] < 0:
        stack = stack[:, ::-1]
    return stack.transpose(0, 2, 1) if horizontal > vertical else stack
