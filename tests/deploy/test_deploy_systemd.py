"""The unit as systemd's own tools see it, alone and with each of its drop-ins."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diptych import service
from diptych.audit import store
from diptych.cli.common import USAGE
from running import program
from support import REPOSITORY

UNITS = REPOSITORY / "deploy" / "systemd"
DROP_INS = sorted(path.stem for path in (UNITS / "diptych.service.d").glob("*.conf"))
# Exposure times ten, as `systemd-analyze security --threshold` takes it; 100: no protection.
LIMIT = 13
LIMIT_WITH = {"port-104": 16, "gpu": 16, "tls": LIMIT}


def _unit(folder: Path, *drop_ins: str) -> Path:
    """The unit as it would be installed, but for the program, which has to be there."""
    unit = folder / "diptych.service"
    text = (UNITS / "diptych.service").read_text("utf-8")
    unit.write_text(text.replace("/opt/diptych/bin/diptych", f"{sys.prefix}/bin/diptych"), "utf-8")
    for name in drop_ins:
        (folder / "diptych.service.d").mkdir(exist_ok=True)
        shutil.copy(UNITS / "diptych.service.d" / f"{name}.conf", folder / "diptych.service.d")
    return unit


def _analyze(*arguments: str | Path) -> str:
    done = subprocess.run(
        [program("systemd-analyze"), *arguments], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def _values(key: str) -> list[str]:
    text = (UNITS / "diptych.service").read_text("utf-8")
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


@pytest.mark.parametrize("drop_in", ["", *DROP_INS])
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, drop_in: str) -> None:
    unit = _unit(tmp_path, *filter(None, [drop_in]))
    # It warns of unknown keys and goes on.
    assert _analyze("verify", "--man=no", unit) == ""


@pytest.mark.parametrize("drop_in", ["", *DROP_INS])
def test_the_sandbox_leaves_little_open(tmp_path: Path, drop_in: str) -> None:
    unit = _unit(tmp_path, *filter(None, [drop_in]))
    limit = LIMIT_WITH[drop_in] if drop_in else LIMIT
    _analyze("security", "--offline=true", f"--threshold={limit}", unit)


def test_the_user_of_the_unit_is_the_one_that_sysusers_makes() -> None:
    (line,) = [
        line
        for line in (UNITS / "diptych.sysusers.conf").read_text("utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert _values("User") == _values("Group") == [line.split()[1]]


def test_the_times_of_the_unit_fit_those_of_the_daemon() -> None:
    assert int(_values("TimeoutStopSec")[0]) > service.STOP_SECONDS + 2
    assert _values("WatchdogSec") == ["2min"]
    # Half of it passes between two signs of life, and the loop may wait for a locked database.
    assert 2 * store.BUSY_SECONDS < 120 / 2
    assert _values("RestartPreventExitStatus") == [str(USAGE)]
    assert _values("KillMode") == ["mixed"]


def test_every_credential_that_is_loaded_is_used_and_the_other_way_round() -> None:
    text = (UNITS / "diptych.service.d" / "tls.conf").read_text("utf-8")
    pairs = [line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#"]
    loaded = {value.split(":")[0] for key, value in pairs if key == "LoadCredential"}
    used = {value.split("=%d/")[1] for key, value in pairs if key == "Environment"}
    assert loaded == used
