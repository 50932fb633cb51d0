"""One archive with something of every kind in it, and the real commands in a subprocess."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, EncapsulatedPDFStorage

import forked
from cli.command_line import (
    COMMAND_SECONDS,
    Archive,
    Diptych,
    command,
    environment,
    judged,
    renamed,
)
from running import Daemon, instance, send, series


@pytest.fixture(scope="session")
def diptych(tmp_path_factory: pytest.TempPathFactory) -> Diptych:
    """Runs a command in an empty folder; whatever happens, the user never sees a traceback."""
    nowhere = tmp_path_factory.mktemp("nowhere")

    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        done = forked.run(
            command(*arguments),
            env=environment(**more),
            cwd=nowhere,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        assert not any(nowhere.iterdir()), "a command left something in the working directory"
        return done

    return run


@pytest.fixture(scope="session")
def deposited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An archive whose daemon has judged everything and was stopped."""
    daemon = Daemon(tmp_path_factory.mktemp("deposited") / "data")
    original = series(6, seed=1)
    archive = Archive(
        daemon,
        original,
        renamed(original),
        series(6, seed=2),
        _no_image(BasicTextSRStorage, "SR"),
        _no_image(EncapsulatedPDFStorage, "DOC"),
        _without_pixels(),
    )
    try:
        daemon.start()
        for number, one in enumerate(
            (
                archive.original,
                archive.copy,
                archive.stranger,
                [archive.report],
                [archive.document],
                [archive.without_pixels],
            ),
            1,
        ):
            assert set(send(daemon.port, one)) == {0}
            judged(daemon, number)
        assert daemon.stop() == 0
        yield archive
    finally:
        daemon.end()


@pytest.fixture
def stopped(deposited: Archive, tmp_path: Path) -> Path:
    """A copy of the archive's folder, for a test alone; no daemon runs on it."""
    return shutil.copytree(deposited.data, tmp_path / "data")


@pytest.fixture(scope="module")
def archive(deposited: Archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """A copy of the archive with a daemon running on it; what one file adds no other sees."""
    data = tmp_path_factory.mktemp("running") / "data"
    shutil.copytree(deposited.data, data)
    daemon = Daemon(data)
    try:
        daemon.start()
        yield Archive(daemon, *(getattr(deposited, name) for name in _SENT))
    finally:
        daemon.end()


_SENT = ("original", "copy", "stranger", "report", "document", "without_pixels")


def _no_image(sop_class: str, modality: str) -> Dataset:
    data_set = _without_pixels()
    data_set.SOPClassUID, data_set.Modality = sop_class, modality
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(data_set, keyword)
    return data_set


def _without_pixels() -> Dataset:
    data_set = instance(seed=9)
    del data_set.PixelData
    return data_set
