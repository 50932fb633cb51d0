"""The terms: what a file may say, and that the example says all of it."""

from __future__ import annotations

import re
import tomllib
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.test_config_example import _keys, _written
from diptych.errors import UsageError
from diptych.judge.ladder import Relation
from diptych.screen.findings import Kind
from diptych.screen.terms import NO_LIMIT, Terms, limit, load
from support import REPOSITORY

EXAMPLE = REPOSITORY / "deploy" / "screen-policy.example.toml"


def test_the_example_loads_and_equals_the_defaults() -> None:
    assert load(EXAMPLE) == load() == Terms()


def test_the_example_holds_every_key_and_no_other() -> None:
    assert _written(tomllib.loads(_in_full())) == _keys(Terms)


def test_the_tables_that_are_commented_out_load(tmp_path: Path) -> None:
    found = load(_file(tmp_path, _in_full()))
    assert [rule.keyword for rule in found.exclude.fact] == ["ImageType"]
    assert found.scope[0].at(Kind.DELIVERY).of(Relation.PARTIAL) == limit("0.1 %")
    without = found.exclude.model_copy(update={"fact": ()})
    assert found.model_copy(update={"scope": (), "exclude": without}) == Terms()


def test_every_key_of_the_example_has_a_comment_right_above_it() -> None:
    for before, line in pairwise(_in_full().splitlines()):
        if "=" in line and not line.startswith("#"):
            assert before.startswith("#"), f"no comment above: {line}"


def test_what_a_file_leaves_out_of_a_table_keeps_its_default(tmp_path: Path) -> None:
    found = load(_file(tmp_path, "[delivery]\nexact = 3\n[test_set]\npartial = 1\n"))
    assert found.delivery.exact.count == 3
    assert found.delivery.copies == limit("0.5 %")
    assert found.test_set.copies == limit(0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[delivery]\ncopys = 0", "delivery.copys: unknown key"),
        ("[stranger]\n", "stranger: unknown key"),
        ("[delivery]\ncopies = 0.5", "delivery.copies: should be a share such as"),
        ("[delivery]\ncopies = true", "delivery.copies: should be a share such as"),
        ("[delivery]\ncopies = -1", "delivery.copies: should be a share such as"),
        ('[delivery]\ncopies = "-1 %"', "delivery.copies: should be a share such as"),
        ('[delivery]\ncopies = "101 %"', "delivery.copies: should be a share such as"),
        ('[delivery]\ncopies = "١ %"', "delivery.copies: should be a share such as"),
        ('[delivery]\ncopies = "none"', "delivery.copies: should be a share such as"),
        ("[delivery]\ncopies = []", "delivery.copies: should be a share such as"),
        ("delivery = 3", "delivery: "),
        ("[exclude]\nmin_slices = -1", "exclude.min_slices: "),
        ('[[exclude.fact]]\nwhy = "x"\nkeyword = "y"', "exclude.fact.0.contains: "),
        ("[[scope]]\n[scope.owned]\ncopies = 0", "needs a modality, a vendor, or both"),
        ('[[scope]]\nmodality="MR"\n[[scope]]\nmodality="MR"', "every pair of modality and vendor"),
        ("name = 3", "name: "),
        ("= 3", "is not TOML"),
    ],
)
def test_what_a_file_cannot_say_is_refused_with_file_and_key(
    tmp_path: Path, text: str, said: str
) -> None:
    file = _file(tmp_path, text)
    with pytest.raises(UsageError) as raised:
        load(file)
    assert str(raised.value).startswith(f"policy {file}")
    assert said in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, said in (("missing", "No such file"), ("", "Is a directory"), ("binary", "not TOML")):
        with pytest.raises(UsageError, match=said):
            load(tmp_path / name)


@given(st.integers(0, 5_000), st.integers(0, 5_000), st.integers(0, 100 * 10**6))
def test_a_share_is_exceeded_by_more_than_it_and_by_nothing_else(
    found: int, of: int, millionths: int
) -> None:
    share = limit(f"{Decimal(millionths) / 10**6:f} %")
    assert share.exceeded(found, of) == (found * 100 * 10**6 > millionths * of)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_a_number_is_exceeded_by_more_than_it(most: int, found: int, of: int) -> None:
    assert limit(most).exceeded(found, of) == (found > most)
    assert not limit(NO_LIMIT).exceeded(found, of)


def test_terms_that_are_printed_can_be_read_again(tmp_path: Path) -> None:
    terms = load(_file(tmp_path, _in_full()))
    assert terms != Terms()
    assert Terms.model_validate(terms.model_dump(mode="json")) == terms


def _in_full() -> str:
    """The example with the tables of which there are none by default."""
    text = EXAMPLE.read_text("utf-8")
    return re.sub(r"^#(?=\[|[a-z_]+ = )", "", text, flags=re.MULTILINE)


def _file(folder: Path, text: str) -> Path:
    file = folder / "policy.toml"
    file.write_text(text, "utf-8")
    return file
