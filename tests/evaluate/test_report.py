"""What is written below OUT, read back."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from answered import PROTOCOL, answer, answers, judged
from diptych.evaluate.answers import DUPLICATE, SEVEN, TRANSFORMS, Answer, ProductAnswer
from diptych.evaluate.report import Report, write

POLICY = "default/1+abc"

# The contract of --json.
PROTOCOL_KEYS = {"cases", "database", "nonduplicates", "model", "index", "threshold_from"}
MEANS = {
    "mean_sensitivity_stage1",
    "mean_sensitivity_stage2",
    "specificity_stage1",
    "specificity_stage2",
}
PAPER_KEYS = MEANS | {"k", "threshold", "sets"}
STAGES = {
    "sensitivity_stage1",
    "sensitivity_stage2",
    "specificity_stage1",
    "specificity_stage2",
}
PAPER_SET_KEYS = STAGES | {"transform", "strength", "auc_top1", "auc_top3"}
PRODUCT_KEYS = {
    "policy",
    "mean_sensitivity",
    "mean_sensitivity_all",
    "specificity",
    "specificity_transformed",
    "nonduplicates",
    "false_positives",
    "seconds_per_case",
    "sets",
}
PRODUCT_SET_KEYS = {"transform", "strength", "sensitivity", "wrong_case", "false_positives"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """One run of all 25 sets and three indexes, threshold fitted on the same data."""
    out = tmp_path_factory.mktemp("evaluate") / "out"
    return write(
        out,
        replace(PROTOCOL, cases=31, database=15, nonduplicates=16),
        answers(copies=15, strangers=16),
        judged(copies=15, strangers=16),
        threshold=None,
        policy=POLICY,
        json_file=out.parent / "figures.json",
        extra={"seconds": 12.5},
    )


def read(report: Report, name: str) -> str:
    return next(path for path in report.files if path.name == name).read_text(encoding="utf-8")


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, int | float) else []


def test_the_json_has_every_key_of_the_contract(run: Report):
    made = json.loads(read(run, "figures.json"))
    assert made.keys() == {"protocol", "paper", "product", "seconds"}
    assert made["protocol"].keys() >= PROTOCOL_KEYS
    assert made["paper"].keys() >= PAPER_KEYS
    assert made["product"].keys() >= PRODUCT_KEYS
    assert made["paper"]["k"] == 3
    expected = [(one.name, one.strength) for one in TRANSFORMS]
    for part, keys in (("paper", PAPER_SET_KEYS), ("product", PRODUCT_SET_KEYS)):
        sets = made[part]["sets"]
        assert [(one["transform"], one["strength"]) for one in sets] == expected
        assert all(one.keys() >= keys for one in sets)
        assert all(one[key] is not None for one in sets for key in keys - {"strength"})
    assert all(math.isfinite(number) for number in numbers(made))
    assert made == run.document == json.loads(read(run, "results.json"))


def test_the_headline_means_are_over_the_seven_sets_at_the_shared_threshold(run: Report):
    paper = run.document["paper"]
    seven = [
        one
        for one in paper["sets"]
        if (one["transform"], one["strength"]) in [(s.name, s.strength) for s in SEVEN]
    ]
    assert len(seven) == 7
    for name in ("sensitivity_stage1", "sensitivity_stage2"):
        mean = sum(one[f"{name}_t_opt"] for one in seven) / 7
        assert paper[f"mean_{name}"] == pytest.approx(mean)
    mean = sum(one["specificity_stage2_t_opt"] for one in seven) / 7
    assert paper["specificity_stage2"] == pytest.approx(mean)
    assert {one["specificity_stage1_t_opt"] for one in seven} == {paper["specificity_stage1"]}
    others = paper["sets"][1:]
    mean = sum(one["sensitivity_stage2"] for one in others) / 24
    assert paper["mean_stage2_all_24"] == pytest.approx(mean)


def test_every_rate_has_its_counts_and_a_bound_around_it(run: Report):
    for part in ("paper", "product"):
        for level in (run.document[part], *run.document[part]["sets"]):
            for name, (low, high) in level["bounds"].items():
                assert low <= level[name] <= high, name
                hits, of = level["counts"][name]
                if not name.startswith(("auc", "mean", "specificity")):
                    assert level[name] == pytest.approx(hits / of), name


def test_the_report_says_first_where_the_threshold_comes_from(run: Report, tmp_path: Path):
    said = "Threshold fitted on the same data"
    assert said in read(run, "report.md").splitlines()[2]
    assert run.summary.startswith(said)
    assert said in read(run, "figure-3.svg")
    assert said in read(run, "roc-top3.svg")
    assert run.document["protocol"]["threshold_from"] == "same data"

    given = write(tmp_path, PROTOCOL, answers(5, 6), judged(5, 6), threshold=0.7711, policy=POLICY)
    said = "Threshold from calibration: bucket-1: 0.7711"
    assert said in read(given, "report.md").splitlines()[2]
    assert given.summary.startswith(said)
    assert given.document["paper"]["threshold"] == 0.7711
    assert not (tmp_path / "algorithm-1.csv").exists()


def test_each_csv_row_names_the_origin_of_its_threshold(run: Report):
    tables = [path for path in run.files if path.suffix == ".csv"]
    assert len(tables) == 13
    for path in tables:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert rows, path.name
        if path.name not in ("natural-duplicates.csv", "unreadable.csv"):
            assert all(row["threshold_from"] for row in rows), path.name


def test_a_given_threshold_needs_an_origin(tmp_path: Path):
    protocol = replace(PROTOCOL, threshold_from="same data")
    with pytest.raises(ValueError, match="where it comes from"):
        write(tmp_path, protocol, [], [], threshold=0.5, policy=POLICY)


def test_extra_keys_do_not_replace_the_contract(tmp_path: Path):
    with pytest.raises(ValueError, match="already taken: paper"):
        write(tmp_path, PROTOCOL, [], [], threshold=None, policy=POLICY, extra={"paper": {}})


ONE = [answer("a", ("a", 9), ("b", 1))]
STRANGER = [answer("s", ("a", 5), ("b", 1), side="stranger")]


@pytest.mark.parametrize(
    ("given", "product", "words"),
    [
        ([], [], "Nothing was looked up"),
        (ONE, [], "No threshold could be fitted"),
        (STRANGER, [], "No threshold could be fitted"),
        (ONE + STRANGER, [], "own ladder was not run"),
        ([], list(judged(1, 0)), "Nothing was looked up"),
        ([], list(judged(0, 2)), "Nothing was looked up"),
    ],
    ids=["nothing", "no strangers", "no copies", "one case a side", "no index", "only strangers"],
)
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_what_cannot_be_computed_is_said_and_null(
    tmp_path: Path,
    given: list[Answer],
    product: list[ProductAnswer],
    words: str,
    threshold: float | None,
):
    unreadable = (("a|b\n.nii", "not a NIfTI file"),)
    protocol = replace(PROTOCOL, unreadable=unreadable)
    report = write(tmp_path, protocol, given, product, threshold=threshold, policy=POLICY)
    if threshold is None or "threshold" not in words:
        assert words in report.summary
    made = json.loads(read(report, "results.json"))
    assert len(made["paper"]["sets"]) == len(made["product"]["sets"]) == 25
    blur = made["paper"]["sets"][13]
    assert [blur[key] for key in sorted(STAGES | {"auc_top1"})].count(None) >= 3
    if not product:
        assert made["product"]["mean_sensitivity"] is None
        assert made["product"]["seconds_per_case"] is None
        assert made["product"]["false_positives"] is None
    text = read(report, "report.md")
    assert "nan" not in text.lower()
    assert "| a\\|b .nii | not a NIfTI file |" in text
    assert (tmp_path / "figure-3.png").stat().st_size > 5000


def test_a_table_of_an_earlier_run_does_not_stay(tmp_path: Path):
    unread = replace(PROTOCOL, unreadable=(("a.nii", "empty"),))
    write(tmp_path, unread, answers(5, 6), judged(5, 6), threshold=None, policy=POLICY)
    assert len(list(tmp_path.glob("*.csv"))) == 14
    write(tmp_path, PROTOCOL, [], [], threshold=None, policy=POLICY)
    assert list(tmp_path.glob("*.csv")) == []


def test_a_threshold_from_a_part_of_the_seven_sets_says_so(tmp_path: Path):
    quick = answers(6, 7, indexes=["exact"], transforms=[DUPLICATE, TRANSFORMS[1]])
    report = write(tmp_path, PROTOCOL, quick, [], threshold=None, policy=POLICY)
    assert "rests on 2 of the seven sets" in report.summary


def test_paths_that_are_no_text_are_escaped_not_fatal(tmp_path: Path):
    odd = b"caf\xe9.nii".decode("utf-8", "surrogateescape")
    protocol = replace(PROTOCOL, unreadable=((odd, "unreadable"),))
    report = write(tmp_path, protocol, [], [], threshold=None, policy=POLICY)
    assert "caf\\udce9.nii" in read(report, "unreadable.csv")
    made = json.loads(read(report, "results.json"))
    assert made["protocol"]["unreadable"][0]["path"] == odd
