"""A real Prometheus scrapes a real daemon that receives duplicates over DICOM, and the alert fires.

The rules are those that are deployed, with every duration a sixtieth: an hour is a minute.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from alerts.rules import RULES
from cli.command_line import judged, renamed
from running import Daemon, program, send, series

FASTER = 60
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
SOURCES = [
    {
        "name": "router",
        "ae_titles": ["ROUTER"],
        "alert_duplicate_ratio": 0.2,
        "alert_minimum_series": 6,
    },
    {"name": "research"},
]
NEW = 5


class Prometheus:
    """The real one, on its own folder and a port that was free."""

    def __init__(self, folder: Path, target: str) -> None:
        folder.mkdir()
        (folder / "rules.yml").write_text(yaml.safe_dump(faster()), "utf-8")
        (folder / "prometheus.yml").write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": ["rules.yml"],
                    "scrape_configs": [
                        {"job_name": "diptych", "static_configs": [{"targets": [target]}]}
                    ],
                }
            ),
            "utf-8",
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.log = folder / "log.txt"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )

    def ask(self, path: str) -> Any:
        """The data of an answer of its HTTP API; None while it starts."""
        try:
            url = f"http://127.0.0.1:{self.port}/api/v1/{path}"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def firing(self) -> dict[str, dict[str, Any]]:
        """Alert name → the alert."""
        found = (self.ask("alerts") or {"alerts": []})["alerts"]
        return {one["labels"]["alertname"]: one for one in found if one["state"] == "firing"}

    def wait_until(self, condition: Callable[[], Any], what: str, seconds: float = 180) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.2)
        raise AssertionError(f"not {what}: {self.firing()}\n{self.log.read_text()}")


def faster() -> dict[str, Any]:
    """The deployed rules in which every duration is a sixtieth, and nothing else is changed."""

    def shorter(match: re.Match[str]) -> str:
        return f"{int(match[1]) * SECONDS[match[2]] * 1000 // FASTER}ms"

    loaded = yaml.safe_load(RULES.read_text("utf-8"))
    for group in loaded["groups"]:
        if "interval" in group:
            group["interval"] = re.sub(r"(\d+)([smhd])", shorter, group["interval"])
        for rule in group["rules"]:
            rule["expr"] = re.sub(
                r"(?<=\[)(\d+)([smhd])(?=\])|(?<=offset )(\d+)([smhd])",
                lambda m: shorter(re.fullmatch(r"(\d+)([smhd])", m[0])),  # type: ignore[arg-type]
                rule["expr"],
            )
            if "for" in rule:
                rule["for"] = re.sub(r"(\d+)([smhd])", shorter, rule["for"])
    return loaded


@pytest.fixture
def scraped(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> Iterator[tuple[Daemon, Prometheus]]:
    """A daemon, and a Prometheus that has scraped it once."""
    daemon = make_daemon(
        DIPTYCH_SOURCE=json.dumps(SOURCES), DIPTYCH_JOBS__AUDIT="2", DIPTYCH_JOBS__SNAPSHOT="2"
    ).start()
    prometheus = Prometheus(tmp_path / "prometheus", f"127.0.0.1:{daemon.http_port}")
    try:
        query = "query?query=count(diptych_verdicts_total)"
        prometheus.wait_until(
            lambda: (prometheus.ask(query) or {}).get("result"), "scraped for the first time"
        )
        yield daemon, prometheus
    finally:
        prometheus.process.terminate()
        prometheus.process.wait(30)


# What others write to this disk is no doing of the daemon's.
OF_THE_DISK = {"DiptychSpoolFilling"}


def test_duplicates_over_dicom_make_the_alert_fire_and_it_names_what_they_are(
    scraped: tuple[Daemon, Prometheus],
) -> None:
    daemon, prometheus = scraped
    new = [series(4, seed=number) for number in range(NEW)]
    for one in new:
        assert set(send(daemon.port, one, calling="ROUTER")) == {0}
    judged(daemon, NEW)
    time.sleep(8)  # longer than the five minutes, a sixtieth of them, that an alert waits
    assert set(prometheus.firing()) <= OF_THE_DISK

    for one in new[:3]:
        assert set(send(daemon.port, renamed(one), calling="ROUTER")) == {0}
        assert set(send(daemon.port, one, calling="ROUTER")) == {0}  # a re-send, which is none
    judged(daemon, NEW + 3)
    alert = prometheus.wait_until(
        lambda: prometheus.firing().get("DiptychDuplicateRateHigh"), "firing"
    )
    assert set(prometheus.firing()) - OF_THE_DISK == {"DiptychDuplicateRateHigh"}
    assert alert["labels"]["source"] == "router"
    assert alert["labels"]["instance"] == f"127.0.0.1:{daemon.http_port}"
    prometheus.wait_until(
        lambda: (
            "exact 3, resend 3."
            in prometheus.firing()["DiptychDuplicateRateHigh"]["annotations"]["description"]
        ),
        "named by its kind",
    )

    target = prometheus.firing()["DiptychDuplicateRateHigh"]["labels"]["instance"]
    assert daemon.stop() == 0
    down = prometheus.wait_until(lambda: prometheus.firing().get("DiptychDown"), "down")
    assert down["labels"] == {
        "alertname": "DiptychDown",
        "instance": target,
        "job": "diptych",
        "severity": "critical",
    }
