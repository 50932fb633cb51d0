"""The demo as a newcomer gets it: from the wheel, in an empty folder, nothing of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from diptych.reports import COLUMNS
from support import REPOSITORY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, unpacked: what pip would put into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, "."],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("diptych-*.whl")
    unpacked = folder / "site"
    zipfile.ZipFile(built).extractall(unpacked)
    return unpacked


def test_the_wheel_holds_the_migrations_and_the_model_but_no_tests_and_no_training(
    wheel: Path,
) -> None:
    files = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    assert "diptych/_sql/versions/0001_first_schema.py" in files
    assert "diptych/_models/manifest.toml" in files
    assert any(name.startswith("diptych/_models/bundled/") for name in files)
    parts = {part for name in files for part in Path(name).parts}
    assert not any(p == "tests" or p.startswith("test_") or "train" in p for p in parts)


def test_the_demo_from_the_wheel_ends_with_every_expected_verdict(
    wheel: Path, tmp_path: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DIPTYCH_")}
    done = subprocess.run(
        [sys.executable, "-m", "diptych", "demo", "--json", "table.json"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "", "progress belongs to a terminal"
    rows = json.loads((tmp_path / "table.json").read_text())
    assert all(set(COLUMNS) <= set(row) for row in rows)
    relations = [row["relation"] for row in rows]
    assert {"exact", "near-duplicate", "unique", "resend"} <= set(relations)
    assert max(row["slices"] for row in rows) == 200
    assert {row["search"] for row in rows} == {"hnsw"}
    assert all(row["as_expected"] for row in rows)
    assert f"{len(rows)} of {len(rows)} verdicts as expected" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.json"]


def test_the_demo_refuses_a_folder_without_dicom_in_words(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    done = subprocess.run(
        [sys.executable, "-m", "diptych", "demo", "--dicom", tmp_path],
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4
    assert "holds no DICOM series" in done.stderr
    assert "Traceback" not in done.stderr
