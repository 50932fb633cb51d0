"""Counters in SQL: exact, in the transaction of what they count, kept over a restart."""

from __future__ import annotations

import threading

import pytest

from audit.builder import Archive, fill
from diptych import metrics
from diptych.audit import counters
from diptych.audit.store import Store


def read(store: Store) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with store.read() as connection:
        return counters.read_counters(connection)


def test_counters_survive_a_new_connection(empty):
    with empty.store.write() as connection:
        counters.increment(connection, "n_total", {"b": "2", "a": "1"})
        counters.increment(connection, "n_total", {"a": "1", "b": "2"}, 4)
        counters.increment(connection, "n_total")
    empty.close()
    store = Store(empty.store.url)
    assert read(store) == {("n_total", (("a", "1"), ("b", "2"))): 5.0, ("n_total", ()): 1.0}
    store.close()


def test_a_transaction_that_fails_counts_nothing(empty):
    def fail() -> None:
        with empty.store.write() as connection:
            counters.increment(connection, "n_total")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert read(empty.store) == {}


def test_no_increment_is_lost_between_threads(empty):
    def count() -> None:
        store = Store(empty.store.url)
        for _ in range(20):
            with store.write() as connection:
                counters.increment(connection, "n_total")
        store.close()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(empty.store) == {("n_total", ()): 80.0}


@pytest.mark.parametrize(
    ("seconds", "le"),
    [(0, "0.005"), (0.005, "0.005"), (0.0051, "0.02"), (900, "900.0"), (901, "+Inf")],
)
def test_an_observation_lies_in_the_first_bucket_not_below_it(empty, seconds, le):
    with empty.store.write() as connection:
        counters.observe(connection, "d", seconds, {"stage": "embed"})
    assert read(empty.store) == {
        ("d", (("le", le), ("stage", "embed"))): 1.0,
        ("d_sum", (("stage", "embed"),)): float(seconds),
    }


def test_a_clock_set_back_never_makes_a_sum_fall(empty):
    with empty.store.write() as connection:
        counters.observe(connection, "d", -5)
    assert read(empty.store)[("d_sum", ())] == 0.0


def test_a_gauge_keeps_its_last_reading_and_its_time(empty):
    with empty.store.write() as connection:
        counters.set_gauge(connection, "g", 1, "text")
        counters.set_gauge(connection, "g", 2.5)
    with empty.store.read() as connection:
        value, text, at = counters.read_gauges(connection)["g"]
    assert (value, text) == (2.5, None)
    assert at > 1_600_000_000_000_000


def test_the_path_counts_what_it_should_and_nothing_else(empty):
    fill(empty)
    counted = {
        (name, *(value for _, value in labels)): value
        for (name, labels), value in read(empty.store).items()
        if "duration" not in name
    }
    receipts, verdicts = "diptych_receipts_total", "diptych_verdicts_total"
    assert counted == {
        # In the order of the labels' names: modality, relation, source.
        (receipts, "north"): 27.0,
        (receipts, "south"): 4.0,
        ("diptych_received_bytes_total", "north"): 2700.0,
        ("diptych_received_bytes_total", "south"): 400.0,
        ("diptych_series_total", "north"): 6.0,
        ("diptych_series_total", "south"): 1.0,
        ("diptych_resends_total", "north"): 1.0,
        (verdicts, "CT", "unique", "north"): 2.0,
        (verdicts, "CT", "exact", "south"): 1.0,
        (verdicts, "CT", "near-duplicate", "north"): 1.0,
        (verdicts, "other", "not-an-image", "north"): 1.0,
        (verdicts, "CT", "not-screenable", "north"): 2.0,
        ("diptych_revision_verdicts_total", "unique", "north"): 1.0,
        ("diptych_cross_source_total", "south"): 1.0,
        ("diptych_failures_total", "unreadable", "judge"): 1.0,
        ("diptych_failures_total", "too-large", "judge"): 1.0,
    }


def test_every_counted_name_and_label_is_declared(filled: Archive):
    for name, labels in read(filled.store):
        family = metrics.COUNTERS.get(name) or metrics.HISTOGRAMS[name.removesuffix("_sum")]
        assert {key for key, _ in labels} - {"le"} == set(family.labels)
