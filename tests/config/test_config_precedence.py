"""Command line over DIPTYCH_… over TOML over defaults, key by key."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from diptych.config import Config, load
from diptych.sections import Source


def _file(folder: Path, text: str) -> Path:
    path = folder / "diptych.toml"
    path.write_text(text, "utf-8")
    return path


def test_without_anything_the_defaults_hold() -> None:
    config = load()
    assert (config.dicom.port, config.http.port, config.dicom.ae_title) == (11112, 8112, "DIPTYCH")
    assert config.source == (Source(name="default"),)
    assert config.data == Path.cwd() / "diptych-data"


def test_the_file_wins_over_the_defaults(tmp_path: Path) -> None:
    config = load(_file(tmp_path, "[dicom]\nport = 7001\n"))
    assert (config.dicom.port, config.http.port) == (7001, 8112)


def test_the_environment_wins_over_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_DICOM__PORT", "7002")
    assert load().dicom.port == 7002


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIPTYCH_DICOM__PORT", "7002")
    assert load(_file(tmp_path, "[dicom]\nport = 7001\n")).dicom.port == 7002


def test_the_command_line_wins_over_the_defaults() -> None:
    assert load(overrides={"dicom": {"port": 7003}}).dicom.port == 7003


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = _file(tmp_path, "[dicom]\nport = 7001\n")
    assert load(file, {"dicom": {"port": 7003}}).dicom.port == 7003


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_DICOM__PORT", "7002")
    assert load(overrides={"dicom": {"port": 7003}}).dicom.port == 7003


def test_an_override_of_one_key_leaves_the_others_of_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _file(tmp_path, '[dicom]\nport = 7001\nae_title = "FILE"\nacceptors = 2\n')
    monkeypatch.setenv("DIPTYCH_DICOM__ACCEPTORS", "3")
    dicom = load(file, {"dicom": {"port": 7003}}).dicom
    assert (dicom.port, dicom.acceptors, dicom.ae_title, dicom.maximum_pdu) == (
        7003,
        3,
        "FILE",
        131072,
    )


def test_sources_of_the_environment_replace_those_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _file(tmp_path, '[[source]]\nname = "a"\n[[source]]\nname = "b"\n')
    assert [source.name for source in load(file).source] == ["a", "b"]
    monkeypatch.setenv("DIPTYCH_SOURCE", '[{"name": "c", "ae_titles": ["CT1"]}]')
    assert load(file).source == (Source(name="c", ae_titles=("CT1",)),)


def test_the_data_folder_comes_from_the_environment_the_file_or_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _file(tmp_path, 'data = "/of/the/file"\n')
    assert load(file).data == Path("/of/the/file")
    monkeypatch.setenv("DIPTYCH_DATA", "/of/the/environment")
    assert load(file).data == Path("/of/the/environment")
    assert load(file, {"data": "/of/the/line"}).data == Path("/of/the/line")


@pytest.mark.parametrize("given", ["rel/ative", "./rel/ative"])
def test_a_relative_data_folder_is_relative_to_the_working_directory_wherever_it_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "work").mkdir()
    file = _file(tmp_path / "etc", f'data = "{given}"\n')
    monkeypatch.chdir(tmp_path / "work")
    wanted = tmp_path / "work" / "rel" / "ative"
    assert load(file).data == wanted
    assert load(overrides={"data": given}).data == wanted
    monkeypatch.setenv("DIPTYCH_DATA", given)
    assert load().data == wanted


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(overrides={"data": "~/archive"}).data == tmp_path / "archive"


def test_the_file_may_be_named_by_the_environment_and_the_command_line_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("DIPTYCH_CONFIG", str(_file(tmp_path, "[http]\nport = 7001\n")))
    assert load().http.port == 7001
    assert load(_file(tmp_path / "other", "[http]\nport = 7002\n")).http.port == 7002


def test_a_configuration_pickles_to_an_equal_one(tmp_path: Path) -> None:
    config = load(_file(tmp_path, '[database]\nurl = "sqlite:////a/b.sqlite3"\n'))
    again = pickle.loads(pickle.dumps(config))
    assert type(again) is Config
    assert again == config
    assert again.database_url == "sqlite:////a/b.sqlite3"


def test_a_configuration_is_immutable() -> None:
    config = load()
    with pytest.raises(ValueError, match="frozen"):
        config.data = Path("/elsewhere")
    with pytest.raises(ValueError, match="frozen"):
        config.dicom.port = 1


def test_the_first_source_that_matches_names_the_peer() -> None:
    config = load(
        overrides={
            "source": [
                {"name": "ct", "ae_titles": ["CT1"], "networks": ["192.0.2.0/24"]},
                {"name": "rest", "networks": ["192.0.2.0/24", "2001:db8::/32"]},
            ]
        }
    )

    def name(ae_title: str, address: str) -> str | None:
        source = config.source_of(ae_title, address)
        return source.name if source else None

    assert name("CT1", "192.0.2.7") == "ct"
    assert name("MR1", "192.0.2.7") == "rest"
    assert name("MR1", "::ffff:192.0.2.7") == "rest"
    assert name("CT1", "2001:db8::1") == "rest"
    assert name("CT1", "198.51.100.1") is None
    assert config.source_names() == ("ct", "rest", "other")
