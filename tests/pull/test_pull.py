"""A date range comes from DCMTK's archive: slowly, once, and over interruptions."""

from __future__ import annotations

import signal
import subprocess
import time
from datetime import time as clock
from pathlib import Path

import pytest

import forked
from cli.command_line import command, environment
from diptych.pull.run import Pace
from forward.archives import free_port
from orthanc import orthanc
from pull.archives import dated, dcmqrscp, held, pull
from running import Daemon, program, send


def test_a_date_range_comes_from_dcmqrscp_and_a_second_run_asks_for_nothing_again(
    daemon: Daemon, tmp_path: Path
) -> None:
    port = free_port()
    wanted = [*dated("20200110", "CT", 1), *dated("20200112", "MR", 2)]
    others = [*dated("20200109", "CT", 3), *dated("20200113", "CT", 4)]
    with dcmqrscp(tmp_path / "qr", port, daemon.port):
        assert set(send(port, [*wanted, *others], called="ARCHIVE")) == {0x0000}
        days = ("--since", "2020-01-10", "--until", "2020-01-12")
        done = pull(daemon, port, *days, "--modality", "CT")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "2 studies, 1 series: 1 pulled (3 instances), 0 before, 0 not whole\n"
        assert held(daemon) == {d.SOPInstanceUID for d in wanted[:3]}
        done = pull(daemon, port, *days)
        assert done.stdout == "2 studies, 2 series: 1 pulled (3 instances), 1 before, 0 not whole\n"
        assert held(daemon) == {d.SOPInstanceUID for d in wanted}
    assert daemon.value("SELECT count(*) FROM receipt") == 6


def test_what_did_not_come_whole_is_said_and_asked_for_again(
    daemon: Daemon, tmp_path: Path
) -> None:
    port, nobody = free_port(), free_port()
    wanted = dated("20200110", "CT", 5)
    with dcmqrscp(tmp_path / "qr", port, nobody):
        assert set(send(port, wanted, called="ARCHIVE")) == {0x0000}
        done = pull(daemon, port, "--since", "2020-01-10")
        assert (done.returncode, done.stdout) == (
            3,
            "1 studies, 1 series: 0 pulled (0 instances), 0 before, 1 not whole\n",
        )
    with dcmqrscp(tmp_path / "qr", port, daemon.port):
        done = pull(daemon, port, "--since", "2020-01-10")
        assert "1 pulled (3 instances)" in done.stdout
    assert len(held(daemon)) == 3


def test_interrupted_at_its_limited_rate_it_goes_on_where_it_was(
    daemon: Daemon, tmp_path: Path
) -> None:
    port = free_port()
    wanted = [dated("20200110", "CT", seed, slices=2) for seed in range(10, 14)]
    with dcmqrscp(tmp_path / "qr", port, daemon.port):
        assert set(send(port, [d for one in wanted for d in one], called="ARCHIVE")) == {0x0000}
        asked = ("pull", f"ARCHIVE@127.0.0.1:{port}", "--since", "2020-01-10", "--rate", "0.2")
        slow = forked.Popen(
            command(*asked, "--data", daemon.data),
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM pull") == 1, "one", 30)
        time.sleep(3)  # two instances at 0.2/s are ten seconds
        assert daemon.value("SELECT count(*) FROM pull") == 1
        slow.send_signal(signal.SIGINT)
        _, said = slow.communicate(timeout=90)
        assert (slow.returncode, said) == (130, "diptych: interrupted\n")
        done = pull(daemon, port, "--since", "2020-01-10")
        assert done.stdout == "4 studies, 4 series: 3 pulled (6 instances), 1 before, 0 not whole\n"
    assert daemon.value("SELECT count(*) FROM receipt") == 8


def test_orthanc_sends_what_is_asked_for(daemon: Daemon, tmp_path: Path) -> None:
    program("Orthanc")
    port = free_port()
    wanted = dated("20200110", "CT", 20)
    with orthanc(tmp_path / "o", port, free_port(), daemon.port):
        assert set(send(port, wanted, calling="DIPTYCH", called="ARCHIVE")) == {0x0000}
        done = pull(daemon, port, "--since", "2020-01-10")
    assert "1 pulled (3 instances)" in done.stdout, done.stderr
    assert held(daemon) == {d.SOPInstanceUID for d in wanted}


def test_an_archive_that_cannot_be_reached_or_does_not_know_us_is_said_in_words(
    daemon: Daemon, tmp_path: Path
) -> None:
    port = free_port()
    done = pull(daemon, port, "--since", "2020-01-10")
    assert (done.returncode, "cannot be reached" in done.stderr) == (4, True)
    with dcmqrscp(tmp_path / "qr", port, daemon.port):
        assert set(send(port, dated("20200110", "CT", 6), called="ARCHIVE")) == {0x0000}
        done = pull(daemon, port, "--since", "2020-01-10", "--to", "NOBODY")
        assert (done.returncode, "does not know the AE title 'NOBODY'" in done.stderr) == (4, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere", "--since", "2020-01-01"), "TITLE@HOST:PORT"),
        (("A@h:104", "--since", "yesterday"), "a date is such as"),
        (("A@h:104", "--since", "2020-01-02", "--until", "2020-01-01"), "--until is before"),
        (("A@h:104", "--since", "2020-01-02", "--window", "8-9"), "it is such as 20:00-06:00"),
        (("A@h:104", "--since", "2020-01-02", "--rate", "0"), "--rate: more than 0"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = forked.run(
        command("pull", *arguments, "--data", tmp_path),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr


def test_the_window_may_span_midnight() -> None:
    night = Pace(1, (clock(20), clock(6)), 50)
    day = Pace(1, (clock(8), clock(17)), 50)
    at = [clock(7), clock(12), clock(23), clock(5), clock(6), clock(20)]
    assert [night.open(one) for one in at] == [False, False, True, True, False, True]
    assert [day.open(one) for one in at] == [False, True, False, False, False, False]
    assert Pace(1, None, 50).open(clock(3))
