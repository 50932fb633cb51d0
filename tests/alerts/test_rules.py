"""The rules that are deployed: promtool accepts them, every alert fires when it should, and nothing
in them names what the daemon does not export."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from alerts.rules import (
    BUILT_IN,
    DASHBOARD,
    OF_THE_SCRAPE,
    RULES,
    Selector,
    exported,
    files,
    panels,
    plain,
    rules,
    selectors,
)
from running import program
from support import REPOSITORY

HERE = Path(__file__).parent
TESTS = files(HERE, ".test.yml")
ALERTS = [rule["alert"] for rule in rules("alert")]
# Labels that rules themselves add.
OWN_LABELS = {"story", "severity", "alertname", "alertstate"}


def promtool(*arguments: object) -> str:
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", RULES)


def test_promtool_accepts_the_example_configuration() -> None:
    example = RULES.with_name("prometheus.example.yml")
    assert "1 rule files found" in promtool("check", "config", example)


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_alerts_fire_when_they_should_and_else_are_silent(file: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", file)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_seen_firing(alert: str) -> None:
    expected = [
        sample["labels"]
        for file in TESTS
        for scenario in yaml.safe_load(file.read_text("utf-8"))["tests"]
        for check in scenario.get("promql_expr_test", ())
        for sample in check["exp_samples"]
    ]
    assert any(f'alertname="{alert}"' in labels for labels in expected)


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_what_it_is_and_what_to_do(rule: dict) -> None:
    assert re.fullmatch(r"Diptych[A-Z]\w+", rule["alert"])
    assert rule["labels"]["severity"] in ("critical", "warning")
    said = rule["annotations"]
    assert set(said) == {"summary", "description", "runbook_url"}
    assert said["runbook_url"].endswith(f"/{rule['alert']}.md")
    assert "\n" not in said["summary"]


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: rule["alert"])
def test_annotations_name_labels_that_the_alert_has(rule: dict) -> None:
    known = set(OF_THE_SCRAPE)
    for selector in selectors(rule["expr"]):
        known |= labels_of(selector.name)
    words = " ".join(rule["annotations"].values())
    assert set(re.findall(r"\$labels\.(\w+)", words)) <= known


def everything() -> list[tuple[str, Selector]]:
    """Every metric in rules, their annotations, tests and the dashboard, and where it stands."""
    found = []
    for rule in [*rules("alert"), *rules("record")]:
        name = rule.get("alert") or rule["record"]
        found += [(name, selector) for selector in selectors(rule["expr"])]
        for text in rule.get("annotations", {}).values():
            for query in re.findall(r'query \(printf "([^"]*)"', text):
                query = query.replace("'%s'", '""').replace("'", '"')
                found += [(name, selector) for selector in selectors(query)]
    for panel in panels():
        for target in panel["targets"]:
            found += [(panel["title"], s) for s in selectors(plain(target["expr"]))]
    for file in TESTS:
        for scenario in yaml.safe_load(file.read_text("utf-8"))["tests"]:
            for given in scenario["input_series"]:
                found += [
                    (f"{file.name}: {scenario['name']}", s) for s in selectors(given["series"])
                ]
    return found


def labels_of(name: str) -> set[str]:
    """Labels of a metric or of what a rule records."""
    if name in exported():
        return {*exported()[name], *OF_THE_SCRAPE}
    if name in BUILT_IN:
        return BUILT_IN[name]
    made = [rule for rule in rules("record") if rule["record"] == name]
    assert made, f"nothing is called {name}"
    found = {*OWN_LABELS}
    for rule in made:
        for selector in selectors(rule["expr"]):
            found |= labels_of(selector.name)
    return found


@pytest.mark.parametrize(("where", "selector"), everything(), ids=lambda x: str(x)[:60])
def test_every_metric_that_is_named_is_exported_with_those_labels(
    where: str, selector: Selector
) -> None:
    assert set(selector.matched) <= labels_of(selector.name), where
    for label, (operator, value) in selector.matched.items():
        closed = exported().get(selector.name, {}).get(label)
        if closed is None or value in ("", ".*"):
            continue
        for one in value.split("|") if "~" in operator else [value]:
            assert one in closed, f"{where}: {label}={one!r} does not exist"


def test_the_parser_of_the_tests_above_misses_nothing() -> None:
    found = selectors(
        'sum without (modality) (increase(a_total{x="1|2",y!~"}"}[1h] offset 1d)) / b:c5m '
        '> bool 3e5 and on (job) max_over_time(d{z=""}[30m]) or time() - e unless 0.5 * f'
    )
    assert [s.name for s in found] == ["a_total", "b:c5m", "d", "e", "f"]
    assert found[0].matched == {"x": ("=", "1|2"), "y": ("!~", "}")}
    named = {word for rule in rules("record") for word in re.findall(r"diptych_\w+", rule["expr"])}
    seen = {s.name for rule in rules("record") for s in selectors(rule["expr"])}
    assert {name for name in named if f"{name}" in exported()} <= seen


def test_labels_that_are_grouped_by_exist() -> None:
    known = {label for labels in exported().values() for label in labels}
    known |= OF_THE_SCRAPE | OWN_LABELS
    texts = [rule["expr"] for rule in [*rules("alert"), *rules("record")]]
    texts += [target["expr"] for panel in panels() for target in panel["targets"]]
    for text in texts:
        for inside in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", text):
            assert set(re.split(r"\s*,\s*", inside.strip())) <= known, text


def test_promtool_parses_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    made = [
        {"record": f"panel:{number}:{target['refId']}", "expr": plain(target["expr"])}
        for number, panel in enumerate(panels())
        for target in panel["targets"]
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": made}]}), "utf-8")
    assert f"{len(made)} rules found" in promtool("check", "rules", file)


def test_what_is_deployed_is_where_the_readme_says() -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    for path in (RULES, DASHBOARD, RULES.with_name("prometheus.example.yml")):
        assert str(path.relative_to(REPOSITORY)) in readme
