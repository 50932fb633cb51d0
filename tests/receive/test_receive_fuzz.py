"""A slice of each fuzzer; a release run is longer (see the scripts)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support import REPOSITORY

SECONDS = "5"


@pytest.mark.parametrize("script", ["fuzz_receive", "fuzz_files"])
def test_a_slice_of_the_fuzzer_finds_nothing(script: str) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts" / script), "--seconds", SECONDS]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mutated" in done.stdout
