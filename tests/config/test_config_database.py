"""database.url: what it may be, and that what it holds is told to nobody."""

from __future__ import annotations

import logging
import pickle
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from diptych.audit.store import Store
from diptych.config import Config, load
from diptych.errors import ConfigError

URL = "postgresql://me:S3CRET%40@db.example:5433/diptych?sslmode=require"


def of(url: str) -> Config:
    return load(overrides={"database": {"url": url}})


def test_a_plain_url_gets_the_driver_that_is_tested() -> None:
    config = of(URL)
    assert config.database_url == URL.replace("postgresql:", "postgresql+pg8000:")
    assert of(config.database_url).database_url == config.database_url
    assert pickle.loads(pickle.dumps(config)).database_url == config.database_url


def test_the_password_is_in_nothing_that_is_printed() -> None:
    config = of(URL)
    for said in (repr(config), str(config), config.model_dump_json(), f"{config.database}"):
        assert "S3CRET" not in said


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://me:S3CRET@h/d", r"postgresql\+psycopg is not supported"),
        ("mysql://me:S3CRET@h/d", "mysql is not supported"),
        ("me:S3CRET@h/d", "should be such as postgresql://user:password@host"),
        ("postgresql://me:S3CRET@h:port/d", "should be such as postgresql://"),
    ],
)
def test_another_database_is_refused_without_a_word_of_the_url(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        of(url)
    assert "S3CRET" not in str(refused.value)


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pg8000", None)
    with pytest.raises(ConfigError, match=r"pip install 'diptych\[postgresql\]'") as refused:
        of(URL)
    assert "S3CRET" not in str(refused.value)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("sslmode=sometimes", "sslmode 'sometimes': disable, prefer, require"),
        ("sslmode=verify-full&sslrootcert=/nowhere.pem", "sslrootcert /nowhere.pem"),
        ("target_session_attrs=any", "option 'target_session_attrs' is not known"),
    ],
)
def test_an_option_that_cannot_be_heeded_is_refused(option: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        Store(f"postgresql+pg8000://me:S3CRET@h/d?{option}")
    assert "S3CRET" not in str(refused.value)


def test_a_server_that_is_away_is_said_without_the_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from diptych.errors import StoreError

    caplog.set_level(logging.DEBUG)
    store = Store("postgresql+pg8000://me:S3CRET@127.0.0.1:1/d")
    with pytest.raises(StoreError, match="Connection refused") as refused, store.read():
        pass
    assert "S3CRET" not in str(refused.value) + caplog.text


def test_the_password_may_lie_in_a_file_that_is_read_each_time(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("p@ss/word:1\n")
    found = load(None, {"database": {"url": "postgresql://me@h/d", "password_file": str(secret)}})
    assert make_url(found.database_url).password == "p@ss/word:1"
    secret.write_text("another")
    assert make_url(found.database_url).password == "another"
    assert "another" not in found.model_dump_json() + repr(found)
    secret.write_text("\n")
    with pytest.raises(ConfigError, match=r"database\.password_file .* is empty"):
        _ = found.database_url
    secret.unlink()
    with pytest.raises(ConfigError, match=r"database\.password_file .*No such file"):
        _ = found.database_url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "password_file needs the url of a PostgreSQL database"),
        ("sqlite:///x", "password_file needs the url of a PostgreSQL database"),
        ("postgresql://me:S3CRET@h/d", "the url holds a password"),
    ],
)
def test_a_password_is_named_once(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        load(None, {"database": {"url": url, "password_file": "/x"}})
    assert "S3CRET" not in str(refused.value)
