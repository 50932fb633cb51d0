"""``deploy/diptych.example.toml`` is the documentation of every key: it cannot fall behind."""

from __future__ import annotations

import re
import tomllib
import typing
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel

from diptych.config import Config, load
from diptych.sections import Commitment, Forward, Requester
from support import REPOSITORY

EXAMPLE = REPOSITORY / "deploy" / "diptych.example.toml"


def test_the_example_loads_and_equals_the_defaults() -> None:
    assert load(EXAMPLE) == load()


def test_the_example_holds_every_key_of_the_model_and_no_other() -> None:
    assert _written(tomllib.loads(_in_full())) == _keys(Config)


def test_the_tables_that_are_commented_out_load_and_differ_from_the_defaults_by_them_alone(
    tmp_path: Path,
) -> None:
    (tmp_path / "full.toml").write_text(_in_full(), "utf-8")
    loaded, defaults = load(tmp_path / "full.toml"), load()
    assert [f.name for f in loaded.forward] == ["archive"]
    named = {"name": "archive", "host": "192.0.2.10", "port": 104, "ae_title": "PACS"}
    assert loaded.forward == (Forward(**named),)
    asks = {"ae_title": "CT1", "host": "192.0.2.21", "port": 104}
    assert loaded.commitment == Commitment(requester=(Requester(**asks),))
    assert loaded.model_copy(update={"forward": (), "commitment": Commitment()}) == defaults


def test_every_key_of_the_example_has_a_comment_right_above_it() -> None:
    lines = _in_full().splitlines()
    for before, line in pairwise(lines):
        if "=" in line and not line.startswith("#"):
            assert before.startswith("#"), f"no comment above: {line}"


def _in_full() -> str:
    """The example with the tables of which there are none by default."""
    return re.sub(r"^#(?=\[\[|[a-z_]+ = )", "", EXAMPLE.read_text("utf-8"), flags=re.MULTILINE)


def _keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *typing.get_args(field.annotation))
        table = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        found |= _keys(table, f"{prefix}{name}.") if table else {f"{prefix}{name}"}
    return found


def _written(table: dict[str, typing.Any], prefix: str = "") -> set[str]:
    found = set()
    for name, value in table.items():
        tables = value if isinstance(value, list) else [value]
        if tables and all(isinstance(one, dict) for one in tables):
            for one in tables:
                found |= _written(one, f"{prefix}{name}.")
        else:
            found.add(f"{prefix}{name}")
    return found
