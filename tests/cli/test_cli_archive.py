"""``audit``, ``index`` and ``forget``: with a daemon on the folder and without one."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from cli.command_line import Archive, Diptych, judged, renamed
from running import send, series


def _sql(data: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(data / "diptych.sqlite3")) as connection, connection:
        return connection.execute(statement).fetchall()


def test_audit_verify_counts_what_it_walked_and_ends_with_0(
    diptych: Diptych, archive: Archive
) -> None:
    done = diptych("audit", "verify", "--data", archive.data)
    assert done.returncode == 0, done.stdout
    assert "6 verdicts, 0 problems; head " in done.stdout


def test_audit_verify_ends_with_1_and_names_what_was_changed(
    diptych: Diptych, stopped: Path
) -> None:
    _sql(stopped, "UPDATE verdict SET relation = 'unique' WHERE relation = 'exact'")
    done = diptych("audit", "verify", DIPTYCH_DATA=str(stopped))
    assert done.returncode == 1
    assert "relation is not what was decided" in done.stdout
    assert "1 problems" in done.stdout


def test_index_verify_and_rebuild_without_a_daemon(diptych: Diptych, stopped: Path) -> None:
    vectors = _sql(stopped, "SELECT count(*) FROM node")[0][0]
    done = diptych("index", "verify", "--data", stopped)
    assert done.returncode == 0, done.stdout
    assert f"{vectors} vectors, 0 newer" in done.stdout
    graph = next((stopped / "index").rglob("*.usearch"))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    done = diptych("index", "verify", "--data", stopped)
    assert done.returncode == 1
    assert "checksum" in done.stdout
    done = diptych("index", "rebuild", "--data", stopped)
    assert (done.returncode, done.stdout) == (0, f"{vectors} vectors\n")
    assert diptych("index", "verify", "--data", stopped).returncode == 0


def test_an_index_of_another_archive_is_named(diptych: Diptych, stopped: Path) -> None:
    _sql(stopped, "DELETE FROM node WHERE key > 2")
    _sql(stopped, "UPDATE fingerprint SET next_key = 3")
    done = diptych("index", "verify", "--data", stopped)
    assert done.returncode == 1
    assert "the database none above 2" in done.stdout


def test_index_verify_and_rebuild_while_a_daemon_runs(diptych: Diptych, archive: Archive) -> None:
    assert diptych("index", "verify", "--data", archive.data).returncode == 0
    done = diptych("index", "rebuild", "--data", archive.data)
    assert (done.returncode, done.stdout) == (0, "asked the running daemon to rebuild its index\n")
    archive.daemon.wait_until(lambda: "index-built-anew" in archive.daemon.log(), "rebuilt")


def test_a_case_forgotten_under_a_running_daemon_is_matched_by_nothing_again(
    diptych: Diptych, archive: Archive
) -> None:
    daemon = archive.daemon
    before = daemon.value("SELECT count(*) FROM verdict")
    mine = series(6, seed=77)
    assert set(send(daemon.port, mine)) == {0}
    judged(daemon, before + 1)
    uid = str(mine[0].SeriesInstanceUID)
    case = daemon.value("SELECT case_id FROM verdict WHERE series_instance_uid = ?", uid)
    files = len(daemon.kept_files())

    done = diptych("forget", case, "--data", archive.data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"case {case}: forgotten; 6 files, 6 vectors, ")
    assert len(daemon.kept_files()) == files - 6
    assert uid not in diptych("verdicts", "--data", archive.data, "--format", "json").stdout
    verified = diptych("audit", "verify", "--data", archive.data)
    assert verified.returncode == 0, verified.stdout

    again = diptych("forget", case, "--data", archive.data)
    assert (again.returncode, again.stderr) == (
        1,
        f"diptych: case {case}: unknown or already forgotten\n",
    )

    time.sleep(2)  # the daemon looks for notes once a second
    copy, resent = renamed(mine), mine
    for number, one in enumerate((resent, copy), 2):
        assert set(send(daemon.port, one)) == {0}
        judged(daemon, before + number)
    shown = json.loads(diptych("verdicts", "--data", archive.data, "--format", "json").stdout)
    rows = {row["series_instance_uid"]: row for row in shown}
    assert rows[uid]["relation"] == "unique"
    assert rows[uid]["matched_case_id"] is None
    second = rows[str(copy[0].SeriesInstanceUID)]
    assert (second["relation"], second["matched_case_id"]) == ("exact", rows[uid]["case_id"])
    assert rows[uid]["case_id"] != case
    assert diptych("audit", "verify", "--data", archive.data).returncode == 0


def test_a_case_forgotten_without_a_daemon_leaves_the_index_snapshot_as_well(
    diptych: Diptych, stopped: Path
) -> None:
    (case,) = _sql(stopped, "SELECT max(case_id) FROM node")[0]
    assert diptych("forget", case, "--data", stopped).returncode == 0
    done = diptych("index", "verify", "--data", stopped)
    assert done.returncode == 0, done.stdout
    assert diptych("audit", "verify", "--data", stopped).returncode == 0


@pytest.mark.parametrize("case", ["999999", "9" * 30])
def test_forgetting_what_is_not_there_ends_with_1(
    diptych: Diptych, archive: Archive, case: str
) -> None:
    done = diptych("forget", case, "--data", archive.data)
    assert done.returncode == 1
    assert done.stderr.startswith(f"diptych: case {case}: unknown")


@pytest.mark.parametrize(
    "arguments",
    [
        ("verdicts",),
        ("audit", "verify"),
        ("index", "verify"),
        ("index", "rebuild"),
        ("forget", "1"),
    ],
)
def test_a_folder_without_an_archive_is_named_and_none_is_made(
    diptych: Diptych, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    empty, none = tmp_path / "empty", tmp_path / "none"
    empty.mkdir()
    for folder, how in ((empty, ("--data", empty)), (none, ())):
        done = diptych(*arguments, *how, DIPTYCH_DATA=str(none))
        assert done.returncode == 4
        assert f"{folder} holds no archive" in done.stderr
        assert "diptych serve" in done.stderr
    assert not none.exists()
    assert not any(empty.iterdir())


def test_the_folder_may_come_from_the_file(
    diptych: Diptych, archive: Archive, tmp_path: Path
) -> None:
    file = tmp_path / "diptych.toml"
    file.write_text(f'data = "{archive.data}"\n', "utf-8")
    for arguments in (("verdicts",), ("doctor",)):
        done = diptych(*arguments, "--config", file)
        assert done.returncode == 0, done.stdout + done.stderr
