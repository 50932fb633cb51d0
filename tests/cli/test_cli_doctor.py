"""``diptych doctor``: what stands in the way, with its repair."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cli.command_line import Archive, Diptych


@pytest.fixture
def ports() -> dict[str, str]:
    """Settings that no other daemon of this machine disturbs."""
    return {"DIPTYCH_DICOM__PORT": "0", "DIPTYCH_HTTP__PORT": "0"}


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_all_is_well_before_the_first_start_and_nothing_is_made(
    diptych: Diptych, tmp_path: Path, ports: dict[str, str]
) -> None:
    done = diptych("doctor", "--data", tmp_path / "new", **ports)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    for words in ("versions: diptych ", "provider and model: ", "will be made", "any free one"):
        assert words in done.stdout
    assert not (tmp_path / "new").exists()


def test_all_is_well_on_an_archive_and_nothing_is_changed(
    diptych: Diptych, stopped: Path, ports: dict[str, str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*.*") if path.is_file()}
    done = diptych("doctor", "--data", stopped, **ports)
    assert done.returncode == 0, done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_running_daemon_is_named_with_its_ports(diptych: Diptych, archive: Archive) -> None:
    done = diptych("doctor", "--data", archive.data)
    assert done.returncode == 0, done.stdout
    assert archive.daemon.process
    assert f"in use by a daemon (process {archive.daemon.process.pid})" in done.stdout
    assert f"DICOM port {archive.daemon.port}" in done.stdout
    assert ", ready" in done.stdout


def test_a_folder_that_is_held_by_who_does_not_answer_is_said(
    diptych: Diptych, stopped: Path, taken: int
) -> None:
    import fcntl

    (stopped / "ports.json").write_text(json.dumps({"pid": 1, "dicom": taken, "http": taken}))
    with (stopped / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        done = diptych("doctor", "--data", stopped)
        assert done.returncode == 4
        assert "process 4711" in done.stdout
        assert "does not answer /readyz" in done.stdout
        (stopped / "ports.json").unlink()
        done = diptych("doctor", "--data", stopped)
        assert done.returncode == 4
        assert "is not ready" in done.stdout


@pytest.mark.parametrize("which", ["DICOM", "HTTP"])
def test_a_port_that_is_taken_is_named_with_its_key(
    diptych: Diptych, tmp_path: Path, ports: dict[str, str], taken: int, which: str
) -> None:
    done = diptych("doctor", "--data", tmp_path, **{**ports, f"DIPTYCH_{which}__PORT": str(taken)})
    assert done.returncode == 4
    assert f"FAIL {which} port: 127.0.0.1:{taken}: Address already in use" in done.stdout
    assert f"choose another {which.lower()}.port" in done.stdout


def test_a_host_that_is_not_ours_is_named_with_its_key(
    diptych: Diptych, tmp_path: Path, ports: dict[str, str]
) -> None:
    elsewhere = {"DIPTYCH_HTTP__HOST": "192.0.2.1", "DIPTYCH_HTTP__TOKEN_FILE": "token"}
    done = diptych("doctor", "--data", tmp_path, **ports, **elsewhere)
    assert done.returncode == 4
    assert "choose another http.host" in done.stdout


def test_a_certificate_that_cannot_be_read_is_named(
    diptych: Diptych, tmp_path: Path, ports: dict[str, str]
) -> None:
    missing = str(tmp_path / "none.pem")
    tls = {"DIPTYCH_DICOM__TLS_CERTIFICATE": missing, "DIPTYCH_DICOM__TLS_KEY": missing}
    done = diptych("doctor", "--data", tmp_path, **ports, **tls)
    assert done.returncode == 4
    assert f"FAIL TLS: dicom.tls_certificate {missing}" in done.stdout


def test_an_unknown_model_is_refused_and_the_known_ones_are_named(
    diptych: Diptych, tmp_path: Path, ports: dict[str, str]
) -> None:
    done = diptych("doctor", "--data", tmp_path, **ports, DIPTYCH_MODEL__NAME="resnet")
    assert done.returncode == 4
    assert "FAIL provider and model: manifest.toml has no model 'resnet'; it has [" in done.stdout


def test_a_database_that_is_none_is_said(
    diptych: Diptych, tmp_path: Path, ports: dict[str, str]
) -> None:
    (tmp_path / "diptych.sqlite3").write_bytes(b"not a database at all " * 1000)
    done = diptych("doctor", "--data", tmp_path, **ports)
    assert done.returncode == 4
    assert "FAIL database: audit database: file is not a database" in done.stdout
    assert "from a backup" in done.stdout


def test_a_database_with_a_torn_page_is_said(
    diptych: Diptych, stopped: Path, ports: dict[str, str]
) -> None:
    database = stopped / "diptych.sqlite3"
    with database.open("r+b") as file:
        file.seek(database.stat().st_size // 2 // 4096 * 4096)
        file.write(os.urandom(8192))
    done = diptych("doctor", "--data", stopped, **ports)
    assert done.returncode == 4, done.stdout
    assert "FAIL database: audit database: " in done.stdout


def test_a_database_of_a_newer_version_is_refused_by_every_command(
    diptych: Diptych, stopped: Path, ports: dict[str, str]
) -> None:
    with closing(sqlite3.connect(stopped / "diptych.sqlite3")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for arguments in (("doctor",), ("verdicts",), ("serve",)):
        done = diptych(*arguments, "--data", stopped, **ports)
        assert done.returncode == 4
        assert "9999" in done.stdout + done.stderr
        assert "newer Diptych" in done.stdout + done.stderr


def test_too_little_space_is_said_before_anything_is_refused(
    diptych: Diptych, tmp_path: Path, ports: dict[str, str]
) -> None:
    free = shutil.disk_usage(tmp_path).free
    done = diptych(
        "doctor", "--data", tmp_path, **ports, DIPTYCH_SPOOL__MIN_FREE_BYTES=str(free * 2)
    )
    assert done.returncode == 4
    assert f"spool.min_free_bytes is {free * 2}" in done.stdout


def test_a_data_folder_that_is_a_file_is_refused(
    diptych: Diptych, tmp_path: Path, ports: dict[str, str]
) -> None:
    (tmp_path / "file").write_text("")
    for data in (tmp_path / "file", tmp_path / "file" / "below"):
        done = diptych("doctor", "--data", data, **ports)
        assert done.returncode == 4
        assert f"{tmp_path / 'file'} is not a folder" in done.stdout
        done = diptych("serve", "--data", data, **ports)
        assert done.returncode == 4
        assert str(tmp_path / "file") in done.stderr


def test_a_database_server_that_is_no_database_is_refused_in_words(
    diptych: Diptych, stopped: Path, ports: dict[str, str]
) -> None:
    url = "oracel://me:s3cret@192.0.2.1/name"
    for arguments in (("doctor",), ("verdicts",), ("serve",), ("config", "check")):
        done = diptych(*arguments, "--data", stopped, **ports, DIPTYCH_DATABASE__URL=url)
        assert done.returncode == 4
        assert "database.url: " in done.stderr
        assert "s3cret" not in done.stderr
