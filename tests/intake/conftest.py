"""Fixtures for deliveries made of generated slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_factory import dicom_slice, save
from diptych.intake.catalogue import Catalogue
from diptych.intake.limits import Limits
from diptych.intake.reader import quiet
from diptych.intake.take import take_in


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    quiet()


@pytest.fixture(scope="session")
def one_slice(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save(dicom_slice(), tmp_path_factory.mktemp("slice") / "1.dcm").read_bytes()


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[Callable[..., Catalogue]]:
    """Takes inputs in, with one reader unless told otherwise, into ``out``."""
    open_ones: dict[str, Catalogue] = {}

    def take(*inputs: object, out: str = "out", readers: int = 1, **limits: int) -> Catalogue:
        if out in open_ones:
            open_ones.pop(out).close()
        given = [str(each) for each in inputs]
        open_ones[out] = take_in(given, tmp_path / out, Limits(**limits), readers)
        return open_ones[out]

    yield take
    for each in open_ones.values():
        each.close()
