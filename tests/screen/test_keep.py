"""Which series are kept: the best of each group, and nothing lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.screen.facts import derived, elements, lossy, plane, voxel
from diptych.screen.findings import Kind, Series
from diptych.screen.keep import keep
from screen.screenings import content, copy, linked, not_screenable, screening, series, stack


def kept(*rows: Series) -> list[int]:
    found = keep(screening(rows))
    assert [each.series for each in found] == [row.number for row in rows]
    assert all(each.why and each.why.isprintable() for each in found)
    return [each.series for each in found if each.keep]


def why(number: int, *rows: Series) -> str:
    return next(each.why for each in keep(screening(rows)) if each.series == number)


def test_without_copies_everything_is_kept() -> None:
    rows = [series(1), series(2, copy("related", 1)), not_screenable(3)]
    assert kept(*rows) == [1, 2, 3]
    assert why(1, *rows) == "no copy of another"
    assert why(3, *rows) == "could not be judged: decode-failed"


def test_of_the_same_pixels_the_first_is_kept() -> None:
    rows = [series(1), series(2, copy("exact", 1)), series(3, copy("exact", 1))]
    assert kept(*rows) == [1]
    assert why(1, *rows) == "series 2 has the same pixels: first"
    assert why(3, *rows) == "the same pixels as series 1: first"
    assert [each.group for each in keep(screening(rows))] == [1, 1, 1]


@pytest.mark.parametrize(
    ("worse", "better", "reason"),
    [
        ({"ImageType": r"DERIVED\PRIMARY"}, {"ImageType": r"ORIGINAL\PRIMARY"}, "original"),
        (
            {"PixelSpacing": r"1\1", "SliceThickness": "2"},
            {"PixelSpacing": r"0.5\0.5", "SliceThickness": "2"},
            "finer voxels",
        ),
        ({}, {"PixelSpacing": r"0.5\0.5", "SliceThickness": "2"}, "finer voxels"),
        ({"LossyImageCompression": "01"}, {"LossyImageCompression": "00"}, "lossless"),
        ({"Rows": "256", "Columns": "256"}, {"Rows": "512", "Columns": "512"}, "larger slices"),
        ({"elements": "40"}, {"elements": "240"}, "richer header"),
        ({}, {"elements": "240"}, "richer header"),
    ],
)
@pytest.mark.parametrize("relation", ["exact", "near-duplicate"])
def test_the_better_of_two_is_kept_whichever_came_first(
    relation: str, worse: dict[str, str], better: dict[str, str], reason: str
) -> None:
    second = [series(1, facts=worse), series(2, copy(relation, 1), facts=better)]
    assert kept(*second) == [2]
    assert why(1, *second).endswith(f": {reason}")
    first = [series(1, facts=better), series(2, copy(relation, 1), facts=worse)]
    assert kept(*first) == [1]
    assert why(2, *first).endswith(f": {reason}")


def test_the_reasons_come_in_their_order() -> None:
    fine = {"PixelSpacing": r"0.5\0.5", "SliceThickness": "2", "LossyImageCompression": "01"}
    coarse = {"PixelSpacing": r"1\1", "SliceThickness": "2", "elements": "240"}
    rows = [series(1, facts=coarse), series(2, copy("near-duplicate", 1), facts=fine)]
    assert kept(*rows) == [2]
    rounded = fine | {"PixelSpacing": r"0.4999\0.5001"}
    rows = [series(1, facts=rounded), series(2, copy("near-duplicate", 1), facts=fine)]
    assert why(2, *rows) == "a near-duplicate of series 1: first"


def test_what_was_measured_to_be_blurred_is_left_out() -> None:
    blurred = [series(1), series(2, copy("near-duplicate", 1, blur_mm=3.0))]
    assert kept(*blurred) == [1]
    sharper = [series(1), series(2, copy("near-duplicate", 1, blur_mm=-3.0))]
    assert kept(*sharper) == [2]
    assert why(1, *sharper) == "series 2, a near-duplicate of it, is kept: sharper"
    assert kept(series(1), series(2, copy("near-duplicate", 1, blur_mm=-0.9))) == [1]


def test_of_a_part_and_the_whole_the_whole_is_kept() -> None:
    part = copy("partial", 1, shared=(1.0, 0.5))
    assert kept(series(1), series(2, part, slices=50)) == [1]
    whole = copy("partial", 1, shared=(0.5, 1.0))
    rows = [series(1, slices=50), series(2, whole)]
    assert kept(*rows) == [2]
    assert why(1, *rows) == "series 2, a partial copy of it, is kept: more slices"


@pytest.mark.parametrize("shared", [(0.5, 0.5), None])
def test_two_that_overlap_are_both_kept(shared: tuple[float, float] | None) -> None:
    rows = [series(1), series(2, copy("partial", 1, shared=shared))]
    assert kept(*rows) == [1, 2]
    assert why(2, *rows) == "a partial copy of series 1, which does not hold all of it"


def test_a_part_in_native_resolution_is_kept_beside_a_coarse_whole() -> None:
    coarse = {"PixelSpacing": r"2\2", "SliceThickness": "2"}
    fine = {"PixelSpacing": r"0.5\0.5", "SliceThickness": "2"}
    part = copy("partial", 1, shared=(1.0, 0.5))
    assert kept(series(1, facts=coarse), series(2, part, facts=fine, slices=50)) == [1, 2]


def test_the_same_pixels_as_a_copy_are_a_copy_too() -> None:
    rows = [series(1), series(2, copy("near-duplicate", 1)), series(3, copy("exact", 2))]
    assert kept(*rows) == [1]
    assert why(3, *rows) == (
        "the same pixels as series 2, which is not kept: a near-duplicate of series 1: first"
    )


def test_a_copy_of_what_is_left_out_is_kept_unless_it_was_compared_with_what_is_kept() -> None:
    rows = [series(1), series(2, copy("near-duplicate", 1)), series(3, copy("near-duplicate", 2))]
    assert kept(*rows) == [1, 3]


def test_two_copies_of_one_that_is_left_out_are_left_out_for_the_best() -> None:
    rows = [
        series(1, facts={"LossyImageCompression": "01"}),
        series(2, copy("near-duplicate", 1), facts={"LossyImageCompression": "00"}),
        series(3, copy("near-duplicate", 1), facts={"LossyImageCompression": "01"}),
        series(4, copy("near-duplicate", 3)),
        series(5, copy("near-duplicate", 3)),
    ]
    assert kept(*rows) == [2, 4]
    assert why(3, *rows) == (
        "a near-duplicate of series 1, and so is series 2, which is kept: lossless"
    )


def test_every_stack_must_be_in_the_one_that_is_kept() -> None:
    two = [
        series(1),
        series(2, stacks=(stack(2, copy("exact", 1)), stack(2, at=1))),
    ]
    # Series 1 is all in series 2, and not the other way round: yet it comes first.
    assert kept(*two) == [1, 2]
    both = (
        stack(2, copy("exact", 1)),
        stack(2, copy("exact", 1, stack=1), at=1, content=content((1, 1))),
    )
    whole = [series(1, stacks=(stack(1), stack(1, at=1))), series(2, stacks=both)]
    assert kept(*whole) == [1]


def test_what_is_owned_already_is_not_kept_and_nor_is_its_copy() -> None:
    own = copy("near-duplicate", 7, kind=Kind.OWNED)
    rows = [series(1, own), series(2, copy("near-duplicate", 1)), series(3)]
    assert kept(*rows) == [3]
    assert why(1, *rows) == "owned already as case 7 of owned (near-duplicate)"
    assert why(2, *rows) == (
        "a near-duplicate of series 1, which is not kept: owned already as case 7 of owned "
        "(near-duplicate)"
    )
    assert [each.group for each in keep(screening(rows))] == [2, 2, None]


def test_what_holds_more_than_is_owned_is_kept() -> None:
    more = copy("partial", 7, kind=Kind.OWNED, shared=(0.5, 1.0))
    assert kept(series(1, more)) == [1]
    less = copy("partial", 7, kind=Kind.OWNED, shared=(1.0, 0.5))
    assert kept(series(1, less)) == []
    alike = stack(1, copy("related", 8, kind=Kind.OWNED), at=1)
    assert kept(series(1, stacks=(stack(1, copy("exact", 7, kind=Kind.OWNED)), alike))) == [1]


def test_what_overlaps_with_what_is_owned_is_kept() -> None:
    own = copy("exact", 7, kind=Kind.OWNED)
    assert kept(series(1, own), series(2, copy("partial", 1, shared=(0.5, 0.5)))) == [2]
    assert kept(series(1, own), series(2, copy("partial", 1, shared=(1.0, 0.5)))) == []


def test_what_leaks_is_not_kept_nor_what_shares_slices_with_it() -> None:
    leak = copy("partial", 7, kind=Kind.TEST_SET, shared=(0.1, 1.0))
    owned = copy("exact", 8, kind=Kind.OWNED)
    overlap = copy("partial", 1, shared=(0.5, 0.5))
    rows = [series(1, leak, owned), series(2, overlap), series(3, copy("exact", 1))]
    assert kept(*rows) == []
    assert why(1, *rows) == "leaks into the test set as case 7 of test-set (partial)"
    assert why(2, *rows).startswith("a partial copy of series 1, which is not kept: leaks")


def test_what_was_not_judged_is_not_kept() -> None:
    assert kept(series(1), series(2, stacks=())) == [1]


@settings(max_examples=200)
@given(st.data())
def test_nothing_is_lost_and_nothing_is_kept_twice(data: st.DataObject) -> None:
    """Series are runs of slices of one scan, each compared with an earlier one; shares are true."""
    runs: list[range] = []
    rows: list[Series] = []
    for number in range(1, data.draw(st.integers(2, 9))):
        first = data.draw(st.integers(0, 5))
        run = range(first, data.draw(st.integers(first + 1, 6)))
        known = sorted(number for number, other in enumerate(runs, 1) if set(other) & set(run))
        same = next((number for number in known if runs[number - 1] == run), None)
        matches = []
        if same is not None:
            matches = [copy("exact", same)]
        elif known:
            of = data.draw(st.sampled_from(known))
            common = len(set(run) & set(runs[of - 1]))
            shared = common / len(run), common / len(runs[of - 1])
            whole = min(shared) >= 0.8
            matches = [copy("near-duplicate" if whole else "partial", of, shared=shared)]
        runs.append(run)
        rows.append(series(number, *matches, slices=len(run), facts={"elements": "9"}))
    held = kept(*rows)
    lost = {s for run in runs for s in run} - {s for n in held for s in runs[n - 1]}
    # A near-duplicate may lack a fifth of the slices; parts must be there in full.
    assert not lost or any(
        m.relation == "near-duplicate" for r in rows for m in r.stacks[0].matches
    )
    for row in linked(tuple(rows)):
        for match in row.stacks[0].matches:
            assert match.other is not None
            of = match.other.ref.series
            if match.relation != "partial" or set(runs[row.number - 1]) <= set(runs[of - 1]):
                assert not {row.number, of} <= set(held)
    shuffled = tuple(data.draw(st.permutations(screening(rows).series)))
    again = keep(replace(screening(rows), series=shuffled))
    assert sorted(each.series for each in again if each.keep) == held


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"PixelSpacing": r"0.488281\0.488281", "SliceThickness": "5"}, 1.2),
        ({"PixelSpacing": "[0.5, 0.5]", "SpacingBetweenSlices": "2", "SliceThickness": "9"}, 0.5),
        ({"PixelSpacing": "0.5"}, float("inf")),
        ({"PixelSpacing": "NaN", "SliceThickness": "1"}, float("inf")),
        ({"PixelSpacing": r"0\0", "SliceThickness": "1"}, float("inf")),
        ({"PixelSpacing": r"1e999\1e999", "SliceThickness": "1"}, float("inf")),
        ({"PixelSpacing": "<script>", "SliceThickness": "\0"}, float("inf")),
    ],
)
def test_a_voxel_is_as_large_as_the_header_says_or_unknown(
    facts: dict[str, str], found: float
) -> None:
    assert voxel(series(1, facts=facts)) == found


def test_facts_that_say_nothing_are_unknown() -> None:
    odd = series(1, facts={"Rows": "x", "Columns": "9" * 400, "elements": "-", "ImageType": "??"})
    assert (derived(odd), plane(odd), elements(odd), lossy(odd)) == (1, 0, 0, False)
    huge = series(1, facts={"Rows": "9" * 400, "Columns": "9" * 400, "elements": "9" * 400})
    assert plane(huge) == elements(huge) == 2**62
    assert lossy(series(1, transfer_syntax="1.2.840.10008.1.2.4.50"))
    assert derived(series(1, facts={"ImageType": "['DERIVED', 'PRIMARY']"})) == 2
