"""A slice of each fuzzer; a release run is longer (see the scripts)."""

from __future__ import annotations

import re
import subprocess
import sys

from support import REPOSITORY

SECONDS = "5"


def test_a_slice_of_mutated_pdus_finds_nothing() -> None:
    assert "mutated PDUs" in _run("fuzz_receive")


def test_a_slice_of_mutated_files_finds_nothing_and_reaches_half_of_the_room() -> None:
    said = _run("fuzz_files", "--coverage")
    assert "mutated files" in said
    all_lines = re.search(r"^ +all +(\d+) of +(\d+) ", said, re.MULTILINE)
    assert all_lines is not None
    # The children's lines too, though they are killed: 60 % after 64 files.
    assert int(all_lines[1]) > 0.5 * int(all_lines[2]), said


def _run(script: str, *options: str) -> str:
    words = [sys.executable, str(REPOSITORY / "scripts" / script), "--seconds", SECONDS, *options]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
