"""A small archive, judged for real, and the command's work on it in this process."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from diptych.calibration.figures import Figures
from diptych.calibration.report import Setting
from diptych.calibration.run import Options, calibrate
from diptych.config import Config
from diptych.demo import phantoms
from diptych.demo.series import phantom_series
from judged import Archive

Calibrate = Callable[..., tuple[Figures, Setting]]


def body(kind: phantoms.Kind, number: int, slices: int = 8) -> list[Dataset]:
    recipe = phantoms.Recipe(
        f"{kind}-{number}", kind, 70 + number, (slices, 96, 96), (6.0, 3.0, 3.0)
    )
    return phantom_series(phantoms.generate(recipe), seed=900 + number + len(kind))


def of_patient(series: list[Dataset], name: str) -> list[Dataset]:
    changed = deepcopy(series)
    for data_set in changed:
        data_set.PatientID = name
    return changed


@pytest.fixture(scope="session")
def bodies() -> dict[str, list[Dataset]]:
    kinds: tuple[phantoms.Kind, ...] = ("abdomen", "chest", "head", "limb")
    return {kind: body(kind, 0) for kind in kinds}


@pytest.fixture
def calibrated(own: Archive, tmp_path: Path) -> Calibrate:
    def run(
        transforms: str = "none",
        sample: int | None = None,
        seed: int = 0,
        policy: str | None = None,
    ) -> tuple[Figures, Setting]:
        options = Options(transforms, sample, seed, policy)
        return calibrate(Config(data=tmp_path), own.store, options)

    return run
