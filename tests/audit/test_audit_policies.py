"""Policies as rows: a name and a version stand for one set of numbers, and the chain says which
is in use."""

from __future__ import annotations

import json

import pytest

from audit.builder import Archive
from diptych import policies
from diptych.audit import policies as rows
from diptych.errors import ConfigError, UsageError
from diptych.judge.definition import BUNDLED, Definition, read


def strict(version: int = 1, **values: object) -> Definition:
    return read({"name": "strict", "version": version, "threshold": 0.9, **values})


def in_use(archive: Archive) -> Definition:
    with archive.store.read() as connection:
        return policies.in_use(connection)


def titles(archive: Archive) -> list[str]:
    with archive.store.read() as connection:
        return [one.title for one in policies.known(connection)]


def test_the_one_that_ships_is_always_there_and_in_use_until_another_is_chosen(empty):
    assert titles(empty) == ["bundled/3"]
    assert in_use(empty) == BUNDLED
    assert policies.known(None)[0].definition == BUNDLED
    assert policies.in_use(None) == BUNDLED


def test_a_policy_is_added_once_and_its_numbers_are_its_for_good(empty):
    assert policies.add(empty.store, strict())
    assert not policies.add(empty.store, strict())
    with pytest.raises(UsageError, match=r"other numbers \(threshold 0.9, not 0.8\).*version 2"):
        policies.add(empty.store, strict(threshold=0.8))
    with pytest.raises(UsageError, match=r"d_max the model's, not 0.3"):
        policies.add(empty.store, strict(d_max=0.3))
    assert policies.add(empty.store, strict(3, threshold=0.8))
    with pytest.raises(UsageError, match=r"strict/3 is there, and a version only goes up.*4"):
        policies.add(empty.store, strict(2))
    with pytest.raises(UsageError, match="'bundled' is that of the policy that ships"):
        policies.add(empty.store, read({"name": "bundled", "version": 2}))
    assert titles(empty) == ["bundled/3", "strict/1", "strict/3"]
    assert empty.verify() == ()


def test_the_models_d_max_does_not_make_another_policy_of_it(empty):
    policies.add(empty.store, strict())
    for d_max in (0.3, 0.4):
        policy = policies.resolve(empty.store, strict(), d_max)
        assert (policy.d_max, policy.threshold) == (d_max, 0.9)
        assert empty.value("SELECT count(*) FROM policy WHERE name = ?", policy.label) == 1
    assert titles(empty) == ["bundled/3", "strict/1"]
    with empty.store.read() as connection:
        assert policies.definition(connection, "strict/1") == strict()
    assert not policies.add(empty.store, strict())


def test_use_is_an_event_of_the_chain_and_only_a_change_is_one(empty):
    policies.add(empty.store, strict())
    assert not policies.use(empty.store, "bundled/3")
    assert policies.use(empty.store, "strict/1")
    assert not policies.use(empty.store, "strict/1")
    assert in_use(empty) == strict()
    assert policies.use(empty.store, "bundled/3")
    assert in_use(empty) == BUNDLED
    said = [json.loads(row[0])["policy"] for row in empty.rows(
        "SELECT payload FROM event WHERE kind = 'policy-use' ORDER BY seq")]  # fmt: skip
    assert said == [strict().label, BUNDLED.label]
    assert empty.verify() == ()


def test_what_is_not_there_is_missed_by_name(empty):
    with pytest.raises(UsageError, match="no policy 'loose/1': there are bundled/3"):
        policies.use(empty.store, "loose/1")


def test_a_row_of_another_version_is_named_and_does_not_hide_the_others(empty):
    payload = '{"d_max":0.3,"name":"later","version":1,"wisdom":1.0}'
    with empty.store.write() as connection:
        rows.register(connection, "later/1+abc", payload)
    policies.add(empty.store, strict())
    assert titles(empty) == ["bundled/3", "later/1", "strict/1"]
    with pytest.raises(UsageError, match="policy later/1: cannot be read: no such field: wisdom"):
        policies.use(empty.store, "later/1")


def test_a_policy_in_use_whose_row_is_gone_is_reported_and_there_is_a_way_out(empty):
    policies.add(empty.store, strict())
    policies.use(empty.store, "strict/1")
    empty.tamper(("DELETE FROM policy WHERE name = ?", (strict().label,)))
    with pytest.raises(ConfigError, match="its row is gone; put another in use"):
        in_use(empty)
    assert policies.use(empty.store, "bundled/3")
    assert in_use(empty) == BUNDLED


def test_a_use_of_what_was_never_registered_is_found_by_verify(empty):
    with empty.store.write() as connection:
        rows.use(connection, "ghost/1+abc", "00")
    assert any("ghost/1+abc was put in use and never registered" in p for p in empty.verify())
