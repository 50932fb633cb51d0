"""`diptych why duplicates`: the first answer to an alert."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.command_line import Diptych


def test_one_screen_says_who_sends_what_is_here_already(diptych: Diptych, stopped: Path) -> None:
    done = diptych("why", "duplicates", "--data", stopped, "--since", "1d", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "1 of 3 new series are duplicates (33.3%); 0 re-sends" in lines[0]
    assert "default: true duplication: the same pixels under new UIDs" in done.stdout
    assert "first from default" in done.stdout
    assert len(lines) <= 24
    assert "1.2.826" not in done.stdout


def test_json_has_every_duplicate(diptych: Diptych, stopped: Path) -> None:
    done = diptych("why", "duplicates", "--data", stopped, "--since", "1d", "--json")
    (source,) = json.loads(done.stdout)
    assert source["ratio"] == pytest.approx(1 / 3)
    (one,) = source["duplicates"]
    assert (one["relation"], one["story"], one["matched_case_id"]) == ("exact", "new-uids", 1)


def test_a_time_without_anything_is_said_in_words(diptych: Diptych, stopped: Path) -> None:
    done = diptych("why", "duplicates", "--data", stopped, "--since", "2999-01-01")
    assert done.returncode == 0
    assert "0 of 0 new series are duplicates" in done.stdout


def test_a_time_that_is_none_and_a_folder_without_archive_are_refused(
    diptych: Diptych, tmp_path: Path
) -> None:
    assert diptych("why", "duplicates", "--since", "soon").returncode == 2
    done = diptych("why", "duplicates", "--data", tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert diptych("why").returncode == 2
