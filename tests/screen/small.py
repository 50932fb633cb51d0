"""Small deliveries on disk: phantoms of a few slices, and copies of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_factory import save
from diptych import config
from diptych.config import Config
from diptych.demo.copies import new_uids, rotated_noisy
from diptych.demo.phantoms import Kind, Recipe, generate
from diptych.demo.series import phantom_series
from diptych.screen.findings import Screening, Series
from diptych.screen.screening import Wanted, screen

Scan = list[Dataset]
KINDS: tuple[Kind, ...] = ("head", "abdomen", "chest", "limb")


def scan(seed: int) -> Scan:
    """A body of its own: 16 slices."""
    recipe = Recipe("one", KINDS[seed % 4], seed, (16, 96, 96), (5.0, 2.5, 2.5))
    return list(phantom_series(generate(recipe), seed))


def copy_of(scan: Scan, seed: int) -> Scan:
    """The same pixels under new UIDs."""
    return list(new_uids(scan, seed))


def processed(scan: Scan, seed: int) -> Scan:
    return list(rotated_noisy(scan, seed, degrees=4.0))


def write(folder: Path, instances: Scan) -> Path:
    folder.mkdir(parents=True)
    for number, instance in enumerate(instances):
        save(instance, folder / f"IM{number:04d}", str(instance.file_meta.TransferSyntaxUID))
    return folder


def settings(folder: Path) -> Config:
    return config.load(None, {"data": str(folder)})


def screened(
    chosen: Config, name: str, *inputs: Path, against: tuple[str, ...] | None = None
) -> Screening:
    wanted = Wanted(name, "acme", tuple(map(str, inputs)), against)
    with screen(chosen, wanted) as done:
        return done.screening


def at(screening: Screening, place: str) -> Series:
    """The one series whose place ends so."""
    (found,) = [one for one in screening.series if one.place.endswith(place)]
    return found


def said(series: Series) -> dict[str, tuple[str, int | None]]:
    """Collection → relation, and the series (of a delivery) or the case that it is of."""
    assert series.principal is not None
    return {
        match.collection: (
            match.relation.value,
            None if match.other is None else match.other.ref.series or match.other.ref.case,
        )
        for match in series.principal.matches
    }


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))
