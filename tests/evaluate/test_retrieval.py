"""``diptych evaluate --retrieval``: the definition by hand, and the command on files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.evaluate.retrieval import KS, MODES, Image, LevelAnswers, answers
from evaluate.test_command import run
from evaluate.volumes import body, save_dicom, save_nifti

ALL = MODES[0]


def image(name: str, label: str | None, angles: Sequence[float], **more: Any) -> Image:
    """A case of slices on the unit circle, so that distances are the angles between them."""
    vectors = np.array([(np.cos(a), np.sin(a)) for a in np.radians(angles)], np.float32)
    labels = {} if label is None else {"organ": label}
    values: dict[str, Any] = {"subject": name, "digest": None, **more}
    return Image(name, labels=labels, vectors=vectors, **values)


def level(*images: Image) -> LevelAnswers:
    (found,) = answers(images, ("organ",))
    return found


def ranks(found: LevelAnswers) -> dict[str, int]:
    return {each.case: each.rank for each in found.asked[ALL]}


def test_recall_at_k_counts_the_queries_with_their_label_among_the_first_k() -> None:
    found = level(
        image("a1", "liver", [0, 1]),
        image("b1", "heart", [2, 3]),
        image("b2", "heart", [40, 41]),
        image("a2", "liver", [10, 11]),
    )
    # a1's nearest is b1, then a2; b1's is a1, then a2, then b2; b2's a2, then b1; a2's b1, then a1.
    assert ranks(found) == {"a1": 2, "b1": 3, "b2": 2, "a2": 2}
    assert [found.recall(ALL, k).counts for k in KS] == [(0, 4), (4, 4), (4, 4), (4, 4)]
    assert found.labels == ("heart", "liver")
    assert found.recall(ALL, 3, "heart").counts == (2, 2)
    assert found.asked[ALL][0].first == "b1"


def test_every_way_to_choose_slices_is_asked_of_every_query() -> None:
    found = level(*(image(f"{n}", "x", [10 * n, 10 * n + 2]) for n in range(3)))
    assert len(MODES) == 12
    assert {len(asked) for asked in found.asked.values()} == {3}
    assert set(found.asked) == set(MODES)


def test_the_mean_over_labels_weighs_rare_labels_as_common_ones() -> None:
    common = [image(f"c{n}", "common", [n]) for n in range(9)]
    rare = [image("r1", "rare", [-3]), image("r2", "rare", [80])]
    found = level(*common, *rare)
    assert found.recall(ALL, 1).value == pytest.approx(9 / 11)
    assert found.mean_recall(ALL, 1).value == pytest.approx(1 / 2)


def test_a_label_with_one_case_is_named_apart_and_stays_a_candidate() -> None:
    found = level(
        image("a1", "liver", [0]), image("only", "spleen", [1]), image("a2", "liver", [30])
    )
    assert found.alone == {"spleen": 1}
    assert ranks(found) == {"a1": 2, "a2": 2}
    assert found.candidates == 3


def test_cases_of_one_subject_do_not_find_each_other() -> None:
    found = level(
        image("a1", "liver", [0], subject="s"),
        image("a2", "liver", [0.5], subject="s"),
        image("b", "heart", [5]),
        image("c", "heart", [6]),
    )
    assert found.alone == {"liver": 2}
    assert set(ranks(found)) == {"b", "c"}


def test_the_same_pixels_are_no_answer() -> None:
    found = level(
        image("a", "liver", [0], digest=b"1"),
        image("copy", "liver", [0], digest=b"1"),
        image("b", "heart", [5]),
        image("c", "liver", [20], digest=b"2"),
    )
    assert ranks(found) == {"a": 2, "copy": 2, "c": 2}


def test_what_has_no_label_at_a_level_is_neither_query_nor_candidate() -> None:
    found = level(
        image("a1", "liver", [0]), image("without", None, [1]), image("a2", "liver", [30])
    )
    assert ranks(found) == {"a1": 1, "a2": 1}
    assert found.candidates == 2


def test_nobody_to_find_is_no_rate() -> None:
    found = level(image("a", "liver", [0]), image("b", "heart", [1]))
    assert found.alone == {"heart": 1, "liver": 1}
    assert found.labels == ()
    assert found.recall(ALL, 1).value is None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two kinds of bodies: near copies of two bodies, and a broken file."""
    folder = tmp_path / "cases"
    for kind in (0, 1):
        for number in range(3):
            noise = np.random.default_rng(number).normal(0, 60, (12, 40, 36)).astype(np.int16)
            save_nifti(folder / f"kind{kind}_{number}.nii.gz", body(kind) + noise)
    save_dicom(folder / "p" / "s", body(5), "1.2.5")
    (folder / "broken.nrrd").write_bytes(b"NRRD0005\n")
    return folder


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def labels(folder: Path, *more: str) -> Path:
    rows = [f"kind{kind}_{n}.nii.gz,MR,kind {kind}" for kind in (0, 1) for n in range(3)]
    return table(folder / "labels.csv", "path,modality,organ", *rows, *more)


def test_the_document_has_every_level_mode_and_label(folder: Path, tmp_path: Path) -> None:
    given = labels(folder, "p/s,CT,", "broken.nrrd,MR,kind 0")
    out = tmp_path / "out"
    done = run(folder, "--retrieval", given, "--out", out, "--json", tmp_path / "f.json")
    assert done.exit_code == 3, done.stderr
    assert "broken.nrrd" in done.stderr
    assert "organ: recall@1 1.0000 (6/6;" in done.stdout
    assert {path.name for path in out.iterdir()} == {
        "retrieval.md",
        "retrieval.csv",
        "retrieval.json",
    }
    said = json.loads((tmp_path / "f.json").read_text())["retrieval"]
    assert said == json.loads((out / "retrieval.json").read_text())["retrieval"]
    modality, organ = said["levels"]
    assert (modality["level"], modality["alone"], modality["queries"]) == ("modality", {"CT": 1}, 6)
    assert (organ["alone"], organ["candidates"]) == ({}, 6)
    assert len(organ["modes"]) == 12
    first = organ["modes"][0]
    assert (first["slices"], first["gaussian"]) == ("all", False)
    assert first["recall_at_1"] == 1.0
    assert first["counts"]["recall_at_1"] == [6, 6]
    assert first["bounds"]["recall_at_1"][0] < 1
    assert {each["label"]: each["counts"]["recall_at_10"] for each in first["labels"]} == {
        "kind 0": [3, 3],
        "kind 1": [3, 3],
    }
    with (out / "retrieval.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    # Per mode: over all, the mean over labels, and each label (one of modality, two of organ).
    assert len(rows) == 12 * (3 + 4)
    text = (out / "retrieval.md").read_text()
    assert "1 cases alone with their label, not asked: CT (1)" in text
    assert "TP / (TP + FN)" in text


def test_subjects_do_not_find_their_own(folder: Path, tmp_path: Path) -> None:
    subjects = table(
        folder / "subjects.csv", "case,subject", *(f"kind0_{n}.nii.gz,one" for n in range(3))
    )
    options = ("--retrieval", labels(folder), "--subjects", subjects, "--out", tmp_path / "out")
    done = run(folder, *options, "--model", "thumbnail-16")
    assert done.exit_code == 0, done.stderr
    said = json.loads((tmp_path / "out" / "retrieval.json").read_text())["retrieval"]
    assert said["subjects"] == 4
    assert said["levels"][1]["alone"] == {"kind 0": 3}
    assert (said["without_label"], said["model"]) == (2, "thumbnail-16")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("path,organs", "kind0_0.nii.gz,x"), "none of the columns modality, region, organ"),
        (("file,organ", "kind0_0.nii.gz,x"), "a heading line path,modality,region,organ"),
        (("path,organ", "kind0_0.nii.gz,"), "gives no image a label"),
        (("path,organ", "nowhere.nii,x"), "nowhere.nii is no case below the folder"),
        (("path,organ", ",x"), "line 2 lacks one of path"),
        (
            ("path,organ", "kind0_0.nii.gz,x", "kind0_0.nii.gz,y"),
            "labelled twice, and not alike",
        ),
        (("path,organ", "kind0_0.nii.gz,x"), "at least two labelled cases"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_in_words(
    folder: Path, tmp_path: Path, lines: tuple[str, ...], said: str
) -> None:
    given = table(folder / "labels.csv", *lines)
    done = run(folder, "--retrieval", given, "--out", tmp_path / "out", "--model", "thumbnail-16")
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option", [("--quick",), ("--index", "exact"), ("--resume",), ("--calibrate", "."),
               ("--known-pairs", "x.csv")],
)  # fmt: skip
def test_what_only_the_protocol_knows_is_refused(
    folder: Path, tmp_path: Path, option: tuple[str, ...]
) -> None:
    done = run(folder, "--retrieval", labels(folder), "--out", tmp_path / "out", *option)
    assert done.exit_code == 2
    assert f"leave out {option[0]}" in done.stderr
