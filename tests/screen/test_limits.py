"""Whether a delivery is accepted, at and around every limit."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.errors import UsageError
from diptych.judge.ladder import Relation
from diptych.screen.exclude import Excluded
from diptych.screen.findings import Kind, Outcome, Screening, Series
from diptych.screen.limits import Exit, Ruling, decide, exceeded_already, exit_status
from diptych.screen.money import amount
from diptych.screen.rates import NOT_SCREENABLE, UNREADABLE, Rate, bounds, percent
from diptych.screen.terms import Terms, limit
from screen.screenings import copy, not_screenable, screening, series, some, stack

DEFAULT = Terms()
RELATIONS = st.sampled_from(["exact", "near-duplicate", "partial", "related", "unique"])


def copies(count: int, relation: str = "exact", first: int = 1, **fields: object) -> list[Series]:
    """``count`` copies of series 9999, which is not in the way of other numbers."""
    return [series(first + at, copy(relation, 9999), **fields) for at in range(count)]


def terms(**values: object) -> Terms:
    return Terms.model_validate(values)


def rate(
    found: Screening,
    kind: Kind = Kind.DELIVERY,
    relation: Relation | None = None,
    at: Terms = DEFAULT,
    modality: str = "",
    vendor: str = "",
) -> Rate:
    (only,) = (
        each
        for each in decide(found, at).rates
        if (each.kind, each.relation, each.modality, each.vendor)
        == (kind, relation, modality, vendor)
    )
    return only


def test_the_sentence_has_numbers_share_limit_and_ruling() -> None:
    decision = decide(screening(some(1197, *copies(7))), DEFAULT)
    assert decision.sentence == (
        "Copies inside the delivery: 7 of 1,204 series, 0.58 %, limit 0.5 %: REJECT"
    )
    assert exit_status(decision) is Exit.EXCEEDED
    assert not decision.accepted


def test_exactly_at_the_limit_is_accepted_and_one_more_is_not() -> None:
    at = decide(screening(some(995, *copies(5))), DEFAULT)
    assert at.accepted
    assert exit_status(at) is Exit.CLEAN
    assert at.sentence == (
        "Copies inside the delivery: 5 of 1,000 series, 0.50 %, limit 0.5 %; copies of what is "
        "owned: 0 of 1,000 series, 0.00 %, limit 0.5 %; copies of a test set: 0 of 1,000 series, "
        "0.00 %, limit 0: ACCEPT"
    )
    assert decide(screening(some(994, *copies(6))), DEFAULT).ruling is Ruling.REJECT


def test_a_share_just_above_its_limit_is_not_shown_as_the_limit() -> None:
    decision = decide(screening(some(2139, *copies(11))), terms(delivery={"copies": "0.51 %"}))
    assert "11 of 2,150 series, 0.512 %, limit 0.51 %: REJECT" in decision.sentence
    assert percent(499, 100_000, limit("0.5 %")) == "0.499 %"


@given(st.integers(0, 3_000), st.integers(1, 3_000), st.integers(0, 10_000))
def test_a_share_as_shown_is_on_the_same_side_of_the_limit_as_the_numbers(
    found: int, more: int, hundredths: int
) -> None:
    of, most = found + more, limit(f"{Decimal(hundredths) / 100} %")
    shown = Decimal(percent(found, of, most).removesuffix(" %"))
    exact = found * 10_000 - hundredths * of
    assert (shown > Decimal(hundredths) / 100) == (exact > 0)
    assert (shown < Decimal(hundredths) / 100) == (exact < 0)


@given(st.lists(st.tuples(RELATIONS, st.booleans()), max_size=40))
def test_copies_are_what_the_definition_says_of_the_series_that_could_be_judged(
    said: list[tuple[str, bool]],
) -> None:
    rows = [
        series(at, copy(relation, 9999)) if judged else not_screenable(at)
        for at, (relation, judged) in enumerate(said, 1)
    ]
    found = screening(rows)
    counted = [relation for relation, judged in said if judged]
    assert rate(found).of == len(counted)
    for relation in ("exact", "near-duplicate", "partial"):
        assert rate(found, relation=Relation(relation)).duplicates == counted.count(relation)
    assert rate(found).duplicates == sum(
        counted.count(relation) for relation in ("exact", "near-duplicate", "partial")
    )


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_bounds_hold_the_share_and_narrow_with_the_delivery(found: int, more: int) -> None:
    of = found + more
    low, high = bounds(found, of)
    assert 0 <= low <= (found / of if of else 0) <= high <= 1
    wide, narrow = bounds(found, of), bounds(10 * found, 10 * of)
    assert narrow[1] - narrow[0] < wide[1] - wide[0] or of == 0


def test_the_bounds_are_clopper_and_pearsons() -> None:
    # 0 of n: 1 - (0.025)^(1/n), by hand.
    assert bounds(0, 444) == (0.0, pytest.approx(1 - 0.025 ** (1 / 444)))
    assert rate(screening(some(1197, *copies(7)))).low == pytest.approx(0.002341, abs=1e-5)
    assert rate(screening(some(1197, *copies(7)))).high == pytest.approx(0.011940, abs=1e-5)


def test_one_leak_into_a_test_set_rejects_whatever_stack_it_is() -> None:
    leak = copy("partial", 3, kind=Kind.TEST_SET)
    leaking = series(1, stacks=(stack(1), stack(1, leak, at=1)))
    decision = decide(screening(some(5000, leaking)), DEFAULT)
    assert decision.sentence == "Copies of a test set: 1 of 5,001 series, 0.02 %, limit 0: REJECT"


def test_a_second_stack_does_not_make_its_series_a_copy_inside_or_of_what_is_owned() -> None:
    others = (copy("exact", 9999), copy("exact", 3, kind=Kind.OWNED))
    rows = some(3, series(1, stacks=(stack(1), stack(1, *others, at=1))))
    assert decide(screening(rows), DEFAULT).accepted


def test_a_match_with_another_stack_of_the_same_series_is_none() -> None:
    itself = series(1, stacks=(stack(1, copy("exact", 1, stack=1)), stack(1, at=1)))
    assert rate(screening([itself])).duplicates == 0


def test_a_leak_counts_although_the_largest_stack_could_not_be_judged() -> None:
    failed = stack(1, relation=Relation.NOT_SCREENABLE, content="")
    leaking = series(1, stacks=(failed, stack(1, copy("exact", 3, kind=Kind.TEST_SET), at=1)))
    found = screening(some(3, leaking))
    assert rate(found, Kind.TEST_SET).duplicates == 1
    assert decide(found, DEFAULT).lost[1].count == 0


def test_of_several_collections_of_a_kind_the_surest_match_counts() -> None:
    leaks = [copy(r, 3, kind=Kind.TEST_SET, collection=r) for r in ("partial", "exact")]
    found = screening([series(1, *leaks)])
    assert rate(found, Kind.TEST_SET, Relation.EXACT).duplicates == 1
    assert rate(found, Kind.TEST_SET, Relation.PARTIAL).duplicates == 0


def test_each_relation_has_a_limit_of_its_own() -> None:
    rows = some(97, *copies(2), *copies(1, "near-duplicate", 3))
    loose = terms(delivery={"copies": "no limit", "exact": 2, "near_duplicate": 0})
    decision = decide(screening(rows), loose)
    assert [each.relation for each in decision.exceeded if isinstance(each, Rate)] == [
        Relation.NEAR_DUPLICATE
    ]
    assert decision.sentence.startswith("Near-duplicates inside the delivery: 1 of 100 series")


def test_modality_and_vendor_have_limits_of_their_own() -> None:
    rows = [
        *copies(1, modality="MR", vendor="a"),
        *(series(n, modality="MR", vendor="a") for n in range(2, 11)),
        *(series(n, vendor="b") for n in range(11, 1011)),
    ]
    of_a = {"modality": "MR", "vendor": "a", "delivery": {"copies": 0}}
    decision = decide(screening(rows), terms(scope=[of_a]))
    assert decision.sentence == (
        "Copies inside the delivery, MR, from a: 1 of 10 series, 10.00 %, limit 0: REJECT"
    )
    assert rate(screening(rows), vendor="b").of == 1000
    assert rate(screening(rows), modality="MR").duplicates == 1
    assert not decide(screening(rows), terms(scope=[of_a | {"vendor": "b"}])).exceeded


def test_the_vendor_of_the_delivery_stands_for_series_without_one() -> None:
    assert rate(screening(some(3), vendor="acme"), vendor="acme").of == 3


def test_names_that_break_lines_do_not_break_the_sentence() -> None:
    rows = copies(1, vendor="a\n\x1b[31mb‮<script>", modality="M\rR")
    strict = terms(scope=[{"vendor": rows[0].vendor, "delivery": {"copies": 0}}])
    decision = decide(screening(rows), strict)
    assert len(decision.exceeded) == 2
    for text in (decision.sentence, *(each.name for each in decision.rates)):
        assert text.isprintable()


def test_what_is_excluded_is_listed_and_counts_neither_as_copy_nor_among_the_rest() -> None:
    scout = {"ImageType": r"ORIGINAL\PRIMARY\LOCALIZER"}
    rows = [
        series(1, copy("exact", 9999), facts=scout),
        series(2, copy("exact", 9999), facts={"BodyPartExamined": "Head phantom"}),
        series(3, copy("exact", 9999), modality="OT"),
        series(4, copy("exact", 9999), slices=2),
        series(5, copy("exact", 9999), facts={"ImageType": "DERIVED\\SECONDARY\\Screen Save"}),
        not_screenable(6, facts=scout),
        series(7, slices=3),
    ]
    rule = {"why": "screen captures", "keyword": "ImageType", "contains": "screen save"}
    strict = terms(exclude={"modalities": ["OT"], "min_slices": 3, "fact": [rule]})
    decision = decide(screening(rows), strict)
    assert decision.accepted
    assert decision.excluded == (
        Excluded(1, "localizer"),
        Excluded(2, "phantom"),
        Excluded(3, "modality"),
        Excluded(4, "few slices"),
        Excluded(5, "screen captures"),
        Excluded(6, "localizer"),
    )
    assert rate(screening(rows), at=strict).of == 1
    assert decision.lost[1].of == 1
    off = terms(exclude={"localizers": False, "phantoms": False})
    assert rate(screening(rows), at=off).duplicates == 5
    assert decide(screening(rows), off).excluded == ()


@pytest.mark.parametrize("rows", [[], [series(1, slices=1)], [not_screenable(1)]])
def test_where_nothing_can_be_counted_nothing_is_accepted(rows: list[Series]) -> None:
    at = terms(exclude={"min_slices": 2}, unjudged={"not_screenable": "no limit"})
    decision = decide(screening(rows), at)
    assert decision.ruling is Ruling.UNDECIDED
    assert decision.sentence.startswith("No series to count: ")
    assert exit_status(decision) is Exit.UNREADABLE


def test_not_an_image_is_in_no_count() -> None:
    document = series(1, stacks=(stack(1, relation=Relation.NOT_AN_IMAGE),))
    decision = decide(screening([document, series(2)]), DEFAULT)
    assert decision.accepted
    assert [each.of for each in decision.lost] == [200, 1]


def test_what_could_not_be_judged_has_limits_too() -> None:
    rows = [not_screenable(n) for n in range(1, 7)] + [series(n) for n in range(7, 107)]
    decision = decide(screening(rows), DEFAULT)
    assert decision.sentence == "Not-screenable: 6 of 106 series, 5.66 %, limit 5 %: REJECT"
    assert decide(screening(rows[1:]), DEFAULT).accepted


def test_what_is_unreadable_is_what_is_damaged_refused_or_not_there() -> None:
    outcomes = (
        Outcome("readable", "", 297, 1),
        Outcome("unreadable", "truncated", 1, 1),
        Outcome("refused", "too-large", 1, 1),
        Outcome("not-an-image", "", 1, 1),
    )
    fields = {"outcomes": outcomes, "entries": 300, "absent": (("DICOMDIR", "A/1", "missing"),)}
    rows = [series(1, refused=(("1.2", "decode-failed"), ("1.3", "not-an-image"))), series(2)]
    decision = decide(screening(rows, **fields), DEFAULT)
    assert decision.sentence == "Unreadable: 4 of 301 files, 1.33 %, limit 1 %: REJECT"
    assert exit_status(decision) is Exit.EXCEEDED
    loose = terms(unjudged={"unreadable": 4})
    assert exit_status(decide(screening(rows, **fields), loose)) is Exit.UNREADABLE
    assert decide(screening(rows, **fields), loose).lost[0].what == UNREADABLE
    assert decide(screening(rows, **fields), loose).lost[1].what == NOT_SCREENABLE


def test_a_limit_on_what_was_not_compared_with_is_named() -> None:
    decision = decide(screening(some(3), collections=()), DEFAULT)
    assert decision.accepted
    assert decision.unchecked == (Kind.OWNED, Kind.TEST_SET)
    assert "owned" not in decision.sentence
    scoped = terms(
        test_set={"copies": "no limit"},
        owned={"copies": "no limit"},
        scope=[{"modality": "CT", "owned": {"exact": 0}}],
    )
    assert decide(screening(some(3), collections=()), scoped).unchecked == (Kind.OWNED,)


def test_copies_that_rest_on_their_slices_alone_are_counted_and_told_apart() -> None:
    row = series(1, copy("near-duplicate", 9999, verified="impossible"))
    found = rate(screening(some(3, row)))
    assert (found.duplicates, found.unverified) == (1, 1)


def unjudged(first: int, count: int) -> list[Series]:
    return [series(number, stacks=()) for number in range(first, first + count)]


def test_while_series_are_missing_only_what_can_no_more_be_undone_rejects() -> None:
    rows = [*copies(5), *unjudged(6, 995)]
    early = decide(screening(rows, stopped="interrupted"), DEFAULT)
    assert early.ruling is Ruling.UNDECIDED
    assert early.sentence == (
        "5 of 1,000 series are judged, no limit is exceeded (interrupted): UNDECIDED"
    )
    assert exit_status(early) is Exit.INTERRUPTED
    rows = [*copies(6), *unjudged(7, 994)]
    late = decide(screening(rows), DEFAULT)
    assert late.sentence == (
        "Copies inside the delivery: 6 of 6 series, 100.00 %, limit 0.5 % "
        "(after 6 of 1,000 series): REJECT"
    )
    assert exit_status(late) is Exit.EXCEEDED


def test_a_series_without_any_stack_is_not_screenable_once_everything_is_judged() -> None:
    decision = decide(screening([*unjudged(1, 1), series(2)], complete=True), DEFAULT)
    assert decision.lost[1].count == 1
    assert exit_status(decision) is Exit.EXCEEDED


@given(
    st.lists(st.sampled_from(["exact", "unique", "leak", "failed", "scout"]), max_size=30),
    st.lists(st.sampled_from(["exact", "unique", "leak", "failed", "scout"]), max_size=30),
    st.sampled_from(["5 %", "20 %", 2, "no limit"]),
)
def test_what_is_exceeded_already_is_exceeded_whatever_follows(
    so_far: list[str], to_come: list[str], most: str | int
) -> None:
    at = terms(delivery={"copies": most}, unjudged={"not_screenable": "10 %"})
    kinds = {
        "exact": lambda n: series(n, copy("exact", 9999)),
        "unique": series,
        "leak": lambda n: series(n, copy("exact", 1, kind=Kind.TEST_SET)),
        "failed": not_screenable,
        "scout": lambda n: series(n, facts={"ImageType": "LOCALIZER"}),
    }
    rows = [kinds[what](number) for number, what in enumerate(so_far + to_come, 1)]
    before, everything = screening(rows[: len(so_far)]), screening(rows)
    early = exceeded_already(before, at, len(rows))
    assert early <= bool(decide(everything, at).exceeded)
    assert exceeded_already(everything, at, len(rows)) == bool(decide(everything, at).exceeded)
    listed = [*rows[: len(so_far)], *unjudged(len(so_far) + 1, len(to_come))]
    assert (decide(screening(listed), at).ruling is Ruling.REJECT) == early


def test_more_copies_than_the_whole_delivery_may_have_stop_it() -> None:
    assert exceeded_already(screening(copies(6)), DEFAULT, 1000)
    assert not exceeded_already(screening(copies(5)), DEFAULT, 1000)
    assert not exceeded_already(screening(), DEFAULT, 1000)
    failed = screening([not_screenable(number) for number in range(1, 7)])
    assert exceeded_already(failed, DEFAULT, 119)
    assert not exceeded_already(failed, DEFAULT, 120)


def test_money_is_of_copies_each_once_and_says_what_has_no_price() -> None:
    both = (copy("exact", 9999), copy("near-duplicate", 4, kind=Kind.OWNED))
    rows = [
        series(1, *both, price=Decimal("99.50")),
        series(2, copy("exact", 9999)),
        series(3, copy("exact", 9999), price=Decimal(7), facts={"ImageType": "LOCALIZER"}),
        series(4, price=Decimal(10)),
    ]
    found = decide(screening(rows), DEFAULT).money
    assert found is not None
    assert (found.total, found.priced, found.unpriced) == (Decimal("116.50"), 3, 1)
    assert (found.copies, found.copies_unpriced) == (Decimal("99.50"), 1)
    assert found.by_kind == {
        Kind.DELIVERY: Decimal("99.50"),
        Kind.OWNED: Decimal("99.50"),
        Kind.TEST_SET: 0,
    }
    found = decide(screening(rows), DEFAULT, Decimal(120)).money
    assert found is not None
    assert (found.copies, found.copies_unpriced) == (Decimal("219.50"), 0)
    assert found.total == Decimal("236.50")


def test_without_any_price_there_is_no_money() -> None:
    assert decide(screening(some(2)), DEFAULT).money is None
    assert decide(screening(), DEFAULT, Decimal(5)).money is None


def test_a_price_of_nothing_is_a_price() -> None:
    found = decide(screening(copies(1, price=Decimal(0))), DEFAULT, Decimal(5)).money
    assert found is not None
    assert (found.copies, found.copies_unpriced) == (0, 0)


@pytest.mark.parametrize("text", ["", "free", "-1", "NaN", "Infinity", "1e400", "12,50", "9" * 17])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no price"):
        amount(text)


def test_a_price_is_taken_as_it_is_written() -> None:
    assert [amount(text) for text in ("120", " 99.50 ", "0")] == [120, Decimal("99.50"), 0]
