"""The label audit on the whole path: which flags stand beside a verdict, and what is counted."""

from __future__ import annotations

import json
import zlib
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from diptych.audit import counters, verify
from diptych.demo import copies, phantoms
from diptych.demo.series import phantom_series
from judged import Archive

Series = list[Dataset]
MODALITY, BODY_PART = "modality_disagrees", "body_part_disagrees"


# What people type is tested on purpose: it is no valid Code String.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR CS")


@pytest.fixture(scope="module")
def heads() -> list[Series]:
    """Five people's heads, by MR."""
    return [people("head", number) for number in range(5)]


@pytest.fixture(scope="module")
def knees() -> list[Series]:
    """Labelled CT and KNEE; five, so that the archive knows such series."""
    return [
        labelled(people("limb", number), Modality="CT", BodyPartExamined="Knee")
        for number in range(5)
    ]


@pytest.fixture(scope="module")
def stranger(heads: list[Series]) -> Series:
    """A head whose nearest neighbours are all five heads alike: every fifth slice is of one."""
    mixed = labelled(heads[0], PatientID="STRANGER", StudyInstanceUID="1.2.3")
    for number, instance in enumerate(mixed):
        instance.PixelData = heads[number % 5][number].PixelData
        instance.SeriesInstanceUID, instance.SOPInstanceUID = "1.2.3.4", f"1.2.3.4.{number}"
    return mixed


def people(kind: Any, number: int) -> Series:
    recipe = phantoms.Recipe(f"{kind}-{number}", kind, 700 + number, (16, 96, 96), (6.0, 3.0, 3.0))
    return phantom_series(phantoms.generate(recipe), seed=7000 + number)


def labelled(series: Series, **elements: str) -> Series:
    changed = deepcopy(series)
    for instance in changed:
        for keyword, value in elements.items():
            setattr(instance, keyword, value)
    return changed


def audit_flags(row: dict[str, Any]) -> set[str]:
    return set(json.loads(row["flags"])) & {MODALITY, BODY_PART}


def counted(own: Archive) -> dict[str, float]:
    with own.store.read() as connection:
        found = counters.read_counters(connection)
    return {
        dict(labels)["label"]: value
        for (name, labels), value in found.items()
        if name == "diptych_label_disagreements_total"
    }


def outcomes(own: Archive) -> dict[tuple[str, str], float]:
    """(label, outcome) → how often."""
    with own.store.read() as connection:
        found = counters.read_counters(connection)
    return {
        (dict(labels)["label"], dict(labels)["outcome"]): value
        for (name, labels), value in found.items()
        if name == "diptych_label_audits_total"
    }


def test_an_audit_that_can_say_nothing_says_so(
    own: Archive, heads: list[Series], knees: list[Series]
) -> None:
    own.add(labelled(heads[0], BodyPartExamined="KOPF"))
    assert outcomes(own) == {("modality", "too-few"): 1.0, ("body_part", "unlabelled"): 1.0}
    own.add(labelled(heads[1], Modality="OT", BodyPartExamined=""))
    assert outcomes(own)["modality", "unlabelled"] == 1.0
    assert outcomes(own)["body_part", "unlabelled"] == 2.0
    own.add(heads[2])
    assert outcomes(own)["body_part", "too-few"] == 1.0
    own.add(heads[3])
    assert outcomes(own)["modality", "agrees"] >= 1.0
    assert sum(outcomes(own).values()) == 8


def test_labels_that_all_neighbours_contradict_are_flagged_and_counted(
    own: Archive, heads: list[Series], knees: list[Series], stranger: Series, tmp_path: Path
) -> None:
    for series in (*knees, *heads):
        assert not audit_flags(own.add(series))
    assert counted(own) == {}
    wrong = own.add(labelled(stranger, Modality="CT", BodyPartExamined="KNEE"))
    assert audit_flags(wrong) == {MODALITY, BODY_PART}
    assert wrong["relation"] == "unique", "never a verdict"
    assert counted(own) == {"modality": 1.0, "body_part": 1.0}
    said = evidence_of(own, wrong)
    assert said[MODALITY]["neighbours"] == "MR"
    assert said[BODY_PART]["neighbours"] == "head"
    assert said[BODY_PART]["subjects"] >= 3
    assert said[BODY_PART]["slices"] <= said[BODY_PART]["of"] == wrong["informative_slices"]
    assert own.rows('SELECT modality, body_part FROM "case" ORDER BY id')[-1] == ("CT", "KNEE")
    with own.store.read() as connection:
        assert verify.verify(connection, tmp_path / "audit-heads.jsonl").problems == ()


def test_a_right_label_is_not_flagged_and_nor_is_another_way_to_write_it(
    own: Archive, heads: list[Series], knees: list[Series], stranger: Series
) -> None:
    written = ("HEAD", "brain", "Skull", "Head ", "Brain/Head")
    for series, text in zip(heads, written, strict=True):
        own.add(labelled(series, BodyPartExamined=text))
    for series in knees:
        own.add(series)
    assert not audit_flags(own.add(labelled(stranger, BodyPartExamined="cranium")))
    assert counted(own) == {}


def test_the_first_of_its_kind_is_no_finding(
    own: Archive, heads: list[Series], knees: list[Series], stranger: Series
) -> None:
    for series in (*heads, *knees):
        # CT is known, and so are knees by MR; a CT of a knee is not.
        own.add(labelled(series, BodyPartExamined="HEAD"))
    assert not audit_flags(own.add(labelled(stranger, Modality="CT", BodyPartExamined="KNEE")))


def test_single_slices_do_not_make_a_label_known(
    own: Archive, heads: list[Series], knees: list[Series], stranger: Series
) -> None:
    for series in heads:
        own.add(series)
    for series in knees:
        own.add(series[8:9])
    assert not audit_flags(own.add(labelled(stranger, Modality="CT", BodyPartExamined="KNEE")))


def test_copies_of_the_series_itself_do_not_vote(
    own: Archive, heads: list[Series], knees: list[Series]
) -> None:
    for series in knees:
        own.add(series)
    own.add(heads[0])
    for seed in range(4):
        own.add(copies.deidentified(heads[0], seed))
    copy = labelled(copies.new_uids(heads[0], 9), Modality="CT", BodyPartExamined="KNEE")
    for instance in copy:
        instance.PatientID = "SOMEBODY-ELSE"
    row = own.add(copy)
    assert row["relation"] == "exact"
    assert not audit_flags(row), "five copies of one head are one patient, and it is its own"


def test_what_is_of_the_same_patient_does_not_vote(
    own: Archive, heads: list[Series], knees: list[Series], stranger: Series
) -> None:
    for series in (*knees, *(labelled(head, PatientID="STRANGER") for head in heads)):
        own.add(series)
    assert not audit_flags(own.add(labelled(stranger, Modality="CT", BodyPartExamined="KNEE")))


def evidence_of(own: Archive, row: dict[str, Any]) -> dict[str, Any]:
    ((data,),) = own.rows(f"SELECT data FROM evidence WHERE verdict_id = {row['id']}")
    said: dict[str, Any] = json.loads(zlib.decompress(data))
    return said
