"""A policy as somebody writes it down: any number that is wrong is named, and why."""

from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.judge.definition import BUNDLED, Definition, read, read_json
from diptych.judge.policy import Policy

MINE = {"name": "strict", "version": 2}


def test_what_is_left_out_has_its_default_and_d_max_is_the_models() -> None:
    definition = read(MINE)
    assert definition.follows_model
    assert definition.under(0.3) == Policy("strict", 2, d_max=0.3)
    assert definition.under(0.4) == Policy("strict", 2, d_max=0.4)
    assert definition.values() == {**BUNDLED.values(), "name": "strict", "version": 2}
    assert definition.values()["d_max"] is None


def test_a_d_max_of_its_own_stays_whatever_the_model_says() -> None:
    definition = read({**MINE, "d_max": 0.25})
    assert not definition.follows_model
    assert definition.under(0.4).d_max == 0.25


def test_toml_is_read_and_a_whole_number_is_a_number() -> None:
    text = 'name = "wide"\nversion = 1\nd_max = 1\nthreshold = 0.5\nmin_coverage = 1\n'
    assert read(tomllib.loads(text)) == Definition(
        Policy("wide", 1, 1.0, threshold=0.5, min_coverage=1.0), follows_model=False
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"thershold": 0.9}, "no such field: thershold; a policy has name, version, d_max"),
        ({"threshold": 1.5}, r"threshold must be in \[0, 1\), not 1.5"),
        ({"threshold": float("nan")}, "threshold must be"),
        ({"threshold": "0.9"}, "threshold must be a number, not '0.9'"),
        ({"threshold": True}, "threshold must be a number, not True"),
        ({"threshold": None}, "threshold must be a number, not None"),
        ({"d_max": 3.0}, r"d_max must be in \(0, 2\], not 3.0"),
        ({"d_max": 0}, "d_max must be in"),
        ({"min_related": 0.9}, "0 < min_related <= min_coverage <= 1 does not hold"),
        ({"version": 0}, "version must be 1 to 999999, not 0"),
        ({"version": 1.0}, "version must be a whole number, not 1.0"),
        ({"version": True}, "version must be a whole number"),
        ({"name": ""}, "name ''"),
        ({"name": "a/b"}, "name 'a/b'"),
        ({"name": "x" * 33}, "up to 32"),
        ({"name": 3}, "name must be text, not 3"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read({**MINE, **values})


def test_name_and_version_must_be_given() -> None:
    with pytest.raises(ValueError, match="name and version must be given"):
        read({"threshold": 0.5})


@given(
    st.builds(
        Policy,
        name=st.just("any"),
        version=st.integers(1, 999_999),
        d_max=st.floats(0, 2, exclude_min=True),
        threshold=st.floats(0, 1, exclude_max=True),
        min_coverage=st.floats(0.5, 1),
        min_related=st.floats(0, 0.5, exclude_min=True),
    ),
    st.booleans(),
)
def test_json_and_back_is_the_same_definition(policy: Policy, follows: bool) -> None:
    definition = Definition(policy, follows)
    again = read_json(definition.canonical_json())
    assert again.values() == definition.values()
    assert again.sha256() == definition.sha256()
    assert again.under(0.125) == definition.under(0.125)
    if not follows:
        # What a verdict names, and what its row holds, is the same text.
        assert definition.canonical_json() == policy.canonical_json()
        assert definition.label == policy.label


def test_every_field_of_a_policy_can_be_written_down() -> None:
    assert set(BUNDLED.values()) == {field.name for field in fields(Policy)}
    longest = replace(BUNDLED.numbers, name="x" * 32, version=999_999)
    assert len(longest.label) <= 64  # the verdict's column


@pytest.mark.parametrize("text", ["", "[]", "3", '{"threshold":0.7711}', '{"name":"a"}'])
def test_a_row_that_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_json(text)
