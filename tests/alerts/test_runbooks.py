"""Runbooks: one for each alert, in four parts, and what they tell somebody to type exists."""

from __future__ import annotations

import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest

import forked
from alerts.rules import RUNBOOKS, exported, files, rules
from diptych.config import Config
from diptych.errors import Reason
from diptych.metrics import REJECTIONS
from support import REPOSITORY

BOOKS = files(RUNBOOKS, ".md")
ALERTS = {rule["alert"] for rule in rules("alert")}
PARTS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
# What is asked besides ourselves; `curl` of the daemon's own pages.
FOREIGN = ("curl -s http://127.0.0.1:8112/",)
PAGES = ("readyz", "healthz", "metrics")


def commands(text: str) -> list[str]:
    """Every `diptych …`, in a line of code or between backticks."""
    inline = re.findall(r"`(diptych [^`]+)`", text)
    return inline + [line for line in code(text) if line.startswith("diptych ")]


def code(text: str) -> list[str]:
    text = text.replace("\\\n", " ")  # a line that goes on
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_each_alert_has_its_runbook_and_each_runbook_its_alert() -> None:
    assert {book.stem for book in BOOKS} == ALERTS


def test_the_readme_has_a_line_for_each_alert_that_links_its_runbook() -> None:
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    found = re.findall(r"^\| \[(\w+)\]\(deploy/runbooks/(\w+)\.md\)(, critical)? \|", readme, re.M)
    assert {name for name, _, _ in found} == ALERTS
    assert all(name == target for name, target, _ in found)
    critical = {r["alert"] for r in rules("alert") if r["labels"]["severity"] == "critical"}
    assert {name for name, _, said in found if said} == critical


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_runbook_has_its_four_parts_in_order_and_none_is_empty(book: Path) -> None:
    text = book.read_text("utf-8")
    assert text.startswith(f"# {book.stem}\n")
    heads = re.split(r"^## (\w+)\n", text, flags=re.MULTILINE)
    assert heads[1::2] == PARTS
    assert all(len(part.strip()) > 20 for part in heads[2::2])


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_diagnosis_begins_with_a_command(book: Path) -> None:
    diagnosis = book.read_text("utf-8").partition("## Diagnosis\n")[2]
    assert diagnosis.startswith("```sh\n")
    first = code(diagnosis)[0]
    if not first.startswith("diptych "):
        assert first.startswith(FOREIGN)
        assert first.rpartition("/")[2] in PAGES


@pytest.mark.parametrize(
    "command",
    sorted({c for book in (*BOOKS, REPOSITORY / "README.md") for c in commands(book.read_text())}),
)
def test_every_command_and_option_that_is_named_exists(command: str) -> None:
    words = shlex.split(command.replace("…", ""), comments=True)[1:]
    path: list[str] = []
    for word in words:
        if not re.fullmatch(r"[a-z]+(-[a-z]+)*", word) or word not in _help(*path):
            break
        path.append(word)
    assert path, f"{command}: no such command"
    said = _help(*path)
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{option}\b", said), f"{command}: no option {option}"


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_links_metrics_and_keys_that_are_named_exist(book: Path) -> None:
    text = book.read_text("utf-8")
    for name, target in re.findall(r"\[(\w+)\]\((\w+)\.md\)", text):
        assert name == target
        assert target in ALERTS
    for name in re.findall(r"`(diptych_\w+)", text):
        assert name in exported()
    for section, key in re.findall(r"`(\w+)\.([a-z_]+)(?: = [^`]*)?`", text):
        if section in Config.model_fields:
            table = Config.model_fields[section].annotation
            assert key in table.model_fields, f"{section}.{key}"  # type: ignore[union-attr]


def test_reasons_that_are_named_exist() -> None:
    text = (RUNBOOKS / "DiptychNotScreenable.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", text)) - {"not-screenable"}
    assert named
    assert named <= set(Reason)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_log_events_that_are_named_exist(book: Path) -> None:
    told = " ".join(re.findall(r"[^.?]*\b(?:[Ee]vents?|the log)\b[^.?]*", book.read_text("utf-8")))
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", told)) - set(Reason) - set(REJECTIONS)
    table = (REPOSITORY / "deploy" / "events.md").read_text("utf-8")
    assert named <= set(re.findall(r"`([a-z-]+)`", table))


@cache
def _help(*path: str) -> str:
    done = forked.run(
        [sys.executable, "-m", "diptych", *path, "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, f"diptych {' '.join(path)} --help: {done.stderr}"
    return done.stdout
