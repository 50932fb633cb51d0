"""The guard of splits: what leaks, and a split that does not."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.intake.manifest import read_manifest
from diptych.screen.findings import Kind, Series
from diptych.screen.splits import Assigned, SamePatient, as_csv, disjoint, guard
from screen.screenings import copy, not_screenable, screening, series, stack

A, B = "train", "test"


def leaks(*rows: Series) -> list[tuple[int, int, tuple[str, str]]]:
    return [(leak.series, leak.of, leak.splits) for leak in guard(screening(rows)).leaks]


def test_copies_across_splits_leak_and_within_one_they_do_not() -> None:
    rows = [
        series(1, split=A),
        series(2, copy("partial", 1), split=B),
        series(3, copy("exact", 1), split=A),
        series(4, copy("related", 1), split=B),
        series(5, copy("near-duplicate", 1)),
        series(6, copy("exact", 7, kind=Kind.OWNED), split=B),
    ]
    assert leaks(*rows) == [(2, 1, (B, A))]
    assert guard(screening(rows)).leaking
    assert guard(screening(rows)).sizes == (("", 1), (B, 3), (A, 2))
    assert not guard(screening([row for row in rows if row.number != 2])).leaking


def test_a_stack_that_does_not_speak_for_its_series_leaks_too() -> None:
    second = (stack(2), stack(2, copy("exact", 1), at=1))
    assert leaks(series(1, split=A), series(2, stacks=second, split=B)) == [(2, 1, (B, A))]


def test_copies_of_one_that_is_in_no_split_leak_where_they_have_the_same_pixels() -> None:
    exact = [series(1), series(2, copy("exact", 1), split=A), series(3, copy("exact", 1), split=B)]
    assert leaks(*exact) == [(3, 2, (B, A))]
    near = [
        series(1),
        series(2, copy("near-duplicate", 1), split=A),
        series(3, copy("near-duplicate", 1), split=B),
    ]
    assert leaks(*near) == []


def test_a_copy_of_a_copy_is_no_leak_by_itself() -> None:
    rows = [
        series(1, split=A),
        series(2, copy("near-duplicate", 1)),
        series(3, copy("near-duplicate", 2), split=B),
    ]
    assert leaks(*rows) == []


def test_a_series_in_two_splits_is_a_leak() -> None:
    assert leaks(series(1, split="test; train"), series(2, split=A)) == [(1, 1, (B, A))]


def test_several_stacks_of_two_series_are_one_leak() -> None:
    both = (stack(2, copy("exact", 1)), stack(2, copy("partial", 1, stack=1), at=1))
    rows = [series(1, stacks=(stack(1), stack(1, at=1)), split=A), series(2, stacks=both, split=B)]
    assert leaks(*rows) == [(2, 1, (B, A))]
    found = guard(screening(rows)).leaks[0].match
    assert found is not None
    assert found.relation == "exact"


def test_a_patient_in_two_splits_is_named_apart_from_copies() -> None:
    rows = [
        series(1, split=A, patient="p"),
        series(2, split=B, patient="p"),
        series(3, split=A, patient="q"),
        series(4, split=A, patient="q"),
        series(5, split=B),
        series(6, split=A),
        series(7, patient="q"),
    ]
    found = guard(screening(rows))
    assert found.leaks == ()
    assert found.patients == (SamePatient("p", ((B, (2,)), (A, (1,)))),)
    assert found.leaking
    assert found.nameless == 2


def test_what_was_not_judged_is_counted_because_no_copy_of_it_is_known() -> None:
    rows = [series(1, split=A), not_screenable(2, split=B), series(3, stacks=(), split=B)]
    assert guard(screening(rows)).unjudged == 2


def assigned(*rows: Series) -> dict[int, str]:
    return {one.series: one.split for one in disjoint(screening(rows))}


def test_what_does_not_leak_stays_where_it_is() -> None:
    rows = [
        series(1, split=A),
        series(2, copy("exact", 1), split=A),
        series(3, split=B, patient="p"),
        series(4, patient="p"),
        series(5),
    ]
    assert assigned(*rows) == {1: A, 2: A, 3: B, 4: B, 5: ""}


def test_links_over_several_steps_keep_together() -> None:
    rows = [
        series(1, split=A, patient="p"),
        series(2, split=A, patient="p"),
        series(3, copy("near-duplicate", 2), split=B, patient="q"),
        series(4, split=B, patient="q"),
        series(5, copy("partial", 4), split=A),
    ]
    assert len(set(assigned(*rows).values())) == 1


def test_what_must_move_goes_where_the_ratio_is_kept() -> None:
    pairs = []
    for at in range(1, 9, 2):
        pairs += [series(at, split=A), series(at + 1, copy("exact", at), split=B)]
    found = Counter(assigned(*pairs, *(series(n, split=A) for n in range(9, 13))).values())
    assert found == {A: 8, B: 4}


def test_of_equal_ones_what_leaked_goes_to_the_larger_split() -> None:
    rows = [series(1, split="a"), series(2, copy("exact", 1), split="z")]
    assert assigned(*rows, series(3, split="z"))[1] == "z"
    assert assigned(*rows, series(3, split="a"))[1] == "a"


def test_what_is_large_is_placed_first() -> None:
    small = [series(1, split=A), series(2, copy("exact", 1), split=B)]
    large = [series(3, split=A)]
    large += [series(n, copy("exact", 3), split=A if n < 6 else B) for n in range(4, 7)]
    found = assigned(*small, *large)
    assert (found[1], found[3]) == (B, A)
    assert assigned(*large, *small) == found


def test_what_is_in_no_split_has_no_share_in_the_ratio() -> None:
    rows = [series(1, split=A, patient="p"), *(series(n, patient="p") for n in range(2, 7))]
    mixed = [series(7, split=A), series(8, copy("exact", 7), split=A)]
    mixed += [series(9, copy("exact", 7), split=B)]
    assert assigned(*rows, *mixed)[7] == A


def test_the_name_of_a_split_may_be_anything_and_is_no_formula(tmp_path: Path) -> None:
    odd = '=HYPERLINK("x"),\n"b"'
    place = '/d/a,b\n"c".zip!/=1+1'
    text = as_csv([Assigned(1, place, odd, "train", 1), Assigned(2, "-x", "", "", 2)])
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert rows[0]["path"] == place
    assert rows[0]["split_before"] == f"'{odd}"
    assert rows[1]["path"] == "-x"
    (tmp_path / "split.csv").write_text(text, "utf-8", newline="")
    lines = list(read_manifest(tmp_path / "split.csv").lines())
    assert [(line.path, line.split) for line in lines] == [(place, "train"), ("-x", None)]


@settings(max_examples=200)
@given(st.data())
def test_nothing_leaks_from_a_disjoint_split(data: st.DataObject) -> None:
    rows: list[Series] = []
    relation = st.sampled_from(["exact", "near-duplicate", "partial", "related"])
    for number in range(1, data.draw(st.integers(2, 14))):
        split = data.draw(st.sampled_from([A, A, A, B, "val", ""]))
        patient = data.draw(st.sampled_from(["", "", "", "p", "q", "r"]))
        matches = []
        if number > 1 and data.draw(st.booleans()):
            matches = [copy(data.draw(relation), data.draw(st.integers(1, number - 1)))]
        rows.append(series(number, *matches, split=split, patient=patient))
    before = guard(screening(rows))
    found = disjoint(screening(rows))
    given_splits = {row.split for row in rows}
    assert {one.split for one in found} <= given_splits
    after = [
        series(row.number, *row.stacks[0].matches, split=one.split, patient=row.patient)
        for row, one in zip(rows, found, strict=True)
    ]
    assert not guard(screening(after)).leaking
    assert disjoint(screening(after)) == tuple(
        Assigned(one.series, one.place, one.split, one.split, one.component) for one in found
    )
    if not before.leaking:
        kept = [one for one in found if one.before and one.before != one.split]
        # What leaks nowhere by itself may still hang together over something in between.
        assert all(len({r.split for r in rows if _in(r, one, found)} - {""}) > 1 for one in kept)
    for one, other in ((one, other) for one in found for other in found):
        if one.component == other.component:
            assert one.split == other.split


def _in(row: Series, one: Assigned, found: tuple[Assigned, ...]) -> bool:
    return found[row.number - 1].component == one.component
