"""SIGKILL at named points and at random: acknowledged = stored = judged, nothing twice."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable

from pydicom import dcmread
from pydicom.dataset import Dataset

from diptych.receive.spool import content_sha256, data_set_offset
from running import Daemon, send, series

POINTS = (
    "receive.after-temporary-write",
    "receive.after-rename",
    "receive.before-commit",
    "receive.after-commit",
    "judge.inside-transaction",
    "judge.after-commit",
    "index.after-temporary-write",
    "index.before-rename",
    "index.after-rename",
)
RANDOM_KILLS = 5


def test_killed_at_every_named_point_it_completes_every_acknowledged_series_exactly_once(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon(DIPTYCH_JOBS__SNAPSHOT="0.3")
    acknowledged: dict[str, str] = {}
    wanted: list[Dataset] = []
    for number, point in enumerate(POINTS):
        daemon.spawn(DIPTYCH_FAULT=f"{point}:kill-daemon")
        wanted += series(4, seed=number)
        if _ready_or_dead(daemon):
            _deliver(daemon, wanted, acknowledged)
        assert daemon.died(), f"{point} was never passed\n{daemon.log()}"
        _all_processes_ended(daemon)
    daemon.start()
    _deliver_until_acknowledged(daemon, wanted, acknowledged)
    _check(daemon, acknowledged, len(POINTS))


def test_killed_at_random_under_three_senders_it_loses_and_repeats_nothing(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon(DIPTYCH_JOBS__SNAPSHOT="0.3").start()
    rng = random.Random(20231207)
    acknowledged: dict[str, str] = {}
    wanted = [series(12, seed=100 + number) for number in range(6)]

    def deliver(mine: list[list[Dataset]]) -> None:
        for one in mine:
            _deliver_until_acknowledged(daemon, one, acknowledged)

    senders = [threading.Thread(target=deliver, args=(wanted[sender::3],)) for sender in range(3)]
    for sender in senders:
        sender.start()
    for _ in range(RANDOM_KILLS):
        time.sleep(rng.uniform(0.1, 1.5))
        daemon.kill()
        _all_processes_ended(daemon)
        daemon.start()
    for sender in senders:
        sender.join()
    _check(daemon, acknowledged, len(wanted))


def _ready_or_dead(daemon: Daemon) -> bool:
    """Whether it became ready; a point inside the index may kill it before."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (daemon.data / "ports.json").exists():
            return True
        if daemon.died(0.05):
            return False
    raise AssertionError(daemon.log())


def _deliver(daemon: Daemon, wanted: list[Dataset], acknowledged: dict[str, str]) -> None:
    """One association; whatever was answered with success is written down."""
    pending = [d for d in wanted if d.SOPInstanceUID not in acknowledged]
    try:
        # A killed peer never answers; what was not answered is sent again.
        statuses = send(daemon.port, pending, patience=3)
    except (AssertionError, OSError):  # no ports: it is down
        return
    for data_set, status in zip(pending, statuses, strict=False):
        if status == 0x0000:
            acknowledged[data_set.SOPInstanceUID] = data_set.SeriesInstanceUID


def _deliver_until_acknowledged(
    daemon: Daemon, wanted: list[Dataset], acknowledged: dict[str, str]
) -> None:
    deadline = time.monotonic() + 120
    while any(d.SOPInstanceUID not in acknowledged for d in wanted):
        assert time.monotonic() < deadline, daemon.log()
        _deliver(daemon, wanted, acknowledged)
        time.sleep(0.1)


def _all_processes_ended(daemon: Daemon) -> None:
    """No orphan acceptor goes on acknowledging after the supervisor died."""
    assert daemon.process is not None
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(daemon.process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError("processes of the killed daemon are still there")


def _check(daemon: Daemon, acknowledged: dict[str, str], series_count: int) -> None:
    daemon.wait_until(
        lambda: daemon.get("/readyz")[0] == 200 and daemon.metric("diptych_pending_series") == 0,
        "judged",
        120,
    )
    # stored: every acknowledged instance has its receipt and its bytes, once
    stored = {
        row["sop_instance_uid"]: row
        for row in daemon.rows(
            "SELECT i.sop_instance_uid, b.sha256, b.locator FROM instance i "
            "JOIN blob b ON b.id = i.blob_id JOIN receipt r ON r.instance_id = i.id"
        )
    }
    assert set(stored) == set(acknowledged)
    files = daemon.kept_files()
    assert len(files) == len(acknowledged)
    for row in stored.values():
        path = daemon.data / "spool" / row["locator"]
        assert content_sha256(path, data_set_offset(path))[0] == row["sha256"]
        assert dcmread(path).SOPInstanceUID == row["sop_instance_uid"]
    assert list((daemon.data / "spool" / "incoming").iterdir()) == []
    # judged: each series to its last instance, each revision once
    assert daemon.value("SELECT count(*) FROM series") == series_count
    assert daemon.value("SELECT count(*) FROM revision WHERE status != 'judged'") == 0
    assert (
        daemon.value(
            "SELECT count(*) FROM series s WHERE (SELECT max(id) FROM instance i WHERE "
            "i.series_id = s.id) != (SELECT max(last_instance_id) FROM revision r WHERE "
            "r.series_id = s.id)"
        )
        == 0
    )
    per_revision = daemon.rows(
        "SELECT r.id, count(v.id) AS n FROM revision r LEFT JOIN verdict v "
        "ON v.revision_id = r.id GROUP BY r.id"
    )
    assert {row["n"] for row in per_revision} == {1}
    said = "SELECT relation, reason, slices, detail FROM verdict WHERE relation != 'unique'"
    assert [tuple(row) for row in daemon.rows(said)] == []
    assert daemon.metric('diptych_series_total{source="default"}') == series_count
    _check_chain(daemon)


def _check_chain(daemon: Daemon) -> None:
    previous = "0" * 64
    for number, row in enumerate(daemon.rows("SELECT * FROM event ORDER BY seq"), 1):
        assert row["seq"] == number
        text = f"{previous}\n{number}\n{row['at']}\n{row['kind']}\n{row['payload']}"
        previous = hashlib.sha256(text.encode()).hexdigest()
        assert row["hash"] == previous
