"""No file of ``deploy/`` names a variable, a key or a command that Diptych does not know."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from diptych.cli import app
from diptych.config import load
from diptych.errors import ConfigError
from support import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
FILES = sorted(
    path
    for path in DEPLOY.rglob("*")
    if path.is_file() and path.suffix not in {".lock", ".json"} and not path.is_symlink()
)
VARIABLES = {
    variable: path
    for path in FILES
    for variable in re.findall(r"\bDIPTYCH_[A-Z0-9_]+", path.read_text("utf-8"))
}


def _refusal() -> str:
    try:
        load()
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("variable", sorted(VARIABLES.keys() - {"DIPTYCH_CONFIG"}))
def test_every_variable_is_a_key_of_the_configuration(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    # Whether 1 is a good value is another question.
    assert "is not a configuration key" not in _refusal(), VARIABLES[variable]


def test_a_variable_nobody_knows_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_DICOM__PROT", "1")
    assert "is not a configuration key" in _refusal()


@pytest.mark.parametrize(
    "path",
    # The limits of screening are of another kind, and have a test of their own.
    [p for p in FILES if p.suffix == ".toml" and p.name != "screen-policy.example.toml"],
    ids=lambda p: p.name,
)
def test_every_key_of_a_toml_file_is_known(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tomllib.loads(path.read_text("utf-8"))
    monkeypatch.setenv("DIPTYCH_HTTP__TOKEN_FILE", "/run/secrets/metrics.token")
    load(path)


def _started() -> list[list[str]]:
    """Arguments of every `diptych …` that something here starts."""
    unit = (DEPLOY / "systemd" / "diptych.service").read_text("utf-8")
    found = [shlex.split(line)[1:] for line in re.findall(r"^ExecStart=(.*)$", unit, re.M)]
    compose = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text("utf-8"))
    found.append(compose["services"]["diptych"]["command"])
    dockerfile = (DEPLOY / "docker" / "Dockerfile").read_text("utf-8")
    assert '\nENTRYPOINT ["diptych"]\n' in dockerfile
    (default,) = re.findall(r"^CMD \[(.*)\]$", dockerfile, re.M)
    found.append(re.findall(r'"(.*?)"', default))
    chart = (DEPLOY / "helm" / "diptych" / "templates" / "statefulset.yaml").read_text("utf-8")
    (arguments,) = re.findall(r"^ +args: \[(.*)\]$", chart, re.M)
    found.append(arguments.split(", "))
    return found


def _advised() -> list[list[str]]:
    """The same of what is said; it may leave out what a command needs, or an option's value."""
    found = set()
    for path in FILES:
        text = path.read_text("utf-8")
        found |= set(re.findall(r"`(?:sudo -u diptych )?diptych ([a-z][^`\n…]*)`", text))
        found |= set(re.findall(r"-- diptych (.+)$", text, re.M))
        found |= set(re.findall(r"run --build --rm diptych ([a-z ]+?) *(?:#|$)", text, re.M))
    return [shlex.split(one) + ["1"] * one.split()[-1].startswith("-") for one in sorted(found)]


def _parse(arguments: list[str], **how: bool) -> None:
    command, rest = typer.main.get_command(app), list(arguments)
    context = command.make_context("diptych", list(arguments))
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context, **how)


@pytest.mark.parametrize("arguments", _started(), ids=" ".join)
def test_every_command_line_that_is_started_parses(arguments: list[str]) -> None:
    _parse(arguments)


@pytest.mark.parametrize("arguments", _advised(), ids=" ".join)
def test_every_command_that_is_advised_exists_with_these_options(arguments: list[str]) -> None:
    _parse(arguments, resilient_parsing=True)
