"""What is deployed: the rules, the dashboard, and the PromQL in them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diptych import metrics
from support import REPOSITORY

RULES = REPOSITORY / "deploy" / "prometheus" / "diptych.rules.yml"
RUNBOOKS = REPOSITORY / "deploy" / "runbooks"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "dashboards" / "diptych.json"

# What Prometheus adds to every sample of a scrape.
OF_THE_SCRAPE = {"job", "instance"}
# Metrics that Prometheus makes by itself.
BUILT_IN = {"up": OF_THE_SCRAPE, "ALERTS": {"alertname", "alertstate", "severity"}}

_STRING = r'"(?:[^"\\]|\\.)*"'
_WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS |= {"offset", "bool", "Inf", "NaN"}


@dataclass(frozen=True)
class Selector:
    """A metric named in PromQL, with the labels that are matched and the values demanded."""

    name: str
    matched: dict[str, tuple[str, str]]


def groups() -> list[dict[str, Any]]:
    return yaml.safe_load(RULES.read_text("utf-8"))["groups"]


def rules(kind: str) -> list[dict[str, Any]]:
    """kind: alert or record."""
    return [rule for group in groups() for rule in group["rules"] if kind in rule]


def panels() -> list[dict[str, Any]]:
    """All panels but rows, those inside rows as well."""
    found: list[dict[str, Any]] = []
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        found += panel.get("panels", []) if panel["type"] == "row" else [panel]
    return found


def plain(expression: str) -> str:
    """Grafana's variables as Prometheus would get them."""
    for variable, value in (("$__rate_interval", "5m"), ("$__range", "1h"), ("$__interval", "1m")):
        expression = expression.replace(variable, value)
    return re.sub(r"\$(source|instance|destination)\b", ".*", expression)


def selectors(expression: str) -> list[Selector]:
    """Every metric of an expression. Words before a bracket are functions or aggregations; words in
    the bracket after ``by``, ``on`` … are labels."""
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", expression)
    found = []
    pattern = rf"([a-zA-Z_:][\w:]*)\s*(\{{(?:[^}}\"]|{_STRING})*\}})?"
    for match in re.finditer(rf"{_STRING}|{pattern}", text):
        name, braces = match.group(1), match.group(2)
        rest = text[match.end() :].lstrip()
        before = text[: match.start()]
        if not name or name in _WORDS or rest.startswith("(") or before[-1:].isdigit():
            continue
        if before.endswith("["):
            continue
        matched = {
            label: (operator, value)
            for label, operator, value in re.findall(
                r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"', braces or ""
            )
        }
        found.append(Selector(name, matched))
    return found


def exported() -> dict[str, dict[str, tuple[str, ...] | None]]:
    """Sample name → label → its closed set (None: open), of the code's registry."""
    found: dict[str, dict[str, tuple[str, ...] | None]] = {}
    for name, metric in {**metrics.COUNTERS, **metrics.GAUGES}.items():
        found[name] = dict(metric.labels)
    for name, metric in metrics.HISTOGRAMS.items():
        found[f"{name}_bucket"] = {**metric.labels, "le": None}
        found[f"{name}_sum"] = found[f"{name}_count"] = dict(metric.labels)
    found["diptych_build_info"] = {"version": None}
    found["diptych_model_info"] = {"model": None, "fingerprint": None, "provider": None}
    return found


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"*{suffix}"))
