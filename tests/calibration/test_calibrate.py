"""Leave one case out: strangers are asked, kin are not, and an alarm names its pair."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from rich.console import Console
from sqlalchemy import text

from calibration.conftest import Calibrate, of_patient
from diptych.audit.population import Member
from diptych.calibration import report, run
from diptych.calibration.figures import ENOUGH, Figures, Rate, count
from diptych.calibration.nulls import Asked, Null, Nulls
from diptych.calibration.report import Setting
from diptych.calibration.strangers import MOST_STUDIES, LeftOut, groups, left_out
from diptych.demo import copies
from diptych.errors import UsageError
from diptych.evaluate.answers import DUPLICATE, SEVEN, TRANSFORMS
from diptych.judge.definition import read
from diptych.policies import add
from judged import Archive

Bodies = dict[str, list[Dataset]]
DEAF = read({"name": "deaf", "version": 1, "d_max": 0.0001, "most_verified": 0})
"""Calls nothing but equal pixels a copy."""


def processed(series: list[Dataset]) -> list[Dataset]:
    """Rotated and noisy, and of another patient by its name."""
    return of_patient(copies.rotated_noisy(series, 2), "somebody else")


def words(figures: Figures, setting: Setting) -> str:
    console = Console(file=io.StringIO(), width=220)
    for part in report.said(figures, setting):
        console.print(part, highlight=False, markup=False)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(shown, str)
    return shown


def test_strangers_are_no_alarms_and_the_bound_says_how_little_four_cases_prove(
    own: Archive, bodies: Bodies, calibrated: Calibrate
) -> None:
    for series in bodies.values():
        own.add(series)
    figures, setting = calibrated()
    assert figures.clean.everybody == Rate(0, 4)
    assert figures.clean.modalities == {}
    assert (figures.asked, figures.alone, figures.doubtful, figures.alarms) == (4, 0, 0, ())
    shown = words(figures, setting)
    assert "0 of 4: at most 52.7 %" in shown
    assert "4 cases under diptych-dino-3" in shown
    assert f"policy {own.policy.label}" in shown
    assert "no threshold, for want of strangers or of copies" in shown


def test_the_case_that_came_last_is_judged_as_it_was(
    own: Archive, bodies: Bodies, calibrated: Calibrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [own.add(series) for series in bodies.values()]
    asked: dict[int, Any] = {}
    ask = Nulls.ask

    def kept(self: Nulls, member: Any, transforms: Any) -> Any:
        asked[member.case_id] = ask(self, member, transforms)
        return asked[member.case_id]

    monkeypatch.setattr(Nulls, "ask", kept)
    calibrated()
    last, null = rows[-1], asked[rows[-1]["case_id"]].clean
    assert (null.relation, null.score, null.detail) == (
        last["relation"], last["c3"], last["detail"])  # fmt: skip


def test_known_copies_are_no_strangers_and_doubting_them_is_a_figure_of_its_own(
    own: Archive, bodies: Bodies, calibrated: Calibrate
) -> None:
    for series in bodies.values():
        own.add(series)
    assert own.add(copies.new_uids(bodies["head"], 1))["relation"] == "exact"
    figures, _ = calibrated()
    assert (figures.clean.everybody, figures.doubtful) == (Rate(0, 5), 0)
    noisy = own.add(processed(bodies["abdomen"]))
    assert noisy["relation"] == "near-duplicate", noisy["detail"]
    figures, setting = calibrated()
    assert figures.clean.everybody == Rate(0, 6)
    assert (figures.doubted, figures.doubtful) == (Rate(2, 6), 2)
    assert "2 cases have copies by verdicts that rest on their slices" in words(figures, setting)


def test_a_copy_that_nobody_had_found_is_an_alarm_that_names_both_cases(
    own: Archive, bodies: Bodies, calibrated: Calibrate
) -> None:
    original = own.add(bodies["abdomen"])
    own.add(bodies["head"])
    own.pipeline.policy = replace(DEAF.numbers)
    copy = own.add(processed(bodies["abdomen"]))
    assert copy["relation"] == "unique"
    figures, setting = calibrated()
    pair = {original["case_id"], copy["case_id"]}
    assert [{null.case_id, null.alarm} for null in figures.alarms] == [pair, pair]
    assert figures.clean.everybody == Rate(2, 3)
    shown = words(figures, setting)
    assert "may be real copies" in shown
    assert "1 pairs behind these" in shown
    assert re.search(r"cases (1 and 3|3 and 1), clean, and in 1 more queries: near-dup", shown)
    said = report.document(figures, setting)
    assert said["pairs"] == [{"case_ids": sorted(pair), "queries": 2}]
    # Under the policy it was judged by there is none.
    add(own.store, DEAF)
    figures, setting = calibrated(policy="deaf/1")
    assert figures.clean.everybody == Rate(0, 3)
    assert setting.policy == DEAF.numbers


def test_one_patient_is_no_stranger_to_himself(
    own: Archive, bodies: Bodies, calibrated: Calibrate
) -> None:
    own.pipeline.policy = replace(DEAF.numbers)
    own.add(of_patient(bodies["abdomen"], "one"))
    own.add(of_patient(processed(bodies["abdomen"]), "one"))
    figures, _ = calibrated()
    assert (figures.clean.everybody, figures.alone) == (Rate(0, 0), 2)
    own.add(of_patient(bodies["head"], "two"))
    figures, _ = calibrated()
    assert figures.clean.everybody == Rate(0, 3)


def test_who_is_left_out_is_said_and_counted(
    own: Archive, bodies: Bodies, calibrated: Calibrate
) -> None:
    own.add(of_patient(bodies["abdomen"], "one"))
    beside = of_patient(bodies["chest"], "another")
    for data_set in beside:
        data_set.StudyInstanceUID = bodies["abdomen"][0].StudyInstanceUID
    own.add(beside)
    figures, _ = calibrated()
    assert figures.alone == 2, "a study is of one patient, whatever its series say"
    own.add(of_patient(bodies["head"], "one"))
    own.add(of_patient(copies.new_uids(bodies["limb"], 1), "a fourth"))
    own.add(of_patient(bodies["limb"], "a third"))
    figures, setting = calibrated()
    assert figures.clean.everybody == Rate(0, 5)
    assert setting.left_out == LeftOut(
        {"series": 0, "study": 2, "patient": 2, "verdict": 2}, cases=5, most=2, shared_ids=0,
        sharing=0,
    )  # fmt: skip
    assert (
        "same series (0 cases have such), study (2) or patient (2), and copies by a verdict (2); "
        "5 of 5 cases in all, of one case at most 2 others"
    ) in words(figures, setting)
    assert report.document(figures, setting)["left_out"]["by_study"] == 2


def test_a_placeholder_does_not_make_one_patient_of_everybody(
    own: Archive, bodies: Bodies, calibrated: Calibrate
) -> None:
    for series in bodies.values():
        own.add(of_patient(series, "ANONYMOUS"))
    figures, setting = calibrated()
    assert (figures.clean.everybody, figures.alone) == (Rate(0, 4), 0)
    assert setting.left_out.cases == 0


def test_a_patient_of_implausibly_many_studies_is_nobody() -> None:
    def member(case: int, patient: bytes) -> Member:
        return Member(case, case, f"study {case}", case, "CT", None, patient)

    one = [member(n, b"delivery 7") for n in range(MOST_STUDIES)]
    somebody = [member(1000, b"somebody"), member(1001, b"somebody")]
    assert len(groups(one, ())[0]) == MOST_STUDIES
    many = [*one, member(MOST_STUDIES, b"delivery 7"), *somebody]
    found = groups(many, ())
    assert {len(found[n.case_id]) for n in many[:-2]} == {1}
    assert found[1000] == {1000, 1001}
    said = left_out(many, (), found)
    assert (said.ties["patient"], said.cases, said.most) == (2, 2, 1)
    assert (said.shared_ids, said.sharing) == (1, MOST_STUDIES + 1)


def test_a_slice_shared_with_another_case_is_its_when_its_owner_is_left_out(
    own: Archive, bodies: Bodies, calibrated: Calibrate
) -> None:
    """The first case owns the nodes of its slices; the second holds six of the eight, and is what
    the first must find when it is asked as if it were new."""
    own.add(of_patient(bodies["abdomen"], "one"))
    part = of_patient(deepcopy(bodies["abdomen"][:6]), "two")
    study, series = generate_uid(), generate_uid()
    for data_set in part:
        data_set.StudyInstanceUID, data_set.SeriesInstanceUID = study, series
        data_set.SOPInstanceUID = generate_uid()
    assert own.add(part)["relation"] == "partial"
    figures, _ = calibrated()
    assert (figures.alone, figures.doubtful) == (2, 0)
    own.add(bodies["head"])
    figures, _ = calibrated()
    assert figures.clean.everybody == Rate(0, 3)
    assert figures.doubted == Rate(2, 3)


def test_copies_are_found_and_strangers_are_not_alarmed_under_transforms(
    own: Archive, bodies: Bodies, calibrated: Calibrate
) -> None:
    for series in bodies.values():
        own.add(series)
    with own.store.write() as connection:
        connection.execute(text("UPDATE blob SET purged_at = 1 WHERE id <= 8"))
    figures, setting = calibrated("duplicate,jpeg-75,rotation-5")
    assert figures.gone == {"pixels purged": [1]}
    assert [row.name for row in figures.transformed] == ["rotation-5", "jpeg-75"]
    assert all(row.everybody == Rate(0, 3) for row in figures.transformed)
    assert figures.any_transform is not None
    assert figures.any_transform.everybody == Rate(0, 3)
    assert [(t.name, of) for t, _, of in figures.found] == [("duplicate", 3), ("rotation", 3)]
    assert figures.found[0][1] == 3
    assert figures.threshold is not None
    assert figures.threshold.strangers == 4
    shown = words(figures, setting)
    assert "1 cases could not be transformed (pixels purged): 1" in shown
    assert "Algorithm 1 on c(3) over informative slices, 2 sets of copies (6)" in shown


def test_the_json_has_every_figure_and_no_identifier(
    own: Archive, bodies: Bodies, calibrated: Calibrate
) -> None:
    for series in bodies.values():
        own.add(series)
    figures, setting = calibrated("seven", sample=3, seed=5)
    said = json.loads(json.dumps(report.document(figures, setting), allow_nan=False))
    assert (said["cases"], said["asked"], said["seed"], said["interrupted"]) == (4, 3, 5, False)
    assert said["policy"]["label"] == own.policy.label
    clean = said["false_alarms"]["clean"]["all"]
    assert clean == {"alarms": 0, "of": 3, "at_most": pytest.approx(1 - 0.05 ** (1 / 3))}
    assert len(said["false_alarms"]["transformed"]) == 6
    assert set(said["copies_found"]) == {run.named(t) for t in SEVEN}
    assert set(said["algorithm_1"]["sets"].values()) == {3}
    assert "1.2.826" not in json.dumps(said)
    assert (figures, setting.seed) == (calibrated("seven", sample=3, seed=5)[0], 5)


def test_it_reads_only(own: Archive, bodies: Bodies, calibrated: Calibrate, tmp_path: Path) -> None:
    own.add(bodies["head"])
    own.add(bodies["limb"])

    def dump() -> list[str]:
        with closing(sqlite3.connect(tmp_path / "diptych.sqlite3")) as connection:
            return list(connection.iterdump())

    before, files = dump(), sorted(tmp_path.rglob("*"))
    calibrated("jpeg-25")
    assert dump() == before
    assert sorted(tmp_path.rglob("*")) == files


def test_what_was_asked_before_an_interruption_is_counted(
    own: Archive, bodies: Bodies, calibrated: Calibrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for series in bodies.values():
        own.add(series)
    ask, asked = Nulls.ask, []

    def interrupted(self: Nulls, member: Any, transforms: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(member)
        return ask(self, member, transforms)

    monkeypatch.setattr(Nulls, "ask", interrupted)
    figures, setting = calibrated()
    assert setting.interrupted
    assert figures.clean.everybody == Rate(0, 2)
    assert "interrupted: 2 of 4, in random order, are counted" in words(figures, setting)


def test_one_case_has_nobody_to_be_held_against(
    own: Archive, bodies: Bodies, calibrated: Calibrate
) -> None:
    with pytest.raises(UsageError, match="holds 0 cases embedded by"):
        calibrated()
    own.add(bodies["head"])
    with pytest.raises(UsageError, match=r"holds 1 cases .* needs at least 2"):
        calibrated()


def test_transforms_are_named_as_the_paper_names_them() -> None:
    assert run.chosen("all") == TRANSFORMS
    assert run.chosen("seven") == SEVEN
    assert run.chosen("none") == ()
    assert run.chosen("noise, crop-0.05") == (TRANSFORMS[1], *TRANSFORMS[21:])
    for wrong in ("", "crop-0.06", "crop,shear", "rotation-5;"):
        with pytest.raises(UsageError, match="no such transform"):
            run.chosen(wrong)


def test_a_modality_has_a_figure_from_twenty_cases_on() -> None:
    def asked(case: int, modality: str, alarm: int | None = None) -> Asked:
        relation = "near-duplicate" if alarm else "unique"
        return Asked(Null(case, modality, DUPLICATE, 99, alarm, relation, "", 0.5))

    answers = [asked(n, "CT", alarm=99 if n == 0 else None) for n in range(ENOUGH)]
    answers += [asked(100 + n, "MR") for n in range(ENOUGH - 1)]
    figures = count(answers, (), 0.7711)
    assert figures.clean.modalities == {"CT": Rate(1, 20)}
    assert figures.clean.everybody == Rate(1, 39)
    assert report.rate(Rate(0, 444)) == "0 of 444: at most 0.7 %"
    assert report.rate(Rate(1, 20)) == "1 of 20: at most 21.6 %"
    assert report.rate(Rate(20, 20)) == "20 of 20: at most 100.0 %"
