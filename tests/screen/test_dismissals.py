"""Dismissals: kept by content, applied to whatever delivery brings the pair again."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from diptych.errors import ConfigError, UsageError
from diptych.judge.ladder import Relation
from diptych.screen import dismissals
from diptych.screen.dismissals import FILE, Dismissal, Pair, apply, dismissible, load, remove
from diptych.screen.findings import Kind, Match
from diptych.screen.keep import keep
from diptych.screen.limits import decide
from diptych.screen.terms import Terms
from screen.screenings import content, copy, screening, series, stack


def dismissal(one: str = "a", other: str = "b", **fields: object) -> Dismissal:
    first, second = sorted((content(one), content(other)))
    values = {
        "contents": (first, second),
        "kind": "delivery",
        "who": "ada",
        "when": 7,
        "why": "two phantoms",
    }
    return Dismissal.model_validate(values | fields)


def dismissed_as(pair: Pair) -> Dismissal:
    return dismissal(kind=pair[0], contents=pair[1])


def test_without_a_file_nothing_is_dismissed(tmp_path: Path) -> None:
    assert load(tmp_path) == ()


def test_what_is_dismissed_stays_so_until_it_is_taken_back(tmp_path: Path) -> None:
    odd = dismissal("c", "d", who="Ada\n<b>\u202e", why='", "x": "\x00')
    dismissals.add(tmp_path, dismissal())
    dismissals.add(tmp_path, odd)
    assert load(tmp_path) == (dismissal(), odd)
    kind, (one, other) = dismissal().pair
    assert remove(tmp_path, (kind, (other, one))) == dismissal()
    assert load(tmp_path) == (odd,)
    with pytest.raises(UsageError, match="is not dismissed"):
        remove(tmp_path, (kind, (one, other)))


def test_a_pair_is_dismissed_once(tmp_path: Path) -> None:
    dismissals.add(tmp_path, dismissal())
    with pytest.raises(UsageError, match="dismissed already, by ada: two phantoms"):
        dismissals.add(tmp_path, dismissal(who="bob"))
    assert load(tmp_path) == (dismissal(),)


def _add(where: tuple[Path, int]) -> None:
    dismissals.add(where[0], dismissal(str(where[1])))


def test_of_several_who_dismiss_at_once_nobody_is_lost(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(_add, [(tmp_path, number) for number in range(20)]))
    assert len(load(tmp_path)) == 20


def test_what_a_killed_writer_left_is_no_dismissal(tmp_path: Path) -> None:
    dismissals.add(tmp_path, dismissal())
    (tmp_path / f"{FILE}.tmp").write_text('{"version": 1, "dism')
    assert load(tmp_path) == (dismissal(),)
    dismissals.add(tmp_path, dismissal("c"))
    assert len(load(tmp_path)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 2, "dismissals": []}',
        '{"version": 1, "dismissals": [{}]}',
        '{"version": 1, "dismissals": [], "more": 1}',
        json.dumps({"dismissals": [dismissal().model_dump(mode="json")] * 2}),
        json.dumps(
            {"dismissals": [dismissal().model_dump(mode="json") | {"contents": ["x", "y"]}]}
        ),
    ],
)
def test_a_damaged_file_is_refused_and_stays_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigError, match="is damaged"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="is damaged"):
        dismissals.add(tmp_path, dismissal())
    assert (tmp_path / FILE).read_text() == text


def test_there_must_be_a_data_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no data folder"):
        dismissals.add(tmp_path / "none", dismissal())


@pytest.mark.parametrize("fields", [{"who": ""}, {"why": ""}, {"contents": ("f" * 64, "0" * 64)}])
def test_a_dismissal_says_who_why_and_of_what(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"who|why|the smaller one first"):
        dismissal(**fields)


def own(relation: str = "near-duplicate") -> Match:
    return copy(relation, 7, kind=Kind.OWNED, known=content("owned 7"))


def test_a_dismissed_copy_is_related_not_counted_and_listed() -> None:
    found = screening([series(1), series(2, copy("near-duplicate", 1), own()), series(3, own())])
    said = dismissed_as(dismissible(found, 2, "delivery"))
    after, listed = apply(found, [said, dismissal()])
    assert [(each.series, each.match.relation, each.dismissal) for each in listed] == [
        (2, Relation.NEAR_DUPLICATE, said)
    ]
    assert after.series[1].stacks[0].relation is Relation.RELATED
    assert [match.relation for match in after.series[1].stacks[0].matches] == [
        Relation.RELATED,
        Relation.NEAR_DUPLICATE,
    ]
    assert (after.series[0], after.series[2]) == (found.series[0], found.series[2])
    assert [rate.duplicates for rate in decide(after, Terms()).rates][:1] == [0]
    assert apply(found, []) == (found, ())


def test_what_is_owned_is_dismissed_apart_from_what_is_in_the_delivery() -> None:
    found = screening([series(1), series(2, copy("near-duplicate", 1), own())])
    after, _ = apply(found, [dismissed_as(dismissible(found, 2, "owned"))])
    assert after.series[1].stacks[0].relation is Relation.NEAR_DUPLICATE
    assert after.series[1].stacks[0].matches[1].relation is Relation.RELATED


def test_it_survives_a_new_delivery_with_other_names_and_another_order() -> None:
    found = screening([series(1), series(2, copy("near-duplicate", 1))])
    said = dismissed_as(dismissible(found, 2, "delivery"))
    first = series(4, stacks=(stack(4, content=content((2, 0))),))
    second = series(5, stacks=(stack(5, copy("partial", 4), content=content((1, 0))),))
    _, listed = apply(screening([first, second]), [said])
    assert [each.series for each in listed] == [5]


def test_the_same_pixels_can_be_dismissed_too_and_both_are_kept() -> None:
    found = screening([series(1), series(2, copy("exact", 1))])
    after, _ = apply(found, [dismissed_as(dismissible(found, 2, "delivery"))])
    assert [each.keep for each in keep(after)] == [True, True]
    assert [each.keep for each in keep(found)] == [True, False]


def test_what_is_no_copy_cannot_be_dismissed() -> None:
    unknown = copy("exact", 7, kind=Kind.OWNED)
    rows = [series(1), series(2, copy("related", 1)), series(3, unknown)]
    for number, collection, said in (
        (9, "delivery", "there is no series 9"),
        (2, "delivery", "series 2 is no copy of anything in 'delivery'"),
        (3, "delivery", "series 3 is no copy of anything in 'delivery'"),
        (3, "owned", "no more known"),
    ):
        with pytest.raises(UsageError, match=said):
            dismissible(screening(rows), number, collection)


def test_identical_pixels_dismissed_inside_a_delivery_still_count_as_owned() -> None:
    mine = copy("exact", 7, kind=Kind.OWNED, known=content("1"))
    found = screening([series(1), series(2, copy("exact", 1, known=content("2")), mine)])
    said = dismissed_as(dismissible(found, 2, "delivery"))
    _, listed = apply(found, [said])
    assert [each.match.kind for each in listed] == [Kind.DELIVERY]
