"""Files that are away for a while: on a disk that was not mounted, in a folder nobody may read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from diptych.audit import blobs, migrate
from diptych.audit.store import Store
from diptych.receive.reconcile import Reconciled, reconcile
from diptych.receive.spool import Spool

LIMIT = 1 << 20


class Archive:
    """A database and a spool with one acknowledged instance."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(f"sqlite:///{folder / 'diptych.sqlite3'}")
        migrate.upgrade(self.store)
        self.spool = Spool(folder / "spool", ("default",))
        self.spool.prepare()
        self.locator = self.spool.locator("default")
        self.path = self.spool.path(self.locator)
        shutil.copy(str(get_testdata_file("CT_small.dcm")), self.path)
        assert self.start() == Reconciled(1, 0, 0, 0)

    def start(self) -> Reconciled:
        self.spool.prepare()
        return reconcile(self.store, self.spool, LIMIT)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    made = Archive(tmp_path)
    yield made
    made.store.close()


def test_after_a_start_without_the_spools_disk_the_files_are_back_when_it_is(
    archive: Archive,
) -> None:
    elsewhere = archive.spool.folder.with_name("elsewhere")
    archive.spool.folder.rename(elsewhere)
    assert archive.start().lost == 1
    shutil.rmtree(archive.spool.folder)
    elsewhere.rename(archive.spool.folder)
    assert archive.start() == Reconciled(1, 0, 0, 0)
    assert archive.path.exists()
    assert blobs.kept(archive.store, [archive.locator]) == {archive.locator}


def test_what_was_forgotten_while_its_file_was_away_does_not_come_back(archive: Archive) -> None:
    elsewhere = archive.spool.folder.with_name("elsewhere")
    archive.path.rename(elsewhere)
    assert archive.start().lost == 1
    with archive.store.write() as connection:
        connection.exec_driver_sql("UPDATE blob SET sha256 = NULL")
    elsewhere.rename(archive.path)
    assert archive.start() == Reconciled(0, 0, 0, 0)
    assert not archive.path.exists()


def test_a_folder_that_cannot_be_read_does_not_mean_that_its_files_are_gone(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def broken(path: str) -> object:
        if str(path) == str(archive.path.parent):
            raise OSError(5, "Input/output error", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(OSError, match="Input/output error"):
        archive.start()
    assert blobs.kept(archive.store, [archive.locator]) == {archive.locator}
