"""What the report counts is what was found, in every file alike."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import jsonschema
import pyarrow.parquet as pq
import pytest

from diptych.judge.ladder import Relation
from diptych.screen.dismissals import Dismissal, Dismissed
from diptych.screen.findings import Kind, Outcome
from diptych.screen.report import figures, tables
from diptych.screen.report.pairs import pairs, worst
from diptych.screen.since import since
from screen import delivered


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def summary(folder):
    return json.loads((folder / "summary.json").read_text("utf-8"))


def valid(folder):
    schema = json.loads((folder / "summary.schema.json").read_text("utf-8"))
    checker = jsonschema.Draft202012Validator
    checker.check_schema(schema)
    checker(schema, format_checker=checker.FORMAT_CHECKER).validate(summary(folder))


def test_the_summary_is_what_its_schema_says(report, vendors):
    valid(report)
    valid(vendors)


def test_a_summary_of_another_shape_is_refused_by_the_schema(report):
    schema = json.loads((report / "summary.schema.json").read_text("utf-8"))
    for change in ({"schema_version": 2}, {"complete": "yes"}, {"unheard_of": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**summary(report), **change}, schema)


def test_the_matrix_holds_each_counted_series_by_vendor_collection_and_relation(report):
    cells = {(c["vendor"], c["kind"]): c for c in summary(report)["matrix"]}
    assert len(cells) == 6
    acme = cells["Acme Imaging", "delivery"]
    assert (acme["series"], acme["exact"], acme["near-duplicate"], acme["related"]) == (18, 1, 1, 1)
    assert acme["unique"] == 15
    assert cells["Acme Imaging", "owned"]["partial"] == 1
    assert cells["Acme Imaging", "test-set"]["unique"] == 18
    assert cells["Other & Sons", "test-set"]["exact"] == 1
    assert summary(report)["series"] == {"total": 20, "judged": 20, "counted": 19, "duplicates": 4}


def test_rates_money_and_verdict_are_those_of_the_decision(report):
    found = summary(report)
    decision = delivered.decision(delivered.screening())
    assert found["decision"]["sentence"] == decision.sentence
    assert found["decision"]["ruling"] == "REJECT"
    assert len(found["rates"]) == len(decision.rates)
    inside = found["rates"][0]
    assert (inside["kind"], inside["duplicates"], inside["of"]) == ("delivery", 2, 19)
    assert 0.0130 < inside["low"] < 0.0131
    assert 0.331 < inside["high"] < 0.332
    assert (found["money"]["total"], found["money"]["copies"]) == ("2400", "480")


def test_what_the_policy_excludes_is_in_no_cell():
    given = delivered.screening()
    assert len(figures.in_the_count(given, {2, 4})) == 17
    cells = [cell for row in figures.matrix(given, {2, 4}) for cell in row]
    inside = [cell for cell in cells if cell.kind is Kind.DELIVERY]
    assert sum(cell.relations[Relation.NEAR_DUPLICATE] for cell in inside) == 0
    assert sum(cell.duplicates for cell in cells if cell.kind is Kind.TEST_SET) == 0


def test_inputs_and_outcomes_are_held_against_each_other(report, make_report, tmp_path):
    assert summary(report)["inputs"]["balanced"] is True
    page = (report / "index.html").read_text("utf-8")
    assert "all entries" in page
    assert "NOT all entries" not in page
    lost = delivered.screening(outcomes=(Outcome("readable", "", 819, 1),))
    short = make_report(tmp_path / "report", lost)
    assert summary(short)["inputs"]["balanced"] is False
    assert "NOT all entries: 820 were listed" in (short / "index.html").read_text("utf-8")


def test_every_pair_and_every_series_has_a_row(report):
    found = rows(report / "pairs.csv")
    assert [(r["series"], r["kind"], r["relation"], r["counted"]) for r in found] == [
        ("2", "delivery", "near-duplicate", "true"),
        ("3", "owned", "partial", "true"),
        ("4", "test-set", "exact", "true"),
        ("6", "delivery", "exact", "true"),
        ("7", "delivery", "related", "false"),
    ]
    check = delivered.checked("abdomen turned", "abdomen")
    assert float(found[0]["rotation_degrees"]) == check.rotation_degrees
    assert float(found[0]["shift_p_mm"]) == check.shift_mm[1]
    assert (found[1]["other_first_slice"], found[1]["other_last_slice"]) == ("9", "28")
    series = rows(report / "series.csv")
    assert [row["series"] for row in series] == [str(number) for number in range(1, 21)]
    assert (series[3]["test_set"], series[2]["owned"]) == ("exact", "partial")
    assert (series[4]["relation"], series[4]["reason"]) == (
        "not-screenable",
        "no-informative-slice",
    )


def test_parquet_holds_what_csv_holds_with_types(report):
    for name in ("pairs", "series"):
        table = pq.read_table(report / f"{name}.parquet").to_pylist()
        plain = rows(report / f"{name}.csv")
        assert len(table) == len(plain)
        assert list(table[0]) == list(plain[0])
    assert pq.read_table(report / "pairs.parquet").to_pylist()[0]["counted"] is True


def test_without_pyarrow_the_report_says_that_parquet_was_left_out(
    make_report, tmp_path, monkeypatch
):
    monkeypatch.setattr(tables, "parquet_there", lambda: False)
    folder = make_report(tmp_path / "report")
    assert not list(folder.glob("*.parquet"))
    assert "diptych[parquet]" in (folder / "index.html").read_text("utf-8")
    assert summary(folder)["parquet"] is False
    valid(folder)


def test_no_cell_of_a_csv_is_a_formula(report, make_report, tmp_path):
    hostile = [
        replace(series, place=f"{sign}cmd|'/c calc'!A1", study_instance_uid=f"{sign}1")
        for sign, series in zip("=+-@\t\r", delivered.delivered(), strict=False)
    ]
    folder = make_report(tmp_path / "report", delivered.screening(series=tuple(hostile)))
    for name in ("series.csv", "pairs.csv", "clean_manifest.csv"):
        for row in rows(folder / name):
            for text in row.values():
                assert not text.startswith(("=", "+", "@", "\t", "\r"))
                assert not text.startswith("-") or float(text) < 0
    assert rows(folder / "series.csv")[0]["place"].startswith("'=cmd")


def test_the_clean_manifest_says_what_to_keep_and_why(report):
    found = {row["series"]: row for row in rows(report / "clean_manifest.csv")}
    assert len(found) == 20
    assert [number for number, row in found.items() if row["keep"] == "false"] == [
        "2", "3", "4", "6",
    ]  # fmt: skip
    assert all(row["why"] for row in found.values())


def test_groups_stand_around_a_representative(report):
    found = json.loads((report / "groups.json").read_text("utf-8"))
    assert [(g["kind"], g["representative"]["case"], len(g["members"])) for g in found] == [
        ("delivery", 1, 2),
        ("owned", 9, 1),
        ("test-set", 4, 1),
    ]
    assert found[0]["members"][0]["transform"].startswith("Turned by 8.0°")


def test_of_every_kind_of_finding_the_surest_pair_is_shown_first():
    given = delivered.screening()
    exact = next(series for series in given.series if series.number == 6)
    many = tuple(
        replace(
            exact,
            number=100 + i,
            stacks=(replace(exact.stacks[0], ref=replace(exact.stacks[0].ref, case=100 + i)),),
        )
        for i in range(200)
    )
    given = replace(given, series=many + given.series)
    shown = worst(pairs(given, frozenset()))
    assert len(shown) == 50
    assert [pair.series.number for pair in shown[:4]] == [4, 3, 6, 2]
    assert all(pair.counted for pair in shown)


def test_what_changed_since_an_earlier_delivery_is_said(make_report, tmp_path):
    now = delivered.screening()
    before = delivered.screening(delivery="Lot 6", series=now.series[:3])
    folder = make_report(tmp_path / "report", now, since=since(before, now))
    assert summary(folder)["since"]["earlier"] == "Lot 6"
    assert summary(folder)["since"]["series"]["new"] == 17
    assert "Since the earlier delivery" in (folder / "index.html").read_text("utf-8")
    valid(folder)


def test_what_was_dismissed_is_listed_and_the_vendor_hears_not_why(make_report, tmp_path):
    match = next(
        match
        for one in delivered.screening().series
        for stack in one.stacks
        for match in stack.matches
        if match.relation is Relation.NEAR_DUPLICATE
    )
    said = Dismissal(
        contents=("0" * 64, "1" * 64), kind=Kind.DELIVERY, who="ada", when=7, why="a <phantom>"
    )
    dismissed = [Dismissed(3, match, said)]
    folder = make_report(tmp_path / "report", dismissed=dismissed)
    page = (folder / "index.html").read_text("utf-8")
    assert "What was dismissed" in page
    assert "a &lt;phantom&gt;" in page
    assert summary(folder)["dismissed"] == 1
    valid(folder)
    vendors = make_report(tmp_path / "vendor", dismissed=dismissed, vendor_copy=True)
    page = (vendors / "index.html").read_text("utf-8")
    assert "What was dismissed" in page
    assert "phantom&gt;" not in page
    assert "ada" not in page.split("What was dismissed")[-1].split("</section>")[0]
