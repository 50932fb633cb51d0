"""``diptych evaluate`` as a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import forked
from diptych.cli import app
from diptych.errors import UsageError
from diptych.evaluate import paper
from diptych.evaluate.answers import SEVEN, TRANSFORMS
from diptych.evaluate.store import Results
from evaluate.volumes import body, folder_of_bodies, save_dicom, save_itk, save_nifti
from support import shared

SECONDS = 240


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "diptych", "evaluate", *map(str, arguments)]


def spawn(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; never a traceback, whatever happens."""
    done = forked.run(
        command(*arguments),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def run(*arguments: object) -> Result:
    """The command in this process and folder, which spares it the start."""
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def lines(out: Path, kind: str) -> list[dict[str, Any]]:
    records = map(json.loads, (out / "answers.jsonl").read_text().splitlines())
    return [record for record in records if record["kind"] == kind]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases in three formats, and inputs that are none."""
    folder = folder_of_bodies(tmp_path_factory.mktemp("data") / "cases", 4)
    save_itk(folder / "mha" / "a.mha", body(10))
    save_itk(folder / "mha" / "b.nrrd", body(11))
    for number in (20, 21):
        save_dicom(folder / "dicom" / f"p{number}" / "s", body(number), f"1.2.{number}")
    save_nifti(folder / "flat.nii.gz", np.zeros((1, 40, 40), np.int16))
    (folder / "broken.nrrd").write_bytes(b"NRRD0005\n")
    (folder / "readme.txt").write_text("none")
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run: the folder it wrote to; its JSON is beside it."""
    cwd = tmp_path_factory.mktemp("finished")
    done = spawn(folder, "--out", "out", "--json", "figures.json", cwd=cwd)
    assert done.returncode == 3, done.stderr
    (cwd / "stdout").write_text(done.stdout)
    (cwd / "stderr").write_text(done.stderr)
    return cwd


def test_every_input_is_counted_and_the_unreadable_are_named(finished: Path) -> None:
    protocol = json.loads((finished / "figures.json").read_text())["protocol"]
    assert (protocol["cases"], protocol["database"], protocol["nonduplicates"]) == (8, 4, 4)
    assert protocol["slices"] == 8 * 12
    assert protocol["threshold_from"] == "same data"
    unread = {each["path"]: each["reason"].split(":")[0] for each in protocol["unreadable"]}
    assert unread == {"broken.nrrd": "unreadable", "flat.nii.gz": "not-3d"}
    others = json.loads((finished / "figures.json").read_text())["run"]["not_images"]
    assert [each["path"] for each in others] == ["readme.txt"]
    said = (finished / "stderr").read_text()
    assert "flat.nii.gz: not-3d" in said
    assert "readme" not in said


def test_the_first_half_of_each_folder_is_the_database(finished: Path) -> None:
    sides = {record["case"]: record["side"] for record in lines(finished / "out", "query")}
    assert sorted(case for case, side in sides.items() if side == "copy") == [
        "case_00.nii.gz",
        "case_01.nii.gz",
        "dicom/p20/s",
        "mha/a.mha",
    ]


def test_all_25_transforms_of_both_sides_are_asked_in_every_index(finished: Path) -> None:
    indexes = ["hnsw", "exact"] + ["lsh"] * paper.have_faiss()
    for record in lines(finished / "out", "query"):
        removed = (0, 1) if record["side"] == "copy" else (0,)
        asked = sorted((number, index, out) for number, index, out, *_ in record["answers"])
        assert asked == sorted(
            (number, index, out)
            for number in range(len(TRANSFORMS))
            for index in indexes
            for out in removed
        )
        assert [number for number, *_ in record["product"]] == list(range(25))


def test_duplicates_are_found_by_all_slices_and_are_exact_to_the_ladder(finished: Path) -> None:
    for record in lines(finished / "out", "query"):
        first = {(index, out): ranked for n, index, out, _, ranked in record["answers"] if n == 0}
        if record["side"] == "copy":
            ((case, hits),) = first["exact", 0]
            assert hits == 12
            assert case not in dict(first["exact", 1])
            assert sum(dict(first["exact", 1]).values()) == 12
            assert record["product"][0][1:3] == ["exact", case]
        else:
            assert record["product"][0][1] != "exact"


def test_the_report_is_printed_and_written(finished: Path) -> None:
    said = (finished / "stdout").read_text()
    assert said.startswith("Threshold fitted on the same data")
    assert "out/report.md" in said
    names = {path.name for path in (finished / "out").iterdir()}
    assert {"report.md", "results.json", "table-5.csv", "figure-3.png", "roc-top3.svg"} <= names
    figures = json.loads((finished / "figures.json").read_text())
    assert len(figures["paper"]["sets"]) == len(figures["product"]["sets"]) == 25
    assert figures["product"]["policy"].startswith("bundled/")


def test_a_finished_run_is_not_overwritten_and_resumed_at_once(
    finished: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    refused = run(folder, "--out", "out")
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr
    before = (finished / "out" / "answers.jsonl").read_bytes()
    again = run(folder, "--out", "out", "--resume")
    assert again.exit_code == 3
    assert "queries" not in again.stderr
    assert (finished / "out" / "answers.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--quick",), "(transforms differ)"),
        (("--index", "exact"), "(index differ)"),
        (("--model", "thumbnail-16"), "(model, policy differ)"),
    ],
)
def test_a_resume_with_other_options_is_refused(
    finished: Path, folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = run(folder, "--out", finished / "out", "--resume", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def test_a_resume_after_the_files_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of_bodies(tmp_path / "cases", 2)
    options = ("cases", "--quick", "--index", "exact", "--model", "thumbnail-16", "--out", "out")
    assert run(*options).exit_code == 0
    save_nifti(tmp_path / "cases" / "case_01.nii.gz", body(50))
    done = run(*options, "--resume")
    assert done.exit_code == 2
    assert "files differ" in done.stderr
    (tmp_path / "out" / "vectors" / "mine.npz").write_text("kept")
    assert run(*options, "--restart").exit_code == 0
    assert (tmp_path / "out" / "vectors" / "mine.npz").exists()


def test_what_is_interrupted_and_killed_goes_on_and_ends_as_if_it_had_not_been(
    tmp_path: Path, folder: Path, finished: Path
) -> None:
    out = tmp_path / "out"
    assert stopped(tmp_path, folder, signal.SIGINT, 2) == 130
    assert "--resume" in (tmp_path / "stderr").read_text()
    first = lines(out, "query")
    assert 2 <= len(first) < 8
    assert stopped(tmp_path, folder, signal.SIGKILL, len(first) + 2) == -signal.SIGKILL
    with (out / "answers.jsonl").open("ab") as file:
        file.write(b'{"kind":"query","case":"ca')  # a line that was torn
    done = run(folder, "--out", out, "--quick", "--resume")
    assert done.exit_code == 3, done.stderr
    resumed, whole = lines(out, "query"), lines(finished / "out", "query")
    assert resumed[: len(first)] == first
    # A run of the seven sets says of them what a run of all 25 says.
    seven = {TRANSFORMS.index(each) for each in SEVEN}
    assert [(r["case"], r["answers"]) for r in resumed] == [
        (r["case"], [answer for answer in r["answers"] if answer[0] in seven]) for r in whole
    ]
    assert [[verdict[:3] for verdict in r["product"]] for r in resumed] == [
        [verdict[:3] for verdict in r["product"] if verdict[0] in seven] for r in whole
    ]


def stopped(cwd: Path, folder: Path, number: int, queries: int) -> int:
    """Run until so many queries are in the results, send the signal; the exit status."""
    results = cwd / "out" / "answers.jsonl"
    deadline = time.monotonic() + SECONDS
    with (cwd / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            command(folder, "--out", "out", "--quick", "--resume"),
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            # A suite that runs in the background of a shell has SIGINT ignored, and hands it down.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while time.monotonic() < deadline and process.poll() is None:
            if results.exists() and results.read_bytes().count(b'"kind":"query"') >= queries:
                process.send_signal(number)
                break
            time.sleep(0.01)
        return process.wait(timeout=SECONDS)


def test_a_second_run_into_the_same_folder_is_refused_while_the_first_writes(
    tmp_path: Path,
) -> None:
    header = {"model": "a"}
    with Results(tmp_path / "out", header, None), pytest.raises(UsageError, match="another run"):
        Results(tmp_path / "out", header, True)


def test_a_run_that_finished_no_query_leaves_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of_bodies(tmp_path / "cases", 1)
    (tmp_path / "cases" / "broken.nii").write_bytes(b"nothing")
    options = ("cases", "--out", "out", "--quick", "--index", "exact", "--model", "thumbnail-16")
    assert run(*options).exit_code == 2
    save_nifti(tmp_path / "cases" / "broken.nii", body(7))
    assert run(*options).exit_code == 0


def test_a_calibration_folder_supplies_the_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of_bodies(tmp_path / "first", 4)
    folder_of_bodies(tmp_path / "second", 4, first=10)
    done = run(
        *("second", "--calibrate", "first", "--out", "out", "--json", "f.json"),
        *("--quick", "--index", "hnsw,exact", "--model", "thumbnail-16"),
    )
    assert done.exit_code == 0, done.stderr
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["protocol"]["threshold_from"] == "calibration: first"
    assert figures["paper"]["threshold"] == figures["calibration"]["t_opt"]
    assert "t_opt" in done.stderr
    calibration = lines(tmp_path / "out" / "calibration", "query")
    assert len(calibration) == 4
    asked = {(number, index) for r in calibration for number, index, *_ in r["answers"]}
    assert asked == {(TRANSFORMS.index(each), "hnsw") for each in SEVEN}
    assert "ladder is left out" in done.stderr
    assert figures["product"]["policy"] == "none"


def test_subjects_and_known_pairs_are_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of_bodies(tmp_path / "cases", 6)
    # The last case is the first one under another name.
    save_nifti(tmp_path / "cases" / "case_05.nii.gz", body(0))
    Path("subjects.csv").write_text("case,subject\ncase_01.nii.gz,s\ncase_04.nii.gz,s\n")
    Path("pairs.csv").write_text("a,b\ncase_05.nii.gz,case_00.nii.gz\n")
    done = run(
        *("cases", "--out", "out", "--json", "f.json", "--quick", "--index", "exact"),
        *("--subjects", "subjects.csv", "--known-pairs", "pairs.csv"),
    )
    assert done.exit_code == 0, done.stderr
    said = {record["case"]: record for record in lines(tmp_path / "out", "query")}
    assert [case for case, record in said.items() if record["side"] == "copy"] == [
        f"case_{number:02}.nii.gz" for number in (0, 1, 2, 4)
    ]
    figures = json.loads(Path("f.json").read_text())
    assert figures["protocol"]["known_pairs"] == 1
    # The ladder calls it exact, and is right: it is no false positive.
    assert said["case_05.nii.gz"]["product"][0][1] == "exact"
    assert figures["product"]["false_positives"] == 0
    assert figures["paper"]["specificity_stage1"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "nowhere is no folder"),
        (("empty",), "at least two cases"),
        (("one",), "at least two cases"),
        (("unreadable",), "0 of 2 images can be read, for instance a.nrrd"),
        (("cases", "--model", "nonsense"), "no model 'nonsense'"),
        (("cases", "--index", "hnsw,flat"), "not 'flat'"),
        (("cases", "--calibrate", "nowhere"), "nowhere is no folder"),
        (("cases", "--subjects", "nowhere.csv"), "cannot read nowhere.csv"),
        (("cases", "--json", "nowhere/f.json"), "its folder must exist"),
        (("cases", "--out", "file"), "cannot write to file"),
    ],
)
def test_a_usage_error_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of_bodies(tmp_path / "cases", 2)
    folder_of_bodies(tmp_path / "one", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "unreadable").mkdir()
    for name in ("a.nrrd", "b.nii"):
        (tmp_path / "unreadable" / name).write_bytes(b"nothing")
    (tmp_path / "file").write_text("")
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_without_faiss_lsh_is_left_out_aloud_unless_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "faiss", None)
    folder_of_bodies(tmp_path / "cases", 2)
    options = ("cases", "--quick", "--model", "thumbnail-16")
    asked, left_out = run(*options, "--index", "lsh"), run(*options)
    assert asked.exit_code == 2
    assert "pip install faiss-cpu" in asked.stderr
    assert left_out.exit_code == 0, left_out.stderr
    assert "LSH left out: pip install faiss-cpu" in left_out.stderr


def test_real_hippocampi_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    for path in sorted(shared("volumes", "hippocampus").glob("*.nii.gz"))[-8:]:
        (tmp_path / "cases" / path.name).symlink_to(path)
    json_file = tmp_path / "f.json"
    done = run(
        *(tmp_path / "cases", "--out", tmp_path / "out", "--json", json_file),
        *("--quick", "--index", "hnsw"),
    )
    assert done.exit_code == 0, done.stderr
    figures = json.loads(json_file.read_text())
    duplicates = figures["paper"]["sets"][0]
    assert (duplicates["transform"], duplicates["auc_top1"]) == ("duplicate", 1.0)
    assert figures["product"]["sets"][0]["sensitivity"] == 1.0
    assert figures["product"]["false_positives"] == 0
