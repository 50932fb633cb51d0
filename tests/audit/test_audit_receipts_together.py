"""Receipts in one transaction leave what the same receipts leave one after the other."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from audit.builder import Archive
from diptych.audit import receipts
from diptych.errors import Reason

TABLES = {
    "series": "source, study_instance_uid, receiving, new_content",
    "blob": "sha256, transfer_syntax_uid, locator, bytes, purged_at IS NULL",
    "instance": "s.source, s.series_instance_uid, sop_instance_uid, b.sha256",
    "receipt": "s.series_instance_uid, i.sop_instance_uid, b.sha256",
    "counter": "name, labels, value",
}
JOINS = {
    "instance": "instance i JOIN series s ON s.id = i.series_id JOIN blob b ON b.id = i.blob_id",
    "receipt": "receipt r JOIN series s ON s.id = r.series_id "
    "JOIN instance i ON i.id = r.instance_id JOIN blob b ON b.id = i.blob_id",
}


@pytest.mark.parametrize("seed", range(12))
def test_together_or_one_by_one_is_the_same(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    left, right = (Archive(_made(tmp_path / name)) for name in ("left", "right"))
    for _ in range(6):
        arrivals = [_arrival(rng) for _ in range(rng.randint(1, 12))]
        exists = _exists(seed, {arrival.stored.locator for arrival in arrivals})
        one_by_one = [receipts.record(left.store, [a], exists)[0] for a in arrivals]
        together = receipts.record(right.store, arrivals, exists)
        assert [(r.bytes_known, r.new_content) for r in together] == [
            (r.bytes_known, r.new_content) for r in one_by_one
        ]
        assert _tables(right) == _tables(left)
        if rng.random() < 0.5:
            purged, lost = rng.randint(0, 9), rng.randint(0, 9)
            for archive in (left, right):
                _judged(archive, purged, lost)
    assert len(_tables(left)["blob"]) > 3


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _arrival(rng: random.Random) -> receipts.Arrival:
    """Few contents, series and sources, so that they meet in every way."""
    archive = Archive.__new__(Archive)
    content = f"c{rng.randint(0, 9)}"
    source = rng.choice(["north", "south"])
    arrival = archive.arrival(f"s{rng.randint(0, 3)}", content, source=source)
    locator = f"instances/{source}/00/{rng.getrandbits(128):032x}.dcm"
    return replace(arrival, stored=replace(arrival.stored, locator=locator))


def _exists(seed: int, just_written: set[str]) -> Callable[[str], bool]:
    """One older file in five is gone."""
    return lambda locator: locator in just_written or int(locator[-6:-4], 16) % 5 != seed % 5


def _judged(archive: Archive, purged: int, lost: int) -> None:
    """The series are sealed; one content is purged, and one could not be read."""
    with archive.store.write() as connection:
        connection.exec_driver_sql("UPDATE series SET receiving = 0, new_content = 0")
        for statement, content in (
            ("UPDATE blob SET purged_at = 1 WHERE sha256 = ?", purged),
            (
                f"UPDATE instance SET outcome = '{Reason.SPOOL_FILE_LOST}' WHERE blob_id IN "
                "(SELECT id FROM blob WHERE sha256 = ?)",
                lost,
            ),
        ):
            sha256 = _arrival_of(content).stored.sha256
            connection.exec_driver_sql(statement, (sha256,))


def _arrival_of(content: int) -> receipts.Arrival:
    return Archive.__new__(Archive).arrival("s", f"c{content}")


def _tables(archive: Archive) -> dict[str, list[tuple[object, ...]]]:
    with archive.store.read() as connection:
        return {
            table: sorted(
                tuple(row)
                for row in connection.exec_driver_sql(
                    f"SELECT {columns} FROM {JOINS.get(table, table)}"
                )
            )
            for table, columns in TABLES.items()
        }
