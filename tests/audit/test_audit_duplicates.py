"""Why there are duplicates: the story of each, and what does not count."""

from __future__ import annotations

import pytest

from audit.builder import Archive, stack, uid
from diptych.audit import duplicates
from diptych.audit.duplicates import Story

DAY = 86_400


def copied(archive: Archive, name: str, of: int, relation: str, **more: object) -> None:
    """A series that is judged a copy of case ``of``; with its ``series`` UID, or its own."""
    item = stack(name, relation=relation, matched=archive.owner(of), nodes=None)
    archive.judge(name, item, contents=[name], **more)


def story_of(archive: Archive, source: str) -> list[tuple[Story, int]]:
    with archive.store.read() as connection:
        found = {one.source: one for one in duplicates.since(connection, 0)}
    return found[source].stories()


@pytest.fixture
def original(empty: Archive) -> Archive:
    empty.judge("A", stack("a"), contents=["a"])
    return empty


def test_the_same_series_from_two_sources_went_two_routes(original):
    copied(original, "B", 1, "exact", source="south")
    same_uid(original, "B", "A")
    assert story_of(original, "south") == [(Story.TWO_ROUTES, 1)]


def test_the_same_series_long_after_is_a_migration(original):
    original.tamper(f"UPDATE series SET created_at = created_at - {400 * DAY * 1_000_000}")
    copied(original, "B", 1, "exact", source="south")
    same_uid(original, "B", "A")
    assert story_of(original, "south") == [(Story.MIGRATION, 1)]
    with original.store.read() as connection:
        (south, *_) = duplicates.since(connection, 0)
    (one,) = south.duplicates
    assert (one.matched_source, one.matched_case_id) == ("north", 1)
    assert one.after_seconds == pytest.approx(400 * DAY, abs=60)


@pytest.mark.parametrize(
    ("relation", "story"),
    [("exact", Story.NEW_UIDS), ("near-duplicate", Story.PROCESSED), ("partial", Story.PART)],
)
def test_other_uids_are_true_duplication_by_its_kind(original, relation, story):
    copied(original, "B", 1, relation)
    assert story_of(original, "north") == [(story, 1)]


def test_of_what_was_forgotten_nothing_is_made_up(original):
    copied(original, "B", 1, "exact", source="south")
    original.forget(1)
    assert story_of(original, "south") == [(Story.FORGOTTEN, 1)]


def test_the_rate_is_that_of_the_metrics(original):
    copied(original, "B", 1, "exact")
    original.judge("C", stack("c", relation="related", nodes=None), contents=["c"])
    original.judge("D", stack("d", relation="not-screenable", nodes=None), contents=["d"])
    original.receive("A", ["a"])  # a re-send
    original.seal()
    original.judge("A", stack("late", nodes=None), contents=["late"])  # a revision
    with original.store.read() as connection:
        (north,) = duplicates.since(connection, 0)
    assert (north.screenable, len(north.duplicates), north.resends) == (3, 1, 1)
    assert north.ratio == pytest.approx(1 / 3)


def test_what_was_before_is_left_out(original):
    copied(original, "B", 1, "exact")
    last = original.value("SELECT max(created_at) FROM verdict")
    with original.store.read() as connection:
        assert [one.screenable for one in duplicates.since(connection, last)] == [1]
        assert duplicates.since(connection, last + 1) == []


def test_the_most_copied_case_comes_first(original):
    original.judge("Z", stack("z"), contents=["z"])
    for name, of in (("B", 1), ("C", 2), ("D", 2)):
        copied(original, name, of, "exact")
    with original.store.read() as connection:
        (north,) = duplicates.since(connection, 0)
    assert [(case, len(of)) for case, of in duplicates.groups(north.duplicates)] == [(2, 2), (1, 1)]


def same_uid(archive: Archive, name: str, as_name: str) -> None:
    """As if the series had come with the UID of another."""
    archive.tamper(
        (
            "UPDATE verdict SET series_instance_uid = ? WHERE series_instance_uid = ?",
            (uid("2", as_name), uid("2", name)),
        )
    )
