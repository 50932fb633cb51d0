"""Unknown keys and impossible values are refused in words that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.config import load
from diptych.errors import ConfigError

FORWARD = '[[forward]]\nname = "a"\nhost = "h"\nport = 104\nae_title = "A"\n'


def _refusal(folder: Path, text: str | bytes) -> str:
    path = folder / "diptych.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as refused:
        load(path)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("prot = 1", "prot"),
        ("[dicmo]\nport = 1", "dicmo"),
        ("[dicom]\nprot = 1", "dicom.prot"),
        ('[[source]]\nname = "a"\naet = "X"', "source.0.aet"),
        ("[dicom.tls]\ncertificate = 1", "dicom.tls"),
    ],
)
def test_an_unknown_key_is_refused_at_every_level(tmp_path: Path, text: str, key: str) -> None:
    assert _refusal(tmp_path, text) == f"{key}: unknown key"


@pytest.mark.parametrize(
    "name",
    [
        "DIPTYCH_PORT",
        "DIPTYCH_DICOM__PROT",
        "DIPTYCH_DICMO__PORT",
        "DIPTYCH_DICOM_PORT",
        "DIPTYCH_DICOM__PORT__X",
        "DIPTYCH_SOURCE__0__NAME",
        "diptych_dicom__prot",
    ],
)
def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=f"environment variable {name} is not a config"):
        load()


def test_an_unknown_key_inside_json_of_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIPTYCH_SOURCE", '[{"name": "a", "aet": "X"}]')
    with pytest.raises(ConfigError, match=r"source\.0\.aet: unknown key"):
        load()


@pytest.mark.parametrize("name", ["DIPTYCH_SOURCE", "DIPTYCH_DICOM"])
def test_a_variable_that_should_be_json_and_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "no json")
    with pytest.raises(ConfigError, match="JSON"):
        load()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[dicom]\nport = 65536", "dicom.port: should be less than or equal to 65535, found 65536"),
        ("[dicom]\nport = -1", "dicom.port: should be greater than or equal to 0, found -1"),
        ('[http]\nport = "http"', "http.port: should be a valid integer"),
        ("[http]\nport = 11112", "dicom.port and http.port are both 11112"),
        ('[dicom]\nhost = ""', "dicom.host:"),
        ("dicom = 11112", "dicom: should be a table"),
        ("source = []", "source: at least one"),
        ('[source]\nname = "a"', "source: should be a list"),
        ("[[source]]\nae_titles = []", "source.0.name: is missing"),
        ('[[source]]\nname = "a"\n[[source]]\nname = "a"', "source: at least one, and every name"),
        ('[[source]]\nname = "other"', "'other' is reserved"),
        ('[[source]]\nname = "../a"', "source.0.name: a source name is"),
        ('[[source]]\nname = "a\\n"', "source.0.name: a source name is"),
        ('[[source]]\nname = "a"\nnetworks = ["10.0.0.1/8"]', "10.0.0.1/8 has host bits set"),
        ('[[source]]\nname = "a"\nnetworks = ["ward 3"]', "'ward 3' does not appear to be"),
        ("[jobs]\nseal = 0", "jobs.seal: should be greater than 0"),
        ("[jobs]\nseal = inf", "jobs.seal: should be a finite number"),
        ("[series]\nquiet_seconds = nan", "series.quiet_seconds: should be a finite number"),
        ('[search]\nmode = "best"', "search.mode: should be 'auto', 'hnsw' or 'exact'"),
        ('[log]\nlevel = "LOUD"', "log.level: should be"),
        ("[dicom]\nmaximum_pdu = 0", "dicom.maximum_pdu: should be greater"),
        ('[dicom]\nprivate_sop_classes = ["1.02"]', "dicom.private_sop_classes.0: a UID is"),
        ('[database]\nurl = "my database"', "database.url:"),
        ('[database]\nurl = "oracel://h/d"', "database.url:"),
        ('data = ""', "data: names no folder"),
        ('data = "a\\u0000b"', "data: names no folder"),
    ],
)
def test_an_impossible_value_is_refused_and_its_key_named(
    tmp_path: Path, text: str, words: str
) -> None:
    assert words in _refusal(tmp_path, text)


@pytest.mark.parametrize(
    "title", ["SEVENTEEN_LETTERS", "BACK\\SLASH", "BELL\a", "LINE\nFEED", "Ä", "", "   "]
)
def test_an_ae_title_is_what_ps3_5_allows(title: str) -> None:
    with pytest.raises(ConfigError, match=r"dicom\.ae_title: an AE title is"):
        load(overrides={"dicom": {"ae_title": title}})
    with pytest.raises(ConfigError, match=r"source\.0\.ae_titles\.0: an AE title is"):
        load(overrides={"source": [{"name": "a", "ae_titles": [title]}]})


def test_spaces_around_an_ae_title_mean_nothing() -> None:
    assert load(overrides={"dicom": {"ae_title": " MY NODE "}}).dicom.ae_title == "MY NODE"


def test_every_fault_is_said_at_once(tmp_path: Path) -> None:
    said = _refusal(tmp_path, "[dicom]\nport = 65536\n[http]\nprot = 1\n")
    assert "dicom.port: " in said
    assert "http.prot: unknown key" in said


def test_a_password_is_never_said(tmp_path: Path) -> None:
    said = _refusal(tmp_path, '[database]\nurl = "oracel://me:s3cret@host/name"')
    assert "s3cret" not in said


def test_a_file_that_is_not_toml_is_refused_with_the_line(tmp_path: Path) -> None:
    said = _refusal(tmp_path, "[dicom]\nport == 1\n")
    assert "is not TOML" in said
    assert "line 2" in said


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    assert "is not TOML" in _refusal(tmp_path, '[dicom]\nae_title = "Ä"'.encode("latin-1"))


def test_a_file_that_is_missing_or_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    monkeypatch.setenv("DIPTYCH_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        load()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "dicom.example"])
def test_a_listener_open_to_others_without_a_source_is_refused(tmp_path: Path, host: str) -> None:
    said = _refusal(tmp_path, f'[dicom]\nhost = "{host}"')
    assert "no [[source]] says who may send: add one, such as" in said
    path = tmp_path / "diptych.toml"
    path.write_text(f'[dicom]\nhost = "{host}"\n[[source]]\nname = "router"')
    assert load(path).dicom.host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "metrics.example"])
def test_pages_open_to_others_without_a_token_are_refused(tmp_path: Path, host: str) -> None:
    said = _refusal(tmp_path, f'[http]\nhost = "{host}"')
    assert "opens the pages to others, and nothing says who may ask: set token_file" in said
    path = tmp_path / "diptych.toml"
    path.write_text(f'[http]\nhost = "{host}"\ntoken_file = "token"')
    assert load(path).http.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_on_this_machine_the_default_source_is_enough(tmp_path: Path, host: str) -> None:
    path = tmp_path / "diptych.toml"
    path.write_text(f'[dicom]\nhost = "{host}"')
    assert load(path).dicom.host == host


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[dicom]\ntls_certificate = "a"', "tls_certificate and tls_key belong together"),
        ('[dicom]\ntls_authorities = "a"', "tls_authorities needs tls_certificate and tls_key"),
        (
            '[[source]]\nname = "a"\ncertificate_names = ["ct1"]',
            "certificate_names need dicom.tls_authorities",
        ),
        ('[http]\ntls_key = "a"', "http: tls_certificate and tls_key belong together"),
        (
            '[http]\ntls_authorities = "a"',
            "http: tls_authorities needs tls_certificate",
        ),
        (
            FORWARD + 'tls_certificate = "a"\ntls_key = "b"',
            "forward.0: tls_certificate needs tls_authorities: nobody is called over",
        ),
        (FORWARD + 'tls_certificate = "a"', "tls_certificate and tls_key belong together"),
    ],
)
def test_half_of_a_tls_configuration_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in _refusal(tmp_path, text)
