"""``diptych policy``, ``reverdict`` and ``calibrate``: real commands, beside a real daemon."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.command_line import Archive, Diptych
from registry.conftest import deliver, grainy, judged, last_verdict, phantom
from running import Daemon

DEAF = """
name = "deaf"
version = 1
d_max = 0.0001
min_correlation = 0.98
min_correlation_blurred = 0.98
min_overlap = 0.999
"""
"""Calls nothing but equal pixels a copy."""


@pytest.fixture
def deaf(tmp_path: Path) -> Path:
    file = tmp_path / "deaf.toml"
    file.write_text(DEAF)
    return file


def test_a_daemon_judges_by_the_policy_in_use_and_a_replay_by_any(
    make_daemon: Callable[..., Daemon], diptych: Diptych, deaf: Path
) -> None:
    def run(*arguments: object, status: int = 0) -> str:
        done = diptych(*arguments, "--data", daemon.data)
        assert done.returncode == status, done.stderr
        return done.stdout

    def relations() -> list[str]:
        return [row["relation"] for row in json.loads(run("verdicts", "--format", "json"))]

    daemon = make_daemon().start()
    original = phantom(1)
    deliver(daemon, original, grainy(original))
    judged(daemon, 2)
    assert relations() == ["unique", "near-duplicate"]

    assert "deaf/1: added" in run("policy", "add", deaf)
    said = run("policy", "use", "deaf/1")
    assert "a running daemon judges by it from the next series on" in said
    assert "it has its own d_max, 0.0001" in said
    assert "in use already" in run("policy", "use", "deaf/1")
    daemon.wait_until(lambda: "policy-in-use policy=deaf/1" in daemon.log(), "the other policy")
    deliver(daemon, grainy(original, seed=1))
    judged(daemon, 3)
    assert last_verdict(daemon)["relation"] == "unique"
    assert last_verdict(daemon)["policy"].startswith("deaf/1+")
    assert daemon.value("SELECT max(attempts) FROM revision") == 1

    before = daemon.get("/metrics")[1]
    assert "1 say something else; nothing was written" in run(
        "reverdict", "--since", "1h", "--dry-run"
    )
    assert relations() == ["unique", "near-duplicate", "unique"]
    assert "2 say something else" not in run("reverdict", "--since", "1h")
    assert relations() == ["unique", "unique", "unique"]
    done = json.loads(run("reverdict", "--since", "1h", "--policy", "bundled/3", "--json"))
    assert (done["judged"], done["written"]) == (3, 3)
    assert {row["to"] for row in done["changed"]} == {"near-duplicate"}
    assert relations() == ["unique", "near-duplicate", "near-duplicate"]
    assert "0 say something else" in run("reverdict", "--since", "1h", "--policy", "bundled/3")
    after = daemon.get("/metrics")[1]
    assert [line for line in before.splitlines() if line.startswith("diptych_verdicts_total")] == [
        line for line in after.splitlines() if line.startswith("diptych_verdicts_total")
    ]
    assert "0 problems" in run("audit", "verify")

    # A restart begins with the policy in use.
    assert daemon.stop() == 0
    daemon.start()
    deliver(daemon, grainy(original, seed=2))
    judged(daemon, 4)
    assert last_verdict(daemon)["policy"].startswith("deaf/1+")


def test_policies_are_listed_and_shown_as_they_are_added(
    diptych: Diptych, stopped: Path, deaf: Path
) -> None:
    rows: list[dict[str, Any]] = json.loads(
        diptych("policy", "list", "--json", "--data", stopped).stdout
    )
    assert [(row["policy"], row["in_use"]) for row in rows] == [("bundled/3", True)]
    assert rows[0]["values"]["d_max"] is None
    assert diptych("policy", "add", deaf, "--data", stopped).returncode == 0
    shown = diptych("policy", "show", "deaf/1", "--data", stopped).stdout
    assert "d_max = 0.0001\n" in shown
    deaf.write_text(shown)
    assert "is there already" in diptych("policy", "add", deaf, "--data", stopped).stdout
    table = diptych("policy", "list", "--data", stopped).stdout.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["*", "bundled/3"], ["deaf/1", "0.0001"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "a"\nversion = 1\nthreshold = 1.5\n', "threshold must be in [0, 1), not 1.5"),
        ('name = "a"\nversion = 1\nd_mx = 0.5\n', "no such field: d_mx"),
        ('name = "a"\n', "version must be given"),
        ('name = "bundled"\nversion = 2\n', "choose another"),
        ("name = ", "a.toml"),
        (None, "No such file"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_with_the_reason(
    diptych: Diptych, stopped: Path, tmp_path: Path, text: str | None, words: str
) -> None:
    file = tmp_path / "a.toml"
    if text is not None:
        file.write_text(text)
    done = diptych("policy", "add", file, "--data", stopped)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("policy", "use", "loose/1"), "no policy 'loose/1': there are bundled/3"),
        (("policy", "show", "loose"), "no policy 'loose'"),
        (("reverdict", "--since", "1h", "--policy", "loose/1"), "no policy 'loose/1'"),
        (("reverdict", "--since", "soon"), "neither an ISO time nor an age"),
        (("reverdict",), "--since"),
        (("reverdict", "--since", "2h", "--until", "3h"), "--until is not after --since"),
        (("calibrate", "--policy", "loose/1"), "no policy 'loose/1'"),
        (("calibrate", "--transforms", "shear"), "no such transform"),
        (("calibrate", "--sample", "0"), "--sample"),
    ],
)
def test_what_cannot_be_done_is_said_with_status_2(
    diptych: Diptych, stopped: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = diptych(*arguments, "--data", stopped)
    assert done.returncode == 2
    assert words in done.stderr


def test_calibrate_measures_nothing_that_it_could_not_write_down(
    diptych: Diptych, archive: Archive, tmp_path: Path
) -> None:
    nowhere = tmp_path / "no such folder" / "figures.json"
    done = diptych("calibrate", "--json", nowhere, "--data", archive.data)
    assert done.returncode == 4
    assert "No such file" in done.stderr
    assert "cases:" not in done.stderr


def test_calibrate_says_what_it_measured_beside_the_daemon(
    diptych: Diptych, archive: Archive, tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"
    done = diptych("calibrate", "--transforms", "jpeg-100", "--json", file, "--data", archive.data)
    assert done.returncode == 0, done.stderr
    assert "of 3, " not in done.stdout
    assert "False alarms: a case looked up as if it were new" in done.stdout
    assert "cases: 3 of 3" in done.stderr
    said = json.loads(file.read_text())
    assert said["cases"] == said["asked"] == 3
    # The copy and its original are no strangers to each other, the third is one to both.
    assert said["false_alarms"]["clean"]["all"]["of"] + said["without_strangers"] == 3
    printed = diptych("calibrate", "--transforms", "none", "--json", "-", "--data", archive.data)
    assert json.loads(printed.stdout)["algorithm_1"] is None
