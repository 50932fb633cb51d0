"""``diptych serve``: how it refuses to start, and how it stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import forked
from cli.command_line import Archive, Diptych, command, environment
from running import Daemon

STOP_SECONDS = 10


def test_a_folder_in_use_is_refused_and_its_daemon_named(
    diptych: Diptych, archive: Archive
) -> None:
    done = diptych("serve", "--data", archive.data, "--dicom-port", 0, "--http-port", 0)
    assert done.returncode == 4
    assert archive.daemon.process
    assert f"another daemon (process {archive.daemon.process.pid})" in done.stderr
    assert str(archive.data) in done.stderr
    assert archive.daemon.get("/healthz")[0] == 200
    assert archive.daemon.port


@pytest.mark.parametrize("which", ["dicom", "http"])
def test_a_port_in_use_is_refused(diptych: Diptych, tmp_path: Path, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        given = {"dicom": 0, "http": 0, which: port}
        done = diptych(
            *("serve", "--data", tmp_path / "data"),
            *("--dicom-port", given["dicom"], "--http-port", given["http"]),
        )
    assert done.returncode == 4
    assert f"{which.upper()} port 127.0.0.1:{port}: Address already in use" in done.stderr
    assert f"{which}.port" in done.stderr


def test_an_unknown_model_is_refused_in_words(diptych: Diptych, tmp_path: Path) -> None:
    done = diptych(
        *("serve", "--data", tmp_path / "data", "--dicom-port", 0, "--http-port", 0),
        DIPTYCH_MODEL__NAME="resnet",
    )
    assert done.returncode == 4
    assert "has no model 'resnet'; it has [" in done.stderr


def test_an_impossible_option_is_refused_and_makes_no_folder(
    diptych: Diptych, tmp_path: Path
) -> None:
    for arguments, words in (
        (("--dicom-port", 65536), "dicom.port"),
        (("--http-port", -1), "http.port"),
        (("--ae-title", "SEVENTEEN_LETTERS"), "dicom.ae_title"),
    ):
        done = diptych("serve", "--data", tmp_path / "data", *arguments)
        assert done.returncode == 4
        assert words in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_ready_daemon_stops_within_10_s_with_status_0(
    make_daemon: Callable[..., Daemon], number: signal.Signals
) -> None:
    daemon = make_daemon().start()
    assert daemon.process
    began = time.monotonic()
    if number == signal.SIGINT:
        os.killpg(daemon.process.pid, number)  # as a terminal does: its children hear it too
    else:
        daemon.process.send_signal(number)
    assert daemon.process.wait(STOP_SECONDS) == 0, daemon.log()
    assert time.monotonic() - began < STOP_SECONDS
    assert "Traceback" not in daemon.log()
    assert not (daemon.data / "ports.json").exists()


def test_a_daemon_that_is_still_starting_stops_as_well(tmp_path: Path) -> None:
    process = forked.Popen(
        command("serve", "--data", tmp_path / "data", "--dicom-port", 0, "--http-port", 0),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "data" / "lock").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 0, said
    assert "Traceback" not in said


def test_a_token_opens_what_is_not_health(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("secret of the site\n")
    daemon = make_daemon(DIPTYCH_HTTP__TOKEN_FILE=str(file)).start()
    assert daemon.get("/healthz")[0] == 200
    assert daemon.get("/metrics")[0] == 401
    status, said = daemon.get("/metrics", Authorization="Bearer secret of the site")
    assert (status, "diptych_pending_series" in said) == (200, True)
    assert "secret of the site" not in daemon.log()


@pytest.mark.parametrize("content", [None, " \n"])
def test_a_token_that_cannot_be_read_is_said_at_the_start(
    diptych: Diptych, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    done = diptych(
        "serve", "--data", tmp_path / "data", "--dicom-port", 0, "--http-port", 0,
        DIPTYCH_HTTP__TOKEN_FILE=str(file),
    )  # fmt: skip
    assert done.returncode == 4
    assert f"http.token_file {file}" in done.stderr
    assert not (tmp_path / "data").exists()
