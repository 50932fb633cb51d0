"""``diptych screen --estimate``: what it prints, and its exit status."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import forked
from cli.command_line import command, environment
from dicom_factory import dicom_slice, save_series
from intake.deliveries import zipped


def screen(*arguments, cwd):
    return forked.run(
        command("screen", *arguments), cwd=cwd, env=environment(), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def test_the_estimate_counts_every_file_and_says_how_it_was_measured(tmp_path, one_slice):
    for name in "abcdef":
        slices = [dicom_slice(number=n, SeriesInstanceUID=f"1.2.{ord(name)}") for n in range(1, 9)]
        save_series(tmp_path / "d" / name, slices)
    (tmp_path / "d" / "notes.txt").write_text("hello")
    (tmp_path / "d" / "x.zip").write_bytes(zipped({"1": one_slice}))
    done = screen("d", "--estimate", "--json", "e.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "50 files" in done.stdout
    assert "Timed just now on 7 series, 49 slices" in done.stdout
    assert "90 % interval" in done.stdout
    found = json.loads((tmp_path / "e.json").read_text())
    assert (found["files"], found["entries"], found["series"]) == (50, 51, 7)
    assert (found["slices"], found["studies"]) == (49, 1)
    assert sum(row["count"] for row in found["outcomes"]) == found["entries"]
    assert found["bytes"] == sum(p.stat().st_size for p in (tmp_path / "d").rglob("*.*"))
    decode = found["decode"]
    assert 0 < decode["low"] * 0.9 <= decode["seconds"] <= decode["high"] * 1.1
    assert found["disk"]["scratch"] == len(one_slice) * decode["processes"]
    assert sorted(path.name for path in (tmp_path / "diptych-screen").iterdir()) == [
        "catalogue.lock", "catalogue.sqlite3",
    ]  # fmt: skip


def test_exit_statuses_say_what_was_wrong(tmp_path):
    save_series(tmp_path / "d", [dicom_slice()])
    assert screen("d", cwd=tmp_path).returncode == 2
    done = screen("nothing", "--estimate", cwd=tmp_path)
    assert done.returncode == 2
    assert "No such file" in done.stderr
    (tmp_path / "file").touch()
    assert screen("d", "--estimate", "--out", "file", cwd=tmp_path).returncode == 4
    (tmp_path / "d" / "bad.dcm").write_bytes(b"\xff" * 200)
    done = screen("d", "--estimate", "--json", "-", cwd=tmp_path)
    assert done.returncode == 3
    assert json.loads(done.stdout)["outcomes"][-1]["reason"] == "not-what-its-name-says"


def test_an_interrupted_run_ends_with_130_and_its_readers_with_it(tmp_path):
    save_series(tmp_path / "d", [dicom_slice(number=n) for n in range(1, 400)])
    contents = {str(n): p.read_bytes() for n, p in enumerate((tmp_path / "d").iterdir())}
    for number in range(30):
        (tmp_path / "d" / f"{number}.zip").write_bytes(zipped(contents))
    process = forked.Popen(
        command("screen", "d", "--estimate"), cwd=tmp_path, env=environment(),
        stderr=subprocess.PIPE, start_new_session=True,
        # A suite that runs in the background of a shell has SIGINT ignored, and hands it down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    wal = tmp_path / "diptych-screen" / "catalogue.sqlite3-wal"
    while not (wal.exists() and wal.stat().st_size > 500_000):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    # Its readers hold stderr too: it ends when they have.
    _, words = process.communicate(timeout=30)
    assert process.returncode == 130, words
    assert b"interrupted" in words
