"""What a corrected delivery changed, by content."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.judge.ladder import Relation
from diptych.screen.findings import Kind, Screening, Series
from diptych.screen.since import Change, What, since
from screen.screenings import content, copy, not_screenable, screening, series, stack

CHANGED, UNCHANGED, NEW, GONE = What.CHANGED, What.UNCHANGED, What.NEW, What.GONE


def renamed(row: Series, number: int) -> Series:
    """The same pixels under another name, in another place."""
    return replace(
        series(number),
        stacks=tuple(replace(one, matches=()) for one in row.stacks),
    )


def remade(row: Series) -> Series:
    """The same name with other pixels."""
    return replace(row, stacks=(replace(row.stacks[0], content=content(("new", row.number))),))


def test_a_delivery_beside_itself_has_not_changed() -> None:
    rows = [series(1), series(2, copy("exact", 1)), not_screenable(3), series(4, stacks=())]
    found = since(screening(rows), screening(rows))
    assert [change.what for change in found.changes] == [
        UNCHANGED,
        UNCHANGED,
        What.UNKNOWN,
        What.UNKNOWN,
    ]
    assert (found.resolved, found.new) == ((), ())
    assert [finding.series for finding in found.remaining] == [2]


def test_series_are_found_again_by_their_pixels_whatever_they_are_called() -> None:
    before = [series(1), series(2), series(3), series(4)]
    now = [renamed(before[2], 1), remade(before[1]), series(9), renamed(before[0], 10)]
    found = since(screening(before), screening(now))
    assert found.changes == (
        Change(UNCHANGED, 3, 1),
        Change(CHANGED, 2, 2),
        Change(NEW, None, 9),
        Change(UNCHANGED, 1, 10),
        Change(GONE, 4, None),
    )
    assert [found.count(what) for what in (NEW, GONE, CHANGED, UNCHANGED)] == [1, 1, 1, 2]


def test_of_several_with_the_same_pixels_the_namesakes_belong_together() -> None:
    pair = [series(1), series(2, copy("exact", 1))]
    found = since(screening(pair), screening([pair[1], pair[0]]))
    assert found.changes == (Change(UNCHANGED, 1, 1), Change(UNCHANGED, 2, 2))


def test_without_uids_the_place_says_what_was_changed() -> None:
    before = replace(series(1), study_instance_uid="", series_instance_uid="", place="/d/a.nii")
    now = replace(remade(before), number=5)
    assert since(screening([before]), screening([now])).changes == (Change(CHANGED, 1, 5),)


def test_the_name_says_it_before_the_place_does() -> None:
    before = [series(1), series(2)]
    now = [replace(remade(row), place=f"/delivery/{3 - row.number}") for row in before]
    found = since(screening(before), screening(now))
    assert found.changes == (Change(CHANGED, 1, 1), Change(CHANGED, 2, 2))


def test_what_cannot_be_read_any_more_is_unknown_not_unchanged() -> None:
    found = since(screening([series(1)]), screening([not_screenable(1)]))
    assert found.changes == (Change(What.UNKNOWN, 1, 1),)


def test_several_stacks_are_one_content() -> None:
    two = series(1, stacks=(stack(1), stack(1, at=1)))
    turned = series(2, stacks=(stack(1, at=1, principal=True), stack(1, principal=False)))
    other = series(3, stacks=(stack(1), stack(3, at=1)))
    assert since(screening([two]), screening([turned])).changes == (Change(UNCHANGED, 1, 2),)
    assert since(screening([two]), screening([other])).count(NEW) == 1


def test_copies_are_resolved_remain_or_are_new() -> None:
    before = screening(
        [
            series(1),
            series(2, copy("exact", 1)),
            series(3, copy("near-duplicate", 1)),
            series(4, copy("exact", 7, kind=Kind.OWNED, known=content("owned 7"))),
        ]
    )
    now = screening(
        [
            series(1),
            series(3, copy("partial", 1)),
            series(4, copy("exact", 7, kind=Kind.OWNED, known=content("owned 7"))),
            series(5, copy("near-duplicate", 4)),
        ]
    )
    found = since(before, now)
    assert [each.series for each in found.resolved] == [2]
    assert [(each.series, each.relation) for each in found.remaining] == [
        (3, Relation.PARTIAL),
        (4, Relation.EXACT),
    ]
    assert [each.series for each in found.new] == [5]


def test_which_of_two_copies_came_first_does_not_matter() -> None:
    first = screening([series(1), series(2, copy("near-duplicate", 1))])
    second = screening([series(2), series(1, copy("near-duplicate", 2))])
    found = since(first, second)
    assert len(found.remaining) == 1
    assert (found.resolved, found.new) == ((), ())


@pytest.mark.parametrize("relation", ["exact", "near-duplicate"])
def test_a_copy_that_was_only_made_again_is_not_resolved(relation: str) -> None:
    before = screening([series(1), series(2, copy(relation, 1))])
    now = screening([series(1), remade(series(2, copy("near-duplicate", 1)))])
    found = since(before, now)
    assert [change.what for change in found.changes] == [UNCHANGED, CHANGED]
    assert [finding.series for finding in found.remaining] == [2]
    assert (found.resolved, found.new) == ((), ())
    now = screening([remade(series(1)), series(2, copy("near-duplicate", 1))])
    found = since(screening([series(1), series(2, copy("near-duplicate", 1))]), now)
    assert [finding.series for finding in found.remaining] == [2]


def test_of_three_with_the_same_pixels_one_less_resolves_one() -> None:
    three = [series(1), series(2, copy("exact", 1)), series(3, copy("exact", 1))]
    found = since(screening(three), screening(three[:2]))
    assert (len(found.resolved), len(found.remaining), len(found.new)) == (1, 1, 0)


def test_an_owned_case_without_content_is_known_by_its_number() -> None:
    first = screening([series(1, copy("exact", 7, kind=Kind.OWNED))])
    assert len(since(first, first).remaining) == 1
    second = screening([series(1, copy("exact", 8, kind=Kind.OWNED))])
    assert len(since(first, second).new) == 1


def rows(data: st.DataObject) -> Screening:
    found = []
    for number in range(1, data.draw(st.integers(1, 8))):
        what = data.draw(st.sampled_from(["new", "copy", "failed", "waiting"]))
        if what == "copy" and number > 1:
            of = data.draw(st.integers(1, number - 1))
            found.append(series(number, copy(data.draw(st.sampled_from(["exact", "partial"])), of)))
        elif what == "failed":
            found.append(not_screenable(number))
        else:
            made = data.draw(st.integers(1, 6))
            body = stack(number, content=content(made))
            found.append(series(number, stacks=(body,) if what != "waiting" else ()))
    return screening(found)


@given(st.data())
def test_every_series_and_every_copy_of_both_is_in_one_place(data: st.DataObject) -> None:
    before, now = rows(data), rows(data)
    found = since(before, now)
    assert sorted(c.before for c in found.changes if c.before) == [s.number for s in before.series]
    assert sorted(c.now for c in found.changes if c.now) == [s.number for s in now.series]
    copies = [len(since(each, each).remaining) for each in (before, now)]
    assert len(found.resolved) + len(found.remaining) == copies[0]
    assert len(found.new) + len(found.remaining) == copies[1]
    back = since(now, before)
    assert back.count(NEW) == found.count(GONE)
    assert back.count(UNCHANGED) == found.count(UNCHANGED)
