"""A SOP Instance UID with other content: which part of it differs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from audit.builder import AT_ONCE, SYNTAX, Archive, sha, stack, uid
from diptych.audit import collisions, receipts, work
from diptych.audit.verdicts import InstanceOutcome

SAME = {part: sha(part) for part in ("pixel_hash", "identity_hash", "private_hash", "rest_hash")}
OTHER = sha("other")


def arrive(archive: Archive, series: str, content: str) -> work.Work:
    """One instance, always under the same SOP Instance UID."""
    identity = receipts.Identity("1.2", uid("9", "same"), uid("1", series), uid("2", series))
    stored = receipts.Stored(sha(content).hex(), SYNTAX, 1, f"instances/north/{content}.dcm")
    receipts.record(archive.store, [receipts.Arrival("north", None, identity, stored)])
    archive.seal(AT_ONCE)
    claimed = archive.claim()
    assert claimed is not None
    return claimed


def parts(archive: Archive, claimed: work.Work, **hashes: bytes | None) -> set[str]:
    outcome = InstanceOutcome(claimed.instances[-1].instance_id, "image", **{**SAME, **hashes})
    with archive.store.read() as connection:
        found = collisions.parts(connection, {outcome.instance_id: (uid("9", "same"), outcome)})
    return found.get(outcome.instance_id, set())


@pytest.fixture
def known(empty: Archive) -> Archive:
    first = arrive(empty, "A", "first")
    assert parts(empty, first) == set()
    outcome = InstanceOutcome(first.instances[0].instance_id, "image", **SAME)
    empty.record(first, stack("a"), outcomes=[outcome])
    return empty


@pytest.mark.parametrize(
    ("column", "part"),
    [
        ("pixel_hash", "pixels"),
        ("identity_hash", "identity"),
        ("private_hash", "private"),
        ("rest_hash", "other"),
    ],
)
def test_the_part_that_differs_is_named(known, column, part):
    assert parts(known, arrive(known, "B", "second"), **{column: OTHER}) == {part}


def test_every_part_that_differs_is_named(known):
    claimed = arrive(known, "B", "second")
    assert parts(known, claimed, pixel_hash=OTHER, rest_hash=OTHER) == {"pixels", "other"}


def test_a_content_that_was_only_encoded_again_is_no_collision(known):
    assert parts(known, arrive(known, "B", "second")) == set()


def test_a_collision_inside_one_series_is_found_too(known):
    assert parts(known, arrive(known, "A", "second"), pixel_hash=OTHER) == {"pixels"}


def test_what_could_not_be_read_is_compared_with_nothing(known):
    assert parts(known, arrive(known, "B", "second"), **dict.fromkeys(SAME)) == set()


def test_an_unjudged_content_is_compared_with_nothing(empty):
    arrive(empty, "A", "first")
    assert parts(empty, arrive(empty, "B", "second"), pixel_hash=OTHER) == set()


def test_the_later_judged_collides_even_if_it_arrived_first(empty):
    first = arrive(empty, "A", "first")
    second = arrive(empty, "B", "second")
    outcome = InstanceOutcome(second.instances[0].instance_id, "image", **SAME)
    empty.record(second, stack("b"), outcomes=[outcome])
    assert parts(empty, first, pixel_hash=OTHER) == {"pixels"}


def test_two_contents_in_one_revision_collide_once(empty):
    outcomes = [
        InstanceOutcome(1, "image", **SAME),
        InstanceOutcome(2, "image", **{**SAME, "private_hash": OTHER}),
    ]
    ours = {o.instance_id: (uid("9", "same"), o) for o in outcomes}
    with empty.store.read() as connection:
        assert collisions.parts(connection, ours) == {2: {"private"}}


def test_collisions_are_counted_by_part(known):
    claimed = arrive(known, "B", "second")
    known.record(claimed, replace(stack("b"), flags=("collision",)), collisions={"pixels": 3})
    assert (
        known.value(
            "SELECT value FROM counter WHERE name = 'diptych_collisions_total' AND labels = ?",
            '{"part":"pixels","source":"north"}',
        )
        == 3
    )
