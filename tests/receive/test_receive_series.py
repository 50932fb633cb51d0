"""Transfers that break off, series that grow, contents that come again."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom.dataset import Dataset

from receive.peers import Peer, deliver, encoded, parts
from running import Daemon, instance, series

QUIET_SECONDS = 0.5  # as Daemon configures it
ASSOCIATION_SECONDS = 2.0  # as the fixture does
SENDERS, EACH = 10, 20


@pytest.mark.parametrize("ending", ["abort", "vanish"])
def test_a_transfer_that_breaks_off_leaves_nothing(plain: Daemon, ending: str) -> None:
    receipts = _receipts(plain)
    peer = Peer(plain.port)
    data_set = instance()
    peer.begin(data_set.SOPInstanceUID.encode(), encoded(data_set))
    plain.wait_until(lambda: parts(plain), "half-sent", 5)
    getattr(peer, ending)()
    plain.wait_until(lambda: not parts(plain), "removed", 2)
    assert _receipts(plain) == receipts


def test_without_a_series_uid_each_association_and_study_is_a_synthetic_series(
    plain: Daemon,
) -> None:
    study, other = instance().StudyInstanceUID, instance().StudyInstanceUID
    for _ in range(2):
        assert (
            deliver(plain.port, [_without_series(uid) for uid in (study, study, other)]) == [0] * 3
        )
    rows = plain.rows(
        "SELECT s.study_instance_uid AS study, count(i.id) AS n, min(s.synthetic) AS synthetic "
        "FROM series s JOIN instance i ON i.series_id = s.id "
        "WHERE s.study_instance_uid IN (?, ?) GROUP BY s.id",
        study,
        other,
    )
    found = sorted((row["study"] == other, row["n"], row["synthetic"]) for row in rows)
    assert found == [(False, 2, 1), (False, 2, 1), (True, 1, 1), (True, 1, 1)]


def test_a_resend_adds_receipts_but_neither_bytes_nor_a_revision(plain: Daemon) -> None:
    slices = series(3, seed=51)
    uid = slices[0].SeriesInstanceUID
    files = len(plain.kept_files())
    for sent in (1, 2):
        assert deliver(plain.port, slices) == [0x0000] * 3
        _wait_sealed(plain, uid)
        row = plain.rows("SELECT * FROM series WHERE series_instance_uid = ?", uid)[0]
        assert (row["revisions"], row["resends"]) == (1, sent - 1)
        assert _receipts(plain, uid) == 3 * sent
        assert len(plain.kept_files()) == files + 3


def test_a_late_slice_opens_a_revision(plain: Daemon) -> None:
    slices = series(4, seed=52)
    uid = slices[0].SeriesInstanceUID
    for part in (slices[:3], slices[3:]):
        assert deliver(plain.port, part) == [0x0000] * len(part)
        _wait_sealed(plain, uid)
    rows = plain.rows(
        "SELECT r.number FROM revision r JOIN series s ON s.id = r.series_id "
        "WHERE s.series_instance_uid = ? ORDER BY r.number",
        uid,
    )
    assert [row["number"] for row in rows] == [0, 1]


def test_a_series_stays_open_as_long_as_an_association_may_bring_more(plain: Daemon) -> None:
    data_set = instance()
    peer = Peer(plain.port)
    began = time.monotonic()
    assert peer.store(data_set) == 0x0000
    while time.monotonic() - began < ASSOCIATION_SECONDS - QUIET_SECONDS:
        assert _open(plain, data_set.SeriesInstanceUID)
        time.sleep(0.1)
    # The association goes on, but it has brought nothing for too long.
    _wait_sealed(plain, data_set.SeriesInstanceUID)
    assert time.monotonic() - began >= ASSOCIATION_SECONDS
    assert peer.association.is_established
    peer.release()


def test_a_series_is_sealed_soon_after_its_association_ended(plain: Daemon) -> None:
    data_set = instance()
    began = time.monotonic()
    assert deliver(plain.port, [data_set]) == [0x0000]
    _wait_sealed(plain, data_set.SeriesInstanceUID)
    assert QUIET_SECONDS <= time.monotonic() - began < ASSOCIATION_SECONDS


def test_a_transfer_in_flight_keeps_the_series_open_however_long_it_takes(plain: Daemon) -> None:
    first = instance()
    second = instance(first.SeriesInstanceUID, first.StudyInstanceUID, number=2)
    data = encoded(second)
    peer = Peer(plain.port)
    assert peer.store(first) == 0x0000
    peer.begin(second.SOPInstanceUID.encode(), data[:-100])
    until = time.monotonic() + ASSOCIATION_SECONDS + 1.5
    while time.monotonic() < until:
        assert _open(plain, first.SeriesInstanceUID)
        time.sleep(0.1)
    assert peer.finish(data[-100:]) == 0x0000
    peer.release()
    _wait_sealed(plain, first.SeriesInstanceUID)
    row = plain.rows("SELECT * FROM series WHERE series_instance_uid = ?", first.SeriesInstanceUID)[
        0
    ]
    assert (row["revisions"], row["resends"]) == (1, 0)
    assert _receipts(plain, first.SeriesInstanceUID) == 2


def test_the_same_instance_from_two_senders_at_once_is_kept_once(plain: Daemon) -> None:
    slices = series(8, seed=53)
    files = len(plain.kept_files())
    peers = [Peer(plain.port), Peer(plain.port)]
    together = threading.Barrier(2)

    def deliver(peer: Peer) -> list[int]:
        statuses = []
        for data_set in slices:
            together.wait(20)
            statuses.append(peer.store(data_set))
        peer.release()
        return statuses

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(deliver, peers)) == [[0x0000] * 8] * 2
    assert len(plain.kept_files()) == files + 8
    assert _receipts(plain, slices[0].SeriesInstanceUID) == 16
    query = (
        "SELECT count(*) FROM instance i JOIN series s ON s.id = i.series_id "
        "WHERE s.series_instance_uid = ?"
    )
    assert plain.value(query, slices[0].SeriesInstanceUID) == 8


def test_ten_associations_at_once_store_what_they_acknowledge(plain: Daemon) -> None:
    sets = [series(EACH, seed=600 + number) for number in range(SENDERS)]
    files = len(plain.kept_files())
    with ThreadPoolExecutor(SENDERS) as pool:
        statuses = list(pool.map(lambda slices: deliver(plain.port, slices), sets))
    assert statuses == [[0x0000] * EACH] * SENDERS
    assert len(plain.kept_files()) == files + SENDERS * EACH
    for slices in sets:
        assert _receipts(plain, slices[0].SeriesInstanceUID) == EACH


def _without_series(study_uid: str) -> Dataset:
    data_set = instance(study_uid=study_uid)
    del data_set.SeriesInstanceUID
    return data_set


def _receipts(daemon: Daemon, series_uid: str | None = None) -> int:
    query = "SELECT count(*) FROM receipt r JOIN series s ON s.id = r.series_id"
    if series_uid is None:
        return int(daemon.value(query))
    return int(daemon.value(f"{query} WHERE s.series_instance_uid = ?", series_uid))


def _open(daemon: Daemon, series_uid: str) -> bool:
    query = "SELECT receiving FROM series WHERE series_instance_uid = ?"
    return bool(daemon.value(query, series_uid))


def _wait_sealed(daemon: Daemon, series_uid: str) -> None:
    daemon.wait_until(lambda: not _open(daemon, series_uid), "sealed", 10)
