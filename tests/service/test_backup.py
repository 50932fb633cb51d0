"""A backup taken while series arrive, the data folder destroyed, and what comes back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

import forked
from diptych import backup
from diptych.audit import receipts
from diptych.audit.store import Store
from diptych.config import Config
from diptych.data_folder import open_store
from diptych.errors import StoreError
from diptych.receive import journal
from diptych.receive.journal import Journal
from diptych.receive.keeper import Arrival, Keeper
from diptych.receive.spool import Spool, data_set_offset
from diptych.service import open_folder
from running import Daemon, send, series

CT_SMALL = Path(str(get_testdata_file("CT_small.dcm")))


@dataclass(frozen=True)
class Keeping:
    """An archive with one instance, whose file is at ``locator``."""

    config: Config
    store: Store
    locator: str


def _arrival(spool: Spool) -> Arrival:
    content, header = CT_SMALL.read_bytes(), dcmread(CT_SMALL, stop_before_pixels=True)
    offset = data_set_offset(CT_SMALL)
    uids = (header.SOPClassUID, header.SOPInstanceUID, header.StudyInstanceUID)
    return Arrival(
        receipts.Arrival(
            "default",
            None,
            receipts.Identity(*map(str, uids), str(header.SeriesInstanceUID)),
            receipts.Stored(
                hashlib.sha256(content[offset:]).hexdigest(),
                str(header.file_meta.TransferSyntaxUID),
                len(content) - offset,
                spool.locator("default"),
            ),
        ),
        offset,
        content,
        spool.write_aside("a" * 32, content),
    )


def diptych(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diptych", *map(str, words)]
    return forked.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A backup of a daemon that was receiving, and what had been acknowledged before it began."""
    folder = tmp_path_factory.mktemp("backup")
    daemon = Daemon(folder / "data").start()
    try:
        before = [instance for seed in range(4) for instance in series(3, seed)]
        assert set(send(daemon.port, before)) == {0x0000}
        daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM verdict") >= 2, "two verdicts")
        stop = threading.Event()
        sender = threading.Thread(target=_go_on_sending, args=(daemon, stop))
        sender.start()
        done = diptych("backup", folder / "copy", "--data", daemon.data)
        stop.set()
        sender.join()
        assert done.returncode == 0, done.stderr
        assert "receipts" in done.stdout
        yield folder / "copy", [str(instance.SOPInstanceUID) for instance in before]
    finally:
        daemon.end()


def _go_on_sending(daemon: Daemon, stop: threading.Event) -> None:
    seed = 100
    while not stop.is_set():
        send(daemon.port, series(3, seed))
        seed += 1


def test_a_restored_folder_has_all_that_was_acknowledged_before_and_judges_on(
    backed_up: tuple[Path, list[str]], tmp_path: Path
) -> None:
    copy, acknowledged = backed_up
    restored = Daemon(tmp_path / "data")
    done = diptych("restore", copy, "--verify", "--data", restored.data)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 problems" in done.stdout
    restored.start()
    try:
        there = {row["sop_instance_uid"] for row in restored.rows("SELECT * FROM instance")}
        assert set(acknowledged) <= there
        assert " lost=0 " in restored.log()
        restored.wait_until(
            lambda: restored.value("SELECT count(*) FROM revision WHERE status != 'judged'") == 0,
            "all judged",
        )
        assert set(send(restored.port, series(3, 0))) == {0x0000}
        restored.wait_until(
            lambda: restored.value("SELECT count(*) FROM verdict WHERE relation = 'exact'") == 1,
            "the copy of a restored series",
        )
    finally:
        restored.end()
    assert diptych("audit", "verify", "--data", restored.data).returncode == 0


def test_files_are_links_on_the_same_file_system_and_outlive_the_data_folder(
    tmp_path: Path,
) -> None:
    daemon = Daemon(tmp_path / "data").start()
    try:
        assert set(send(daemon.port, series(3))) == {0x0000}
        assert diptych("backup", tmp_path / "copy", "--data", daemon.data).returncode == 0
        kept = daemon.kept_files()
        assert {path.stat().st_nlink for path in kept} == {2}
    finally:
        daemon.end()
    shutil.rmtree(daemon.data)
    assert diptych("restore", tmp_path / "copy", "--verify", "--data", daemon.data).returncode == 0
    # A copy, not a link: what happens to the one must not happen to the other.
    assert {path.stat().st_nlink for path in daemon.kept_files()} == {1}


@pytest.mark.parametrize("what", ["pixels", "gone", "database", "head", "description"])
def test_a_changed_backup_is_found_out(
    backed_up: tuple[Path, list[str]], tmp_path: Path, what: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(backed_up[0], copy)
    victim = next(iter((copy / "spool").rglob("*.dcm")))
    if what == "pixels":
        content = bytearray(victim.read_bytes())
        content[-1] ^= 1
        victim.write_bytes(content)
    elif what == "gone":
        victim.unlink()
    elif what == "database":
        with closing(sqlite3.connect(copy / "diptych.sqlite3")) as connection:
            connection.execute("UPDATE receipt SET received_at = 1")
            connection.commit()
    elif what == "head":
        (copy / "audit-heads.jsonl").write_text('{"seq": 1, "hash": "' + "0" * 64 + '"}\n')
    else:
        said = json.loads((copy / "backup.json").read_text())
        (copy / "backup.json").write_text(json.dumps({**said, "receipts": 1}))
    done = diptych("restore", copy, "--verify", "--data", tmp_path / "data")
    assert done.returncode == (4 if what == "database" else 1), done.stdout + done.stderr
    if what != "database":
        assert "\n0 problems" not in done.stdout
        assert " problems; head" in done.stdout


def test_what_cannot_be_backed_up_or_restored_is_said_and_changes_nothing(
    backed_up: tuple[Path, list[str]], tmp_path: Path
) -> None:
    copy = backed_up[0]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for words, code, said in (
        (("backup", copy, "--data", tmp_path / "none"), 4, "no archive"),
        (("restore", tmp_path, "--data", tmp_path / "new"), 2, "is no backup"),
        (("restore", copy, "--data", tmp_path / "full"), 2, "is not empty"),
    ):
        done = diptych(*words)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


def test_a_case_is_forgotten_in_a_restored_folder_that_no_daemon_has_used(
    backed_up: tuple[Path, list[str]], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    assert diptych("restore", backed_up[0], "--data", data).returncode == 0
    with closing(sqlite3.connect(data / "diptych.sqlite3")) as connection:
        [(case,)] = connection.execute('SELECT max(id) FROM "case"')
    done = diptych("forget", case, "--data", data)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def keeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeping]:
    """What an acceptor leaves that does not come to sync its files."""
    monkeypatch.setattr(journal, "_IDLE_SECONDS", 3600.0)
    monkeypatch.setattr(journal, "_SYNC_SECONDS", 3600.0)
    config = Config(data=tmp_path / "data")
    config.data.mkdir()
    store = open_store(config)
    spool, _ = open_folder(config, store)
    Keeper(store, spool, Journal(spool, "a" * 32)).keep(_arrival(spool))
    [(_, locator)] = spool.kept()
    yield Keeping(config, store, locator)
    store.close()


def test_a_file_that_was_being_written_when_it_was_gathered_is_copied_again(
    keeping: Keeping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[Path] = []

    def copy(_: object, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes()[: None if placed else 4096])
        placed.append(source)

    monkeypatch.setattr(backup._Placing, "__call__", copy)
    backup.back_up(keeping.config, keeping.store, tmp_path / "copy")
    copied = tmp_path / "copy" / "spool" / keeping.locator
    assert copied.read_bytes() == CT_SMALL.read_bytes()


def test_what_only_the_journal_of_a_dead_daemon_holds_is_backed_up(
    keeping: Keeping, tmp_path: Path
) -> None:
    (keeping.config.spool_folder / keeping.locator).unlink()  # the power cut took it
    backup.back_up(keeping.config, keeping.store, tmp_path / "copy")
    copied = tmp_path / "copy" / "spool" / keeping.locator
    assert copied.read_bytes() == CT_SMALL.read_bytes()


def test_a_folder_that_was_not_restored_whole_is_not_served(
    backed_up: tuple[Path, list[str]], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    assert diptych("restore", backed_up[0], "--data", data).returncode == 0
    (data / "restore-unfinished").touch()
    done = diptych("serve", "--data", data, "--dicom-port", "0", "--http-port", "0")
    assert done.returncode == 4
    assert "was not restored whole" in done.stderr


def test_a_backup_into_a_place_without_room_leaves_nothing(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon().start()
    assert set(send(daemon.port, series(3))) == {0x0000}
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, check=False).returncode != 0:
        from support import missing

        missing("the right to mount a tmpfs")
    try:
        done = diptych("backup", small / "copy", "--data", daemon.data)
        assert done.returncode == 4
        assert "No space left" in done.stderr or "full" in done.stderr
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_a_delivery_that_cannot_be_read_is_named_and_there_is_no_backup(
    keeping: Keeping, tmp_path: Path
) -> None:
    folder = keeping.config.deliveries_folder / "spring"
    folder.mkdir(parents=True)
    (folder / "delivery.json").write_text("{}")
    (folder / "diptych.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"delivery spring: diptych\.sqlite3: file is not"):
        backup.back_up(keeping.config, keeping.store, tmp_path / "kept")
    assert not list(tmp_path.glob("kept*"))


def test_a_delivery_that_is_forgotten_while_it_is_copied_is_left_out(
    keeping: Keeping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = keeping.config.deliveries_folder / "spring"
    folder.mkdir(parents=True)
    (folder / "delivery.json").write_text("{}")
    with closing(sqlite3.connect(folder / "diptych.sqlite3")) as database:
        database.execute("CREATE TABLE t (x)")
    copied = backup._copy_database

    def forgotten(source: Path, target: Path) -> None:
        copied(source, target)
        shutil.rmtree(folder, ignore_errors=True)

    monkeypatch.setattr(backup, "_copy_database", forgotten)
    made = backup.back_up(keeping.config, keeping.store, tmp_path / "kept")
    assert made.deliveries == 0
    assert not (tmp_path / "kept" / "deliveries" / "spring").exists()
