"""What Prometheus scrapes: every child from the first scrape on, bounded, and never a lie."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from audit.builder import Archive, Template, fill, stack
from diptych import metrics
from diptych.audit import counters
from diptych.errors import Reason
from diptych.judge.ladder import Relation
from diptych.web.app import application
from diptych.web.exposition import Exposition

SOURCES = ("north", "south", "other")


@pytest.fixture(scope="session")
def _empty_template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return Template(tmp_path_factory.mktemp("empty"), None, None)


@pytest.fixture(scope="session")
def _filled_template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    return Template(tmp_path_factory.mktemp("filled"), None, fill)


@pytest.fixture
def archive(_empty_template: Template, tmp_path: Path) -> Iterator[Archive]:
    with _empty_template.copy(tmp_path) as made:
        yield made


@pytest.fixture
def filled(_filled_template: Template, tmp_path: Path) -> Iterator[Archive]:
    with _filled_template.copy(tmp_path) as made:
        yield made


def exposition(archive: Archive, sources=SOURCES, gauges=dict) -> Exposition:
    return Exposition(archive.store, sources, gauges)


def scrape(found: Exposition) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Sample name → label pairs → value."""
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(found.render().decode()):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in samples.setdefault(sample.name, {}), "the same child twice"
            samples[sample.name][labels] = sample.value
    return samples


def test_the_first_scrape_holds_every_child_at_zero(archive):
    found = scrape(exposition(archive))
    open_sets = {"source": SOURCES, "reason": (*Reason, "other"), "destination": ("other",)}
    for name, metric in metrics.COUNTERS.items():
        wanted = {tuple(sorted(c.items())) for c in metric.children(open_sets)}
        assert set(found[name]) == wanted
        assert set(found[name].values()) == {0.0}
    for name, metric in metrics.HISTOGRAMS.items():
        children = metric.children(open_sets)
        assert len(found[f"{name}_bucket"]) == len(children) * (len(metrics.DURATION_BUCKETS) + 1)
        assert len(found[f"{name}_count"]) == len(found[f"{name}_sum"]) == len(children)


def test_every_family_is_announced_even_without_a_reading(archive):
    text = exposition(archive).render().decode()
    for name in (*metrics.COUNTERS, *metrics.HISTOGRAMS, *metrics.GAUGES, *metrics.INFOS):
        assert f"# TYPE {name} " in text, name


def test_no_gauge_is_made_up(archive):
    found = scrape(exposition(archive))
    assert not set(metrics.GAUGES) & set(found)
    with archive.store.write() as connection:
        counters.set_gauge(connection, "diptych_index_recall", 0.997)
    found = scrape(exposition(archive, gauges=lambda: {"diptych_pending_series": 3.0}))
    assert found["diptych_index_recall"] == {(): 0.997}
    assert found["diptych_pending_series"] == {(): 3.0}


def test_histograms_are_cumulative_and_their_sum_and_count_are_right(archive):
    seconds = (0.004, 0.02, 0.3, 0.3, 1000.0)
    with archive.store.write() as connection:
        for value in seconds:
            counters.observe(
                connection, "diptych_stage_duration_seconds", value, {"stage": "embed"}
            )
    found = scrape(exposition(archive))
    name, stage = "diptych_stage_duration_seconds", ("stage", "embed")
    buckets = {
        float(dict(labels)["le"]): value
        for labels, value in found[f"{name}_bucket"].items()
        if stage in labels
    }
    assert sorted(buckets) == [*metrics.DURATION_BUCKETS, math.inf]
    for le, value in buckets.items():
        assert value == sum(second <= le for second in seconds)
    assert found[f"{name}_count"][(stage,)] == 5
    assert found[f"{name}_sum"][(stage,)] == pytest.approx(sum(seconds))


def test_what_the_path_counted_is_exposed_and_survives_a_restart(filled):
    before = scrape(exposition(filled))
    north = ("source", "north")
    labels = (("modality", "CT"), ("relation", "near-duplicate"), north)
    assert before["diptych_verdicts_total"][labels] == 1
    assert before["diptych_resends_total"][(north,)] == 1
    filled.close()
    again = Archive(filled.folder)
    assert scrape(exposition(again)) == before
    again.close()


def test_a_source_that_is_no_longer_configured_is_counted_under_other(filled):
    full, reduced = scrape(exposition(filled)), scrape(exposition(filled, ("south", "other")))
    south, other = (("source", "south"),), (("source", "other"),)
    for name in ("diptych_receipts_total", "diptych_received_bytes_total", "diptych_series_total"):
        assert reduced[name][other] == full[name][(("source", "north"),)] > 0
        assert reduced[name][south] == full[name][south] > 0
    for name, metric in metrics.COUNTERS.items():
        if "source" in metric.labels:
            assert sum(reduced[name].values()) == sum(full[name].values())
            assert all(dict(labels)["source"] in ("south", "other") for labels in reduced[name])


def test_two_unknown_sources_add_up(filled):
    found = scrape(exposition(filled, ()))
    assert found["diptych_receipts_total"] == {(("source", "other"),): 31.0}


def test_an_unknown_modality_or_reason_is_counted_under_other(archive):
    archive.judge("A", stack("a", modality="X" * 16), contents=["a"])
    with archive.store.write() as connection:
        counters.increment(
            connection, "diptych_failures_total", {"stage": "judge", "reason": "of-another-version"}
        )
    found = scrape(exposition(archive))
    labels = (("modality", "other"), ("relation", "unique"), ("source", "north"))
    assert found["diptych_verdicts_total"][labels] == 1
    assert found["diptych_failures_total"][(("reason", "other"), ("stage", "judge"))] == 1


def test_nothing_from_the_wire_becomes_a_label(filled):
    filled.judge("A", stack("w", modality="1.2.3\n{}"), contents=["w"], source="PEER\n")
    text = exposition(filled).render().decode()
    assert "1.2.826" not in text
    assert "PEER" not in text
    assert "1.2.3" not in text


def test_label_sets_are_those_of_the_code_that_counts():
    assert tuple(Relation) == metrics.RELATIONS
    assert metrics.COUNTERS["diptych_verdicts_total"].labels["modality"] is metrics.MODALITIES
    assert len(set(metrics.MODALITIES)) == len(metrics.MODALITIES)
    for modality in (None, "", "ct", "XX", "CT\n"):
        assert metrics.modality_label(modality) == "other"
    assert metrics.modality_label("CT") == "CT"


def test_names_follow_prometheus():
    for name, metric in metrics.COUNTERS.items():
        assert name == metric.name
        assert name.endswith("_total"), name
        assert metric.help.endswith(".")
    for name in (*metrics.HISTOGRAMS, *metrics.GAUGES):
        assert name.startswith("diptych_")
        assert not name.endswith("_total")


def test_model_and_provider_are_exposed_when_known(archive):
    assert "diptych_model_info" not in scrape(exposition(archive))
    with archive.store.write() as connection:
        counters.set_gauge(connection, "model_info", 1, "vit abcd CPUExecutionProvider")
    assert scrape(exposition(archive))["diptych_model_info"] == {
        (("fingerprint", "abcd"), ("model", "vit"), ("provider", "CPUExecutionProvider")): 1.0
    }


def client(archive: Archive, conditions: dict[str, str] | None = None, gauges=dict) -> TestClient:
    return TestClient(application(exposition(archive, gauges=gauges), lambda: conditions or {}))


def test_metrics_are_served_in_the_text_format(archive):
    answer = client(archive).get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert answer.headers["content-type"].count("charset") == 1
    assert len(list(text_string_to_metric_families(answer.text))) > 20


def test_metrics_say_503_while_the_database_is_away_and_come_back(archive):
    served = client(archive)
    archive.close()
    hidden = archive.database.rename(archive.folder / "away")
    archive.database.mkdir()
    answer = served.get("/metrics")
    assert (answer.status_code, answer.text) == (503, "the audit database is away\n")
    archive.database.rmdir()
    hidden.rename(archive.database)
    assert served.get("/metrics").status_code == 200


def test_metrics_say_503_when_the_spool_cannot_be_read(archive):
    def gauges() -> dict[str, float]:
        raise FileNotFoundError("spool")

    answer = client(archive, gauges=gauges).get("/metrics")
    assert (answer.status_code, answer.text) == (503, "the spool cannot be read\n")


def test_health_is_ok_whatever_else_is_wrong(archive):
    served = client(archive, {"database": "away"})
    archive.close()
    answer = served.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")


def test_readiness_names_each_condition(archive):
    answer = client(archive, {"database": "", "spool": ""}).get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "conditions": {"database": "ok", "spool": "ok"}}
    answer = client(archive, {"database": "", "spool": "spool: No space left"}).get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {
        "ready": False,
        "conditions": {"database": "ok", "spool": "spool: No space left"},
    }


def test_nothing_else_is_served(archive):
    served = client(archive)
    for path in ("/", "/metrics/x", "/docs", "/openapi.json"):
        assert served.get(path).status_code == 404
    assert served.post("/metrics").status_code == 405
