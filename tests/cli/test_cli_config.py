"""``diptych config``, ``--version`` and ``--help``."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from cli.command_line import Diptych
from support import REPOSITORY


def test_check_accepts_the_example(diptych: Diptych) -> None:
    done = diptych("config", "check", "--config", REPOSITORY / "deploy" / "diptych.example.toml")
    assert (done.returncode, done.stdout) == (0, "the configuration is good\n")


def test_check_refuses_with_the_key_in_words(diptych: Diptych, tmp_path: Path) -> None:
    file = tmp_path / "diptych.toml"
    for text, words in (
        (b"[dicom]\nprot = 1\n", "dicom.prot: unknown key"),
        (b"[dicom]\nport = 1 2\n", "is not TOML"),
        (b'[dicom]\nae_title = "\xff"\n', "is not TOML"),
    ):
        file.write_bytes(text)
        done = diptych("config", "check", "--config", file)
        assert (done.returncode, done.stdout) == (4, "")
        assert words in done.stderr
        assert done.stderr.startswith("diptych: ")


def test_a_file_that_is_not_there_is_named(diptych: Diptych, tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        done = diptych("config", "check", "--config", path)
        assert done.returncode == 4
        assert str(path) in done.stderr


def test_show_prints_what_is_in_force_as_json(diptych: Diptych, tmp_path: Path) -> None:
    file = tmp_path / "diptych.toml"
    file.write_text("[dicom]\nport = 7001\nacceptors = 2\n[http]\nport = 7002\n", "utf-8")
    done = diptych(
        *("config", "show", "--config", file, "--data", "/of/the/line"),
        DIPTYCH_DICOM__PORT="7003",
        DIPTYCH_DATA="/of/the/environment",
    )
    shown = json.loads(done.stdout)
    assert (shown["dicom"]["port"], shown["dicom"]["acceptors"]) == (7003, 2)
    assert (shown["http"]["port"], shown["http"]["host"]) == (7002, "127.0.0.1")
    assert shown["data"] == "/of/the/line"
    assert shown["source"][0]["name"] == "default"


def test_show_hides_the_password_of_the_database(diptych: Diptych) -> None:
    url = "sqlite://me:s3cret@/name"
    done = diptych("config", "show", DIPTYCH_DATABASE__URL=url)
    assert done.returncode == 0, done.stderr
    assert "s3cret" not in done.stdout
    assert "***" in done.stdout


def test_version_is_the_installed_one(diptych: Diptych) -> None:
    assert diptych("--version").stdout == f"diptych {version('diptych')}\n"


@pytest.mark.parametrize(
    "arguments", [("frobnicate",), ("serve", "--frobnicate"), ("forget", "first"), ("forget",)]
)
def test_a_wrong_command_line_is_a_usage_error(
    diptych: Diptych, arguments: tuple[str, ...]
) -> None:
    done = diptych(*arguments)
    assert done.returncode == 2
    assert done.stderr


def test_help_names_every_command_and_fits_80_columns(diptych: Diptych) -> None:
    said = diptych("--help", COLUMNS="80").stdout
    for name in ("serve", "demo", "verdicts", "audit", "index", "forget", "doctor", "config"):
        assert f" {name} " in said
    assert "…" not in said
    for name in ("serve", "verdicts", "forget"):
        said = diptych(name, "--help", COLUMNS="80").stdout
        for words in ("--data", "DIPTYCH_DATA", "--config", "DIPTYCH_CONFIG"):
            assert words in said
        assert all(len(line) <= 80 for line in said.splitlines())
        assert "…" not in said
