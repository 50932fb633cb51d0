"""``diptych screen``, ``dismiss`` and ``splits`` as they are run, and what they end with."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import forked
from cli.command_line import command, environment
from screen.small import copy_of, processed, scan, write

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SECONDS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A delivery of two bodies, of the first an exact and a processed copy; the same in splits."""
    made = tmp_path_factory.mktemp("deliveries")
    one = scan(1)
    for at in ("delivery", "train"):
        write(made / at / "a", one)
        write(made / at / "e", scan(2))
    write(made / "delivery" / "b", copy_of(one, 7))
    write(made / "delivery" / "d", processed(one, 9))
    write(made / "test" / "b", copy_of(one, 7))
    write(made / "test" / "f", scan(3))
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Iterator[Run]:
    def started(*arguments: object) -> subprocess.CompletedProcess[str]:
        return forked.run(
            command(*arguments, "--data", "data"),
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    yield started
    shutil.rmtree(folder)


def test_a_delivery_ends_as_its_policy_says(folder: Path, run: Run) -> None:
    done = run("screen", "delivery", "--delivery", "one")
    assert done.returncode == 1, done.stderr
    assert "inside the delivery: 2 of 4 series, 50.00 %, limit 0.5 %: REJECT" in done.stdout
    (folder / "at.toml").write_text('[delivery]\ncopies = "50 %"\nexact = 1\n')
    done = run("screen", "delivery", "--delivery", "one", "--policy", "at.toml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith("ACCEPT")
    (folder / "delivery" / "torn.dcm").write_bytes(b"\0" * 128 + b"DICM\x02\0\0\0UL")
    (folder / "lost.toml").write_text('[delivery]\ncopies = 2\n[unjudged]\nunreadable = "5 %"\n')
    done = run("screen", "delivery", "--delivery", "one", "--policy", "lost.toml")
    assert done.returncode == 3, done.stderr
    (folder / "delivery" / "torn.dcm").unlink()


def test_a_policy_that_cannot_be_read_is_refused_before_anything_is_judged(
    folder: Path, run: Run
) -> None:
    (folder / "bad.toml").write_text("[delivery]\ncopies = 0.005\n")
    done = run("screen", "delivery", "--delivery", "two", "--policy", "bad.toml")
    assert done.returncode == 2
    assert "policy bad.toml: delivery.copies: should be a share such as" in done.stderr
    assert not (folder / "data" / "deliveries" / "two").exists()


def test_a_mistyped_input_leaves_no_delivery(folder: Path, run: Run) -> None:
    done = run("screen", "delivry", "--delivery", "typo")
    assert done.returncode == 2
    assert "INPUT delivry: No such file or directory" in done.stderr
    assert "typo" not in run("deliveries").stdout
    assert not (folder / "data" / "deliveries" / "typo").exists()


def test_what_is_dismissed_is_not_counted_in_a_later_delivery_either(run: Run) -> None:
    run("screen", "delivery", "--delivery", "three")
    done = run("dismiss", "three", 2, "--why", "a phantom\x07", "--who", "ada")
    assert done.returncode == 0, done.stderr
    listed = run("dismissals").stdout
    assert "ada" in listed
    assert "\x07" not in listed
    again = run("screen", "delivery", "--delivery", "four")
    assert "1 of 4 series, 25.00 %" in again.stdout
    assert run("dismiss", "three", 2, "--why", "not so", "--undo").returncode == 0
    assert "2 of 4 series, 50.00 %" in run("screen", "delivery", "--delivery", "four").stdout


def test_a_backup_brings_back_deliveries_dismissals_and_the_key_that_signs(
    folder: Path, run: Run
) -> None:
    run("screen", "delivery", "--delivery", "five", "--out", "before")
    assert run("dismiss", "five", 2, "--why", "a phantom", "--who", "ada").returncode == 0
    made = run("backup", "kept")
    assert made.returncode == 0, made.stderr
    there = len(list((folder / "data" / "deliveries").glob("*/delivery.json")))
    assert f"{there} deliveries" in made.stdout
    (folder / "data").rename(folder / "lost")
    try:
        restored = run("restore", "kept", "--verify")
        assert restored.returncode == 0, restored.stderr
        assert "five" in run("deliveries").stdout
        assert "a phantom" in run("dismissals").stdout
        again = run("screen", "delivery", "--delivery", "five", "--out", "after")
        assert "1 of 4 series, 25.00 %" in again.stdout, "nothing was judged anew"
        keys = [(folder / at / "report-signing.pem") for at in ("lost", "data")]
        assert keys[0].read_bytes() == keys[1].read_bytes()
        assert keys[1].stat().st_mode & 0o077 == 0
    finally:
        shutil.rmtree(folder / "data", ignore_errors=True)
        (folder / "lost").rename(folder / "data")
        run("dismiss", "five", 2, "--why", "not so", "--undo")


def test_splits_that_leak_are_mended_by_the_one_that_is_written(folder: Path, run: Run) -> None:
    done = run("splits", "--train", "train", "--test", "test", "--out", "split.csv")
    assert done.returncode == 1, done.stderr
    assert "exact: " in done.stdout
    assert "the same patient: " in done.stdout
    rows = list(csv.DictReader((folder / "split.csv").open(newline="")))
    assert sorted(Path(row["path"]).name for row in rows) == ["a", "b", "e", "f"]
    again = run("splits", "--manifest", "split.csv", "--name", "again")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "0 copies across splits, 0 patients" in again.stdout


def test_the_names_of_splits_reach_no_terminal_as_they_are(folder: Path, run: Run) -> None:
    # A bell: what starts with an escape is stripped by echo where there is no terminal.
    lines = ["path,split", "train/a,\x07x", "test/b,y", "train/e,y"]
    (folder / "odd.csv").write_text("\n".join(lines))
    done = run("splits", "--manifest", "odd.csv", "--name", "odd")
    assert done.returncode == 1, done.stderr
    assert "\x07" not in done.stdout
