"""Groups around a representative that every member was itself compared with."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from diptych.judge.ladder import Relation
from diptych.screen.findings import Kind, Ref
from diptych.screen.groups import groups
from screen.screenings import case_of, copy, not_screenable, screening, series, stack


def test_a_copy_of_a_copy_is_a_member_of_that_copys_group_alone() -> None:
    found = groups(
        screening([series(1), series(2, copy("near-duplicate", 1)), series(3, copy("exact", 2))])
    )
    assert [group.number for group in found] == [1, 2]
    assert [group.representative.series for group in found] == [1, 2]
    assert [[m.ref.series for m in group.members] for group in found] == [[2], [3]]
    assert found[1].members[0].relation is Relation.EXACT


def test_every_collection_has_groups_of_its_own() -> None:
    rows = [
        series(1, copy("exact", 7, kind=Kind.TEST_SET)),
        series(2, copy("partial", 7, kind=Kind.OWNED), copy("exact", 1)),
        series(3, copy("exact", 7, kind=Kind.OWNED), copy("exact", 1)),
        series(4, copy("exact", 7, kind=Kind.TEST_SET, collection="other")),
    ]
    found = groups(screening(rows))
    assert [(g.kind, g.representative, [m.ref.series for m in g.members]) for g in found] == [
        (Kind.DELIVERY, Ref("delivery", case_of(1), 1), [2, 3]),
        (Kind.OWNED, Ref("owned", 7), [2, 3]),
        (Kind.TEST_SET, Ref("other", 7), [4]),
        (Kind.TEST_SET, Ref("test-set", 7), [1]),
    ]


def test_what_is_no_copy_is_in_no_group() -> None:
    rows = [
        series(1),
        series(2, copy("related", 1)),
        not_screenable(3),
        series(4, stacks=()),
        series(5, stacks=(stack(5, copy("exact", 5, stack=1)), stack(5, at=1))),
        series(6, stacks=(stack(6), stack(6, copy("exact", 1), at=1))),
    ]
    assert groups(screening(rows)) == ()


@given(st.data())
def test_members_are_what_they_were_compared_with_whatever_the_order_of_the_series(
    data: st.DataObject,
) -> None:
    relations = st.sampled_from(["exact", "near-duplicate", "partial", "related"])
    rows = [series(1)]
    for number in range(2, data.draw(st.integers(2, 12))):
        of = data.draw(st.integers(1, number - 1))
        rows.append(series(number, copy(data.draw(relations), of)))
    whole = screening(rows)
    found = groups(whole)
    assert {
        (group.representative.series, member.ref.series)
        for group in found
        for member in group.members
    } == {
        (match.other.ref.series, row.number)
        for row in whole.series
        for match in row.stacks[0].matches
        if match.other and match.relation is not Relation.RELATED
    }
    for group in found:
        for member in group.members:
            assert member.match.other is not None
            assert member.match.other.ref == group.representative
    shuffled = tuple(data.draw(st.permutations(whole.series)))
    assert groups(replace(whole, series=shuffled)) == found
