"""Each table against counts that can be told from the answers put in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from answered import PROTOCOL, answer, answers, judged
from diptych.evaluate.answers import DUPLICATE, SEVEN, TRANSFORMS, Answer, ProductAnswer
from diptych.evaluate.beyond import beyond_tables
from diptych.evaluate.cells import Table, label
from diptych.evaluate.paper_results import PaperResults, paper_results
from diptych.evaluate.product_results import product_results
from diptych.evaluate.scores import collect
from diptych.evaluate.tables import paper_tables

CROP = TRANSFORMS[1]


def stranger(case: str, *hits: tuple[str, int], **other: object) -> Answer:
    return answer(case, *hits, side="stranger", **other)


def strewn(top: int) -> list[tuple[str, int]]:
    """Hits of a stranger, c(3) = (top + 2) / 10: 3 is *at* the threshold of 0.5, not above."""
    return [("x", top), *((f"y{i}", 1) for i in range(10 - top))]


SMALL = [
    answer("a", ("a", 10)),
    answer("b", ("b", 9), ("a", 1)),
    answer("c", ("a", 6), ("c", 4)),  # surpasses any threshold, points at the wrong case
    answer("d", *((f"z{i}", 1) for i in range(10))),  # c(3) = 0.3: missed
    answer("a", ("b", 8), ("c", 1), ("d", 1), removed=True),
    answer("b", *strewn(1), removed=True),
    stranger("s", *strewn(1)),
    stranger("t", *strewn(3)),
    stranger("u", *strewn(6)),
    stranger("v", ("a", 10), known=("a",)),
    stranger("s", *strewn(7), transform=CROP),
    stranger("t", *strewn(3), transform=CROP),
]


def made(small: list[Answer], threshold: float | None = 0.5) -> tuple[PaperResults, dict]:
    paper = paper_results(collect(small), threshold)
    product = product_results(judged(), "default/1+abc")
    tables = paper_tables(paper, "calibration: bucket-1")
    tables += beyond_tables(PROTOCOL, paper, product, "calibration: bucket-1")
    return paper, {table.name: table for table in tables}


def row(table: Table, name: str) -> tuple[str, ...]:
    return next(cells for cells in table.rows if cells[0] == name)


def test_both_stages_of_a_set_are_counted_at_the_shared_threshold():
    paper, tables = made(SMALL)
    cells = row(tables["table-5"], label(DUPLICATE))
    starts = [cell.split(";")[0] for cell in cells[1:]]
    assert starts == ["0.7500 (3/4", "0.5000 (2/4", "0.6667 (2/3", "0.5000 (2/4"]
    stages = paper.headline[0].at_t_opt
    assert stages is not None
    assert (stages.positives, stages.wrong, stages.alarms) == (3, 1, 1)


def test_sets_that_were_not_run_are_dashes_and_do_not_enter_a_mean():
    paper, tables = made(SMALL)
    assert row(tables["table-5"], label(CROP))[1] == "–"
    assert paper.mean_sensitivity_stage1.counts == (3, 4)
    assert paper.mean_stage2_all_24.value is None


def test_a_known_natural_duplicate_is_no_negative_and_is_reported():
    paper, tables = made(SMALL)
    assert paper.specificity_stage1.counts == (2, 3)
    (case, known, score, top, found, *_ladder) = tables["natural-duplicates"].rows[-1]
    assert (case, known, score, top, found) == ("v", "a", "1.0000", "a", "yes")


def test_a_copy_that_points_at_its_natural_duplicate_is_right():
    twins = [answer("a", ("b", 6), ("a", 4), known=("b",)), stranger("s", *strewn(1))]
    paper, _ = made(twins)
    assert paper.mean_sensitivity_stage2.counts == (1, 1)


def test_transformed_strangers_and_removed_cases_have_their_own_specificity():
    paper, tables = made(SMALL)
    assert row(tables["strangers-transformed"], label(CROP))[1].startswith("0.5000 (1/2;")
    assert row(tables["true-case-removed"], label(DUPLICATE))[1].startswith("0.5000 (1/2;")
    # Neither is among the paper's negatives.
    assert paper.specificity_stage1.counts == (2, 3)


def test_every_table_of_the_paper_has_its_rows_and_columns():
    _, tables = made(list(answers(copies=6, strangers=7)), None)
    shapes = {
        "table-2": (6, 5),
        "table-3": (6, 5),
        "table-4": (6, 5),
        "table-5": (8, 5),
        "table-a1": (24, 8),
        "table-a2": (24, 8),
        "table-a3": (24, 8),
        "algorithm-1": (7, 6),
        "all-sets": (26, 5),
        "strangers-transformed": (26, 2),
        "true-case-removed": (26, 2),
        "product": (28, 6),
    }
    for name, (rows, columns) in shapes.items():
        assert len(tables[name].rows) == rows, name
        assert {len(cells) for cells in (*tables[name].rows, tables[name].header)} == {columns}
        assert "–" not in str(tables[name].rows[0]).replace("–1.0000", "").replace("–0.", "")
    assert tables["table-2"].header[2:] == ("LSH", "HNSW", "exact")
    assert [cells[0] for cells in tables["table-5"].rows[:-1]] == [label(one) for one in SEVEN]


def test_the_tables_of_one_index_agree_with_each_other():
    """Tables III, IV and the HNSW columns of A.1, A.2 tell the same numbers, by k and transform."""
    _, tables = made(list(answers(copies=8, strangers=9)), None)
    for grid, full in (("table-3", "table-a1"), ("table-4", "table-a2")):
        hnsw_top_3 = tables[full].header.index("top 3, HNSW")
        expected = [f"{cells[1]}: {cells[hnsw_top_3]}" for cells in tables[full].rows]
        assert [cell for cells in tables[grid].rows for cell in cells[1:]] == expected


def test_indexes_and_k_have_their_own_thresholds():
    both = [
        *SMALL,
        answer("a", ("a", 8), ("b", 2), index="exact"),
        stranger("s", *strewn(3), index="exact"),
    ]
    paper, tables = made(both)
    exact = paper.sets["exact"][0]
    assert {k: one.threshold for k, one in exact.at_t_roc.items() if one} == {1: 0.3, 3: 0.5}
    assert exact.at_t_opt is None
    assert paper.index == "hnsw"
    assert tables["table-2"].header == ("Measure", "Retrieval", "HNSW", "exact")


def test_without_hnsw_the_headline_is_the_exact_index():
    paper, _ = made([replace(one, index="exact") for one in SMALL])
    assert paper.index == "exact"
    assert paper.specificity_stage1.counts == (2, 3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (answer("a", ("a", 1), index="flat"), "'flat' is none of"),
        (answer("a", ("a", 1), side="stranger", removed=True), "no such query"),
        (answer("a", ("a", 11)), "11 hits from 10 slices"),
        (answer("a", n=0), "at least one slice"),
    ],
)
def test_an_impossible_answer_is_refused(bad: Answer, message: str):
    with pytest.raises(ValueError, match=message):
        collect([bad])


def test_a_query_answered_twice_is_refused():
    with pytest.raises(ValueError, match="'a' was answered twice"):
        collect([SMALL[0], SMALL[0]])


def said(case: str, relation: str, matched: str | None, **other: object) -> ProductAnswer:
    values = {"side": "copy", "transform": DUPLICATE, "seconds": 2.0}
    return ProductAnswer(case=case, relation=relation, matched=matched, **(values | other))  # type: ignore[arg-type]


def test_the_ladder_is_counted_by_relation_and_by_case():
    foreign = {"side": "stranger"}
    product = product_results(
        [
            said("a", "exact", "a"),
            said("b", "near-duplicate", "b"),
            said("c", "partial", "c"),
            said("d", "partial", "a"),
            said("e", "related", "e"),
            said("f", "not-screenable", None),
            said("g", "near-duplicate", "h", known=("h",)),
            said("a", "unique", None, transform=CROP, seconds=9.0),
            said("s", "unique", None, **foreign),
            said("t", "related", "a", **foreign),
            said("u", "near-duplicate", "a", **foreign),
            said("v", "not-screenable", None, **foreign),
            said("w", "near-duplicate", "a", known=("a",), **foreign),
            said("s", "partial", "a", transform=CROP, **foreign),
        ],
        "default/1+abc",
    )
    one = product.untransformed
    assert (one.copies, one.found, one.wrong_case, one.copies_unscreenable) == (7, 4, 1, 1)
    assert (one.strangers, one.false_positives, one.strangers_unscreenable) == (4, 1, 1)
    assert product.specificity.counts == (3, 4)
    assert product.specificity_transformed.counts == (0, 1)
    assert product.mean_sensitivity.value == pytest.approx((4 / 7 + 0) / 2)
    assert product.seconds_per_case == 2.5
    assert product.natural == {"w": (("a",), "near-duplicate", "a")}


def test_an_unknown_relation_or_side_of_the_ladder_is_refused():
    with pytest.raises(ValueError, match="duplicate-ish"):
        product_results([said("a", "duplicate-ish", "a")], "p/1")
    with pytest.raises(ValueError, match="no such side"):
        product_results([said("a", "exact", "a", side="query")], "p/1")
    with pytest.raises(ValueError, match="judged twice"):
        product_results([said("a", "exact", "a")] * 2, "p/1")
