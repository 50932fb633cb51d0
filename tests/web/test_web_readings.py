"""The gauges of a scrape: what they say is so, and when they were read stands beside them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.builder import Archive, Template, stack
from diptych import jobs, metrics
from diptych.audit import counters
from diptych.config import Config, load
from diptych.readings import Readings
from diptych.receive.spool import Spool
from diptych.web.exposition import Exposition
from running import Daemon

SOURCES = [{"name": "north", "alert_duplicate_ratio": 0.2}, {"name": "south"}]


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return Template(tmp_path_factory.mktemp("empty"), None, None)


@pytest.fixture
def archive(_template: Template, tmp_path: Path) -> Iterator[Archive]:
    with _template.copy(tmp_path) as made:
        yield made


def config_of(archive: Archive, **more: object) -> Config:
    return load(overrides={"data": archive.folder, "source": SOURCES, **more})


def readings_of(archive: Archive) -> Readings:
    config = config_of(archive)
    spool = Spool(config.spool_folder, config.source_names())
    spool.prepare()
    return Readings(config, archive.store, spool, str, str)


def of(readings: Readings, name: str) -> dict[str, float]:
    found = readings.gauges()[name]
    assert isinstance(found, dict)
    return found


def test_limits_of_the_configuration_are_exported_for_every_source(archive: Archive) -> None:
    readings = readings_of(archive)
    limit = of(readings, "diptych_alert_duplicate_ratio_limit")
    assert limit == {"north": 0.2, "south": 0.05, "other": 0.05}
    assert set(of(readings, "diptych_alert_minimum_series")) == set(limit)
    assert set(of(readings, "diptych_alert_silent_seconds")) == set(limit)


def test_the_last_receipt_of_each_source_is_known_from_the_first_scrape_on(
    archive: Archive,
) -> None:
    archive.judge("A", stack("a"), contents=["a"])
    archive.receive("Z", ["z"], source="gone")
    archive.older(7200)
    readings, name = readings_of(archive), "diptych_last_receipt_timestamp_seconds"
    found = of(readings, name)
    assert set(found) == {"north", "other"}
    assert found["north"] == pytest.approx(time.time() - 7200, abs=60)
    archive.receive("B", ["b"])  # later scrapes ask for what is new, and forget nothing
    again = of(readings, name)
    assert again["north"] == pytest.approx(time.time(), abs=60)
    assert again["other"] == found["other"]
    archive.receive("A", ["a"])
    assert of(readings, name)["north"] > again["north"]


def test_a_reading_that_is_kept_says_when_it_was_taken(archive: Archive) -> None:
    with archive.store.write() as connection:
        counters.set_gauge(connection, "diptych_index_recall", 0.5)
        counters.set_gauge(connection, "readiness_probe", 1)
    archive.tamper("UPDATE gauge SET updated_at = updated_at - 3600000000")
    text = Exposition(archive.store, ("north",), dict).render().decode()
    (line,) = [one for one in text.splitlines() if one.startswith("diptych_check_timestamp")]
    assert line.startswith('diptych_check_timestamp_seconds{check="diptych_index_recall"} ')
    assert float(line.rpartition(" ")[2]) == pytest.approx(time.time() - 3600, abs=60)


def test_the_audit_check_counts_what_was_changed(archive: Archive) -> None:
    archive.judge("A", stack("a"), contents=["a"])

    def problems() -> float:
        assert jobs.check_audit(archive.store, archive.head_file) >= 0
        with archive.store.read() as connection:
            return counters.read_gauges(connection)["diptych_audit_problems"][0]

    assert problems() == 0
    archive.tamper("UPDATE verdict SET relation = 'exact'")
    assert problems() == 1


def test_after_a_start_the_audit_check_comes_when_it_is_due_or_found_something(
    archive: Archive,
) -> None:
    assert jobs._until_audit(archive.store, 86_400) == jobs.FIRST_AUDIT_SECONDS
    jobs.check_audit(archive.store, archive.head_file)
    assert jobs._until_audit(archive.store, 86_400) == pytest.approx(86_400, abs=60)
    assert jobs._until_audit(archive.store, 60) == pytest.approx(60, abs=1)
    archive.tamper("UPDATE gauge SET updated_at = updated_at - 86000000000")
    assert jobs._until_audit(archive.store, 86_400) == pytest.approx(400, abs=60)
    archive.tamper("UPDATE gauge SET value = 1")
    assert jobs._until_audit(archive.store, 86_400) == jobs.FIRST_AUDIT_SECONDS


def test_a_daemon_checks_by_itself_and_says_when(make_daemon) -> None:
    daemon: Daemon = make_daemon(DIPTYCH_JOBS__AUDIT="1", DIPTYCH_JOBS__RECALL="1").start()
    for check in metrics.CHECKS:
        sample = f'diptych_check_timestamp_seconds{{check="{check}"}}'
        daemon.wait_until(lambda s=sample: s in daemon.get("/metrics")[1], f"{check} read")
        assert daemon.metric(sample) == pytest.approx(time.time(), abs=60)
    assert daemon.metric("diptych_audit_problems") == 0
    assert daemon.metric("diptych_provider_fallback") == 0
    assert daemon.stop() == 0
