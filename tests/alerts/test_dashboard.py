"""The Grafana dashboard: provisioned as it lies here, every panel drawn and explained."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from alerts.rules import DASHBOARD, exported, panels

GRAFANA = DASHBOARD.parent.parent
COLUMNS = 24  # of Grafana's grid
BOARD = json.loads(DASHBOARD.read_text("utf-8"))
KINDS = {"timeseries", "stat", "bargauge"}
DRAWN = [*panels(), *(p for p in BOARD["panels"] if p["type"] == "row")]


def test_what_provisioning_needs_is_there() -> None:
    assert BOARD["uid"] == "diptych"
    assert BOARD["title"]
    assert BOARD["schemaVersion"] >= 36  # the first with datasources as objects
    assert "id" not in BOARD, "an id of one Grafana would overwrite another's dashboard"
    (provider,) = _yaml("dashboards/diptych.yml")["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"]
    (source,) = _yaml("datasources/prometheus.yml")["datasources"]
    assert source["type"] == "prometheus"


def test_every_panel_has_its_own_number_and_place() -> None:
    numbers = [panel["id"] for panel in DRAWN]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in DRAWN:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another"
        taken |= cells


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_has_what_grafana_draws_it_from(panel: dict) -> None:
    assert panel["type"] in KINDS
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs)
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert target["range"] != target["instant"]
        assert target["range"] == (panel["type"] == "timeseries")


def test_every_variable_is_declared_and_every_declared_one_used() -> None:
    declared = {variable["name"] for variable in BOARD["templating"]["list"]}
    text = json.dumps([BOARD["panels"], BOARD["annotations"]])
    used = set(re.findall(r"\$\{?([a-z]+)\}?", text))
    assert used == declared


def test_the_variables_ask_for_metrics_that_exist() -> None:
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            name = re.fullmatch(r"label_values\((\w+), \w+\)", variable["definition"])
            assert name
            assert name.group(1) in exported()


@pytest.mark.parametrize(
    "shown",
    [
        "ratio6h",
        "relation",
        "diptych_series_total",
        "diptych_stage_duration_seconds",
        "diptych_pending_series",
        "diptych_spool_free_bytes",
        "diptych_index_recall",
        "diptych_model_info",
    ],
)
def test_it_shows_what_was_asked_for(shown: str) -> None:
    assert shown in json.dumps(BOARD["panels"])


def _yaml(path: str) -> dict:
    return yaml.safe_load((GRAFANA / "provisioning" / path).read_text("utf-8"))
