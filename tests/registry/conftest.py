"""A daemon with phantoms in it, and the real commands beside it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

import forked
from cli.command_line import COMMAND_SECONDS, command, environment
from diptych.config import Config
from diptych.demo.phantoms import Kind, Recipe, generate
from diptych.demo.series import phantom_series
from diptych.embed.manifest import load_model
from running import Daemon, send

HERE = Path(__file__).resolve().parent
TINY, FIXED = HERE / "tiny.onnx", HERE / "tiny-fixed-batch.onnx"
"""(n | 4, 3, 32, 32) → (n | 4, 24): 8 × 8 means and one random layer, not of unit length."""
TINY_SIZE = 32
BUNDLED = load_model().name

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def phantom(seed: int, kind: Kind = "abdomen", slices: int = 10) -> list[Dataset]:
    """A small series of another body for every seed."""
    recipe = Recipe(f"{kind}-{seed}", kind, seed, (slices, 64, 64), (4.0, 3.0, 3.0))
    return phantom_series(generate(recipe), seed)


def grainy(instances: Sequence[Dataset], seed: int = 0) -> list[Dataset]:
    """A copy under new UIDs with a little noise: no plane digest survives."""
    random = np.random.default_rng(seed)
    series_uid, study_uid = generate_uid(), generate_uid()
    copies = deepcopy(list(instances))
    for copy in copies:
        copy.SeriesInstanceUID, copy.StudyInstanceUID = series_uid, study_uid
        copy.SOPInstanceUID = generate_uid()
        pixels = np.frombuffer(copy.PixelData, "<u2").astype(np.int32)
        pixels = np.clip(pixels + random.integers(-2, 3, pixels.shape), 0, 4095)
        copy.PixelData = pixels.astype("<u2").tobytes()
        copy["PixelData"].VR = "OW"
    return copies


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def config(data: Path) -> Config:
    return Config(data=data)


@pytest.fixture
def diptych(data: Path, tmp_path: Path) -> Run:
    """A command on the data folder; the user never sees a traceback."""

    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        done = forked.run(
            [*command(*arguments), "--data", str(data)],
            env=environment(**more),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=2 * COMMAND_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def add_tiny(diptych: Run) -> Callable[[], None]:
    def add() -> None:
        done = diptych(
            "model", "add", "--onnx", TINY, "--name", "tiny", "--size", TINY_SIZE, "--d-max", 0.05
        )
        assert done.returncode == 0, done.stderr

    return add


@pytest.fixture
def listed(diptych: Run) -> Callable[[], dict[str, dict[str, Any]]]:
    def rows() -> dict[str, dict[str, Any]]:
        done = diptych("model", "list", "--json")
        assert done.returncode == 0, done.stderr
        return {row["name"]: row for row in json.loads(done.stdout)}

    return rows


@pytest.fixture
def make_daemon(data: Path) -> Iterator[Callable[..., Daemon]]:
    made: list[Daemon] = []

    def make(**settings: str) -> Daemon:
        made.append(Daemon(data, **settings))
        return made[-1]

    yield make
    for daemon in made:
        daemon.end()


def deliver(daemon: Daemon, *series: Sequence[Dataset]) -> None:
    """Send each over an association of its own."""
    for one in series:
        assert set(send(daemon.port, one)) == {0}


def judged(daemon: Daemon, count: int) -> None:
    daemon.wait_until(
        lambda: daemon.value("SELECT count(*) FROM revision WHERE status = 'judged'") >= count,
        f"{count} judged",
    )


def last_verdict(daemon: Daemon) -> Any:
    return daemon.rows("SELECT * FROM verdict ORDER BY id DESC LIMIT 1")[0]
