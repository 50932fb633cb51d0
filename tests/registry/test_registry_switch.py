"""The switch, end to end: a running daemon, the real commands, two models."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
from cli.command_line import command, environment
from registry.conftest import (
    BUNDLED,
    TINY,
    TINY_SIZE,
    Run,
    deliver,
    grainy,
    judged,
    last_verdict,
    phantom,
)
from running import Daemon

Listed = Callable[[], dict[str, dict[str, Any]]]


def _nodes(daemon: Daemon, fingerprint: str) -> int:
    return daemon.value(
        "SELECT count(*) FROM node JOIN fingerprint f ON f.id = fingerprint_id "
        "WHERE f.fingerprint = ?",
        fingerprint,
    )


def test_the_archive_is_switched_under_a_running_daemon_and_back_again(
    make_daemon: Callable[..., Daemon],
    diptych: Run,
    add_tiny: Callable[[], None],
    listed: Listed,
    data: Path,
) -> None:
    daemon = make_daemon().start()
    one, other = phantom(1), phantom(2)
    deliver(daemon, one, other)
    judged(daemon, 2)
    add_tiny()
    rows = listed()
    assert (rows["tiny"]["cases_embedded"], rows["tiny"]["cases_missing"]) == (0, 2)
    assert rows[BUNDLED]["in_use"]
    assert not rows["tiny"]["in_use"]

    # What arrives while the archive is being embedded is neither lost nor judged twice.
    using = forked.Popen(
        [*command("model", "use", "tiny"), "--data", str(data)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    meanwhile = [phantom(seed, slices=6) for seed in (3, 4, 5)]
    deliver(daemon, *meanwhile)
    assert "tiny is in use" in using.communicate(timeout=120)[0]
    assert using.returncode == 0
    judged(daemon, 5)
    rows = listed()
    assert rows["tiny"]["in_use"]
    assert rows["tiny"]["cases_missing"] == 0
    fingerprint = rows["tiny"]["fingerprint"]

    deliver(daemon, grainy(other))
    judged(daemon, 6)
    verdict = last_verdict(daemon)
    assert (verdict["model"], verdict["fingerprint"]) == ("tiny", fingerprint)
    assert verdict["relation"] == "near-duplicate"
    assert verdict["matched_series_instance_uid"] == other[0].SeriesInstanceUID
    assert verdict["policy"] != daemon.value("SELECT policy FROM verdict ORDER BY id LIMIT 1")
    daemon.wait_until(
        lambda: daemon.metric("diptych_index_vectors") == _nodes(daemon, fingerprint), "all indexed"
    )

    # Back: all that is missing is what was judged meanwhile, found by what is there.
    done = diptych("model", "use", BUNDLED)
    assert done.returncode == 0, done.stderr
    assert f"{BUNDLED} is in use" in done.stdout
    deliver(daemon, grainy(meanwhile[0], seed=1))
    judged(daemon, 7)
    verdict = last_verdict(daemon)
    assert verdict["model"] == BUNDLED
    assert verdict["matched_series_instance_uid"] == meanwhile[0][0].SeriesInstanceUID
    assert listed()[BUNDLED]["cases_missing"] == 0
    assert daemon.value("SELECT count(*) FROM verdict") == 7
    assert daemon.value("SELECT max(attempts) FROM revision") == 1
    assert daemon.value("SELECT count(*) FROM event WHERE kind = 'model-use'") == 2

    done = diptych("audit", "verify")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert diptych("index", "verify").returncode == 0
    assert diptych("doctor").returncode == 0

    assert len(list((data / "index").iterdir())) == 2
    done = diptych("model", "remove", "tiny")
    assert done.returncode == 0, done.stderr
    assert _nodes(daemon, fingerprint) == 0
    assert len(list((data / "index").iterdir())) == 1
    assert not (data / "models" / "tiny.onnx").exists()
    assert list(listed()) == [BUNDLED]
    assert diptych("audit", "verify").returncode == 0
    assert daemon.stop() == 0


def test_cases_whose_pixels_are_purged_are_named_and_left_behind_only_when_told_so(
    make_daemon: Callable[..., Daemon],
    diptych: Run,
    add_tiny: Callable[[], None],
    listed: Listed,
) -> None:
    daemon = make_daemon(DIPTYCH_SPOOL__KEEP_DAYS="0", DIPTYCH_JOBS__PURGE="0.3").start()
    deliver(daemon, phantom(1))
    judged(daemon, 1)
    daemon.wait_until(lambda: daemon.kept_files() == [], "purged")
    add_tiny()
    done = diptych("model", "use", "tiny")
    assert done.returncode == 1
    case = daemon.value("SELECT id FROM 'case'")
    assert "1 cases cannot be embedded by tiny (1 pixels purged)" in done.stderr
    assert f"cases {case}. Nothing was switched" in done.stderr
    assert listed()[BUNDLED]["in_use"]
    done = diptych("model", "use", "tiny", "--allow-missing")
    assert done.returncode == 0, done.stderr
    assert "1 left behind" in done.stdout
    assert listed()["tiny"]["cases_missing"] == 1
    # It was said, and is known. The worker begins anew a moment after the switch.
    daemon.wait_until(lambda: diptych("doctor").returncode == 0, "all well again")
    assert daemon.stop() == 0
    done = diptych("model", "use", BUNDLED)
    assert done.returncode == 0, done.stderr


def test_the_configuration_has_the_last_word(
    make_daemon: Callable[..., Daemon],
    diptych: Run,
    add_tiny: Callable[[], None],
    listed: Listed,
) -> None:
    add_tiny()
    daemon = make_daemon(DIPTYCH_MODEL__NAME="tiny").start()
    deliver(daemon, phantom(1))
    judged(daemon, 1)
    assert last_verdict(daemon)["model"] == "tiny"
    done = diptych("model", "use", BUNDLED, DIPTYCH_MODEL__NAME="tiny")
    assert done.returncode == 4
    assert "model.name of the configuration is 'tiny'" in done.stderr
    assert daemon.value("SELECT count(*) FROM event WHERE kind = 'model-use'") == 0
    assert listed()[BUNDLED]["cases_missing"] == 0  # embedded all the same
    done = diptych("model", "remove", "tiny", DIPTYCH_MODEL__NAME="tiny")
    assert done.returncode == 2
    assert "tiny is in use" in done.stderr


def test_who_starts_under_a_model_that_never_saw_the_archive_is_told_so(
    make_daemon: Callable[..., Daemon],
    diptych: Run,
    add_tiny: Callable[[], None],
) -> None:
    daemon = make_daemon().start()
    original = phantom(1)
    deliver(daemon, original)
    judged(daemon, 1)
    assert daemon.stop() == 0
    add_tiny()
    done = diptych("doctor", DIPTYCH_MODEL__NAME="tiny")
    assert done.returncode == 4
    assert "1 of 1 cases are embedded by another model only" in done.stdout
    daemon.start(DIPTYCH_MODEL__NAME="tiny")
    assert "`diptych model use tiny` embeds them" in daemon.log()
    # The command embeds beside the daemon, which then builds its index anew.
    done = diptych("model", "use", "tiny", DIPTYCH_MODEL__NAME="tiny")
    assert done.returncode == 0, done.stderr
    daemon.wait_until(lambda: "index-built-anew vectors=10" in daemon.log(), "built anew")
    deliver(daemon, grainy(original))
    judged(daemon, 2)
    assert last_verdict(daemon)["relation"] == "near-duplicate"
    assert last_verdict(daemon)["model"] == "tiny"


def test_without_a_daemon_the_switch_is_the_same(
    make_daemon: Callable[..., Daemon],
    diptych: Run,
    add_tiny: Callable[[], None],
    listed: Listed,
) -> None:
    daemon = make_daemon().start()
    deliver(daemon, phantom(1))
    judged(daemon, 1)
    assert daemon.stop() == 0
    add_tiny()
    assert diptych("model", "use", "tiny").returncode == 0
    assert listed()["tiny"]["in_use"]
    done = diptych("model", "remove", "tiny")
    assert done.returncode == 2
    assert "switch first" in done.stderr
    daemon.start()
    deliver(daemon, phantom(7))
    judged(daemon, 2)
    assert last_verdict(daemon)["model"] == "tiny"
    assert len(list((daemon.data / "index").iterdir())) == 2
    done = diptych("forget", daemon.value("SELECT min(id) FROM 'case'"))
    assert done.returncode == 0, done.stderr
    # Nor do the vectors stay in the snapshot of the model that is not in use.
    daemon.wait_until(lambda: len(list((daemon.data / "index").iterdir())) == 1, "discarded")
    assert daemon.value("SELECT count(*) FROM node") == 10
    assert diptych("audit", "verify").returncode == 0


def test_a_model_that_is_gone_is_missed_in_words(
    make_daemon: Callable[..., Daemon], diptych: Run, add_tiny: Callable[[], None], data: Path
) -> None:
    daemon = make_daemon().start()
    deliver(daemon, phantom(1))
    judged(daemon, 1)
    assert daemon.stop() == 0
    add_tiny()
    assert diptych("model", "use", "tiny").returncode == 0
    (data / "models" / "manifest.toml").unlink()
    done = diptych("serve", "--dicom-port", 0, "--http-port", 0)
    assert done.returncode == 4
    assert "the archive is embedded by it" in done.stderr
    done = diptych("model", "use", BUNDLED)
    assert done.returncode == 0, done.stderr
    # The same name with another content is another model.
    done = diptych(
        "model", "add", "--onnx", TINY, "--name", "tiny", "--size", TINY_SIZE, "--d-max", 0.05,
        "--precision", "fp16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert diptych("model", "use", "tiny").returncode == 0
