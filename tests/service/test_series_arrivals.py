"""A series that comes in odd ways: the right receipts, and one revision for each time it rested."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pydicom.dataset import Dataset

from receive.peers import Peer, deliver, encoded, parts
from running import Daemon, instance, series

MEGABYTES = 100


@pytest.mark.both
def test_a_series_over_two_associations_at_once_is_one_revision(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon().start()
    slices = series(16, seed=31)
    with ThreadPoolExecutor(2) as pool:
        statuses = list(
            pool.map(lambda half: deliver(daemon.port, half), (slices[::2], slices[1::2]))
        )
    assert statuses == [[0x0000] * 8] * 2
    assert _judged(daemon, slices[0]) == [(0, 16, 1)]
    assert _receipts(daemon, slices[0]) == 16
    # The same instances from two senders at the same moment: receipts, and a re-send.
    with ThreadPoolExecutor(2) as pool:
        assert (
            list(pool.map(lambda _: deliver(daemon.port, slices), range(2))) == [[0x0000] * 16] * 2
        )
    daemon.wait_until(lambda: daemon.value("SELECT resends FROM series") == 1, "counted", 30)
    assert _judged(daemon, slices[0]) == [(0, 16, 1)]
    assert _receipts(daemon, slices[0]) == 48
    assert len(daemon.kept_files()) == 16
    # A late slice after the verdict: a revision of its own, which the first does not match.
    late = instance(slices[0].SeriesInstanceUID, slices[0].StudyInstanceUID, number=17, seed=99)
    assert deliver(daemon.port, [late]) == [0x0000]
    daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM revision") == 2, "sealed", 30)
    assert _judged(daemon, slices[0]) == [(0, 16, 1), (1, 17, 1)]
    assert {row["relation"] for row in daemon.rows("SELECT relation FROM verdict")} == {"unique"}
    assert daemon.metric('diptych_series_total{source="default"}') == 1


def test_a_series_split_over_a_restart_is_one_revision_when_it_goes_on_at_once(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon(DIPTYCH_SERIES__QUIET_SECONDS="45").start()
    slices = series(6, seed=32)
    first = Peer(daemon.port)
    assert [first.store(one) for one in slices[:3]] == [0x0000] * 3
    half = encoded(slices[3])
    first.begin(str(slices[3].SOPInstanceUID).encode(), half[: len(half) // 2])
    daemon.wait_until(lambda: parts(daemon), "receiving", 10)
    daemon.kill()
    daemon.start()
    assert parts(daemon) == []
    assert deliver(daemon.port, slices[3:]) == [0x0000] * 3
    assert _judged(daemon, slices[0]) == [(0, 6, 1)]
    assert _receipts(daemon, slices[0]) == 6


def test_a_large_multi_frame_in_flight_keeps_its_quiet_series_open(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon(DIPTYCH_SERIES__ASSOCIATION_SECONDS="1").start()
    first = instance(seed=33)
    large = instance(first.SeriesInstanceUID, first.StudyInstanceUID, number=2)
    frames = np.zeros((MEGABYTES, 1024, 512), np.uint16)
    large.NumberOfFrames, large.Rows, large.Columns = frames.shape
    large.PixelData = frames.tobytes()
    data = encoded(large)
    assert len(data) > MEGABYTES * 10**6
    peer = Peer(daemon.port)
    assert peer.store(first) == 0x0000
    peer.begin(str(large.SOPInstanceUID).encode(), data[: len(data) // 2])
    # Quiet, and silent for longer than an association may be: sealed, were nothing in flight.
    other = instance(seed=34)
    assert deliver(daemon.port, [other]) == [0x0000]
    assert _judged(daemon, other) == [(0, 1, 1)]
    assert daemon.value(
        "SELECT receiving FROM series WHERE series_instance_uid = ?", first.SeriesInstanceUID
    )
    peer.begin_more(data[len(data) // 2 : -2])
    assert peer.finish(data[-2:]) == 0x0000
    peer.release()
    revisions = _judged(daemon, first)
    assert [(number, instances) for number, instances, _ in revisions] == [(0, 2)]
    assert _receipts(daemon, first) == 2


def _judged(daemon: Daemon, of: Dataset) -> list[tuple[int, int, int]]:
    """Wait until nothing of the series is pending; (revision, instances it covers, verdicts)."""
    uid = str(of.SeriesInstanceUID)
    pending = (
        "SELECT (SELECT count(*) FROM series WHERE series_instance_uid = ? AND receiving) + "
        "(SELECT count(*) FROM revision r JOIN series s ON s.id = r.series_id "
        "WHERE s.series_instance_uid = ? AND r.status != 'judged')"
    )
    daemon.wait_until(lambda: daemon.value(pending, uid, uid) == 0, "judged", 120)
    rows = daemon.rows(
        "SELECT r.number, (SELECT count(*) FROM instance i WHERE i.series_id = s.id "
        "AND i.id <= r.last_instance_id) AS instances, "
        "(SELECT count(*) FROM verdict v WHERE v.revision_id = r.id) AS verdicts "
        "FROM revision r JOIN series s ON s.id = r.series_id WHERE s.series_instance_uid = ? "
        "ORDER BY r.number",
        uid,
    )
    return [(row["number"], row["instances"], row["verdicts"]) for row in rows]


def _receipts(daemon: Daemon, of: Dataset) -> int:
    query = (
        "SELECT count(*) FROM receipt r JOIN series s ON s.id = r.series_id "
        "WHERE s.series_instance_uid = ?"
    )
    return int(daemon.value(query, str(of.SeriesInstanceUID)))
