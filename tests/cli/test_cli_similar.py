"""``diptych similar`` as a user runs it, beside a daemon and after it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from cli.command_line import Archive, Diptych
from diptych.audit import models
from diptych.audit.store import Store
from diptych.config import load
from evaluate.volumes import save_itk, save_nifti
from running import Daemon, instance

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(archive: Archive, diptych: Diptych) -> Ask:
    """The JSON of a question to the running archive: case 1, its copy 2 and a stranger 3."""

    def asked(*arguments: object) -> dict[str, Any]:
        done = diptych("similar", *arguments, "--json", "-", "--data", archive.data)
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    return asked


def series_folder(folder: Path, instances: list[Dataset]) -> Path:
    folder.mkdir()
    for number, data_set in enumerate(instances):
        data_set.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    return folder


def volume(instances: list[Dataset]) -> np.ndarray:
    planes = sorted(instances, key=lambda each: int(each.InstanceNumber))
    return np.stack([each.pixel_array for each in planes]).astype(np.int16)


def order(said: dict[str, Any]) -> list[int]:
    return [each["case_id"] for each in said["similar"]]


def test_a_case_finds_its_copy_and_not_itself(ask: Ask, archive: Archive) -> None:
    said = ask(1)
    assert said["query"] == {"case_id": 1}
    assert said["excluded_cases"] == [1]
    assert said["compared_cases"] == 2
    assert order(said) == [2, 3]
    copy, stranger = said["similar"]
    assert (copy["share"], copy["nearest"], copy["round"]) == (1.0, 0.0, 1)
    assert copy["same_pixels"]
    assert not stranger["same_pixels"]
    assert stranger["round"] == 2
    assert stranger["nearest"] > 0
    assert copy["series_instance_uid"] == archive.copy[0].SeriesInstanceUID
    assert (copy["modality"], copy["source"], copy["slices"]) == ("CT", "default", 6)
    assert order(ask(2)) == [1, 3]


def test_a_folder_a_file_and_a_volume_of_it_find_the_archived_case(
    ask: Ask, archive: Archive, tmp_path: Path
) -> None:
    folder = series_folder(tmp_path / "series", archive.original)
    paths = [folder, folder / "2.dcm"]
    array = volume(archive.original)
    paths += [save_nifti(tmp_path / "a.nii.gz", array), save_itk(tmp_path / "a.mha", array)]
    paths += [save_itk(tmp_path / "a.nrrd", array)]
    for path in paths:
        said = ask(path)
        assert said["excluded_cases"] == []
        assert order(said)[:2] == [1, 2], path
        assert said["similar"][0]["nearest"] < 0.2, path
    assert ask(folder)["similar"][0]["same_pixels"]
    assert ask(folder)["similar"][0]["nearest"] < 1e-3
    assert ask(folder / "2.dcm")["asked_slices"] == 1


def test_a_file_whose_name_is_a_number_is_asked_for_by_its_path(
    ask: Ask, archive: Archive, tmp_path: Path
) -> None:
    series_folder(tmp_path / "1", archive.stranger)
    assert ask(tmp_path / "1")["similar"][0]["case_id"] == 3


def test_slices_are_sampled_and_weighed_as_asked(ask: Ask) -> None:
    n = ask(1)["informative_slices"]
    for which, asked in (
        ("all", n),
        ("every:2", (n + 1) // 2),
        ("sample:5", min(5, n)),
        ("sample:20", n),
    ):
        said = ask(1, "--slices", which)
        assert (said["slices"], said["asked_slices"], said["gaussian"]) == (which, asked, False)
        assert order(said) == [2, 3]
    assert ask(1, "--gaussian")["gaussian"]
    assert order(ask(1, "--top", 1)) == [2]


def test_the_table_says_what_was_asked_and_what_was_left_out(
    archive: Archive, diptych: Diptych, tmp_path: Path
) -> None:
    done = diptych("similar", 1, "--data", archive.data, "--json", tmp_path / "s.json")
    assert done.returncode == 0, done.stderr
    assert "same pixels" in done.stdout
    assert "informative slices (all) against 2 cases, model diptych-dino" in done.stdout
    assert "left out as the same series: case 1" in done.stdout
    assert order(json.loads((tmp_path / "s.json").read_text())) == [2, 3]


def test_nothing_is_stored(archive: Archive, ask: Ask, tmp_path: Path) -> None:
    before = archive.daemon.value("SELECT count(*) FROM event")
    files = set((archive.data / "spool").rglob("*"))
    ask(series_folder(tmp_path / "series", archive.stranger))
    assert archive.daemon.value("SELECT count(*) FROM event") == before
    assert set((archive.data / "spool").rglob("*")) == files


def test_it_answers_after_the_daemon_and_follows_what_is_forgotten(
    stopped: Path, diptych: Diptych
) -> None:
    assert diptych("forget", 2, "--data", stopped).returncode == 0
    said = json.loads(diptych("similar", 1, "--json", "-", "--data", stopped).stdout)
    assert order(said) == [3]
    done = diptych("similar", 2, "--data", stopped)
    assert (done.returncode, "case 2 was forgotten" in done.stderr) == (2, True)
    assert diptych("forget", 1, "--data", stopped).returncode == 0
    done = diptych("similar", 3, "--data", stopped)
    assert (done.returncode, "no other case" in done.stderr) == (2, True)
    assert diptych("forget", 3, "--data", stopped).returncode == 0
    done = diptych("similar", 3, "--data", stopped)
    assert (done.returncode, "no case to compare with" in done.stderr) == (2, True)


def test_during_a_switch_it_says_to_ask_again(stopped: Path, diptych: Diptych) -> None:
    store = Store(load(None, {"data": stopped}).database_url)
    models.hold(store)
    done = diptych("similar", 1, "--data", stopped)
    assert (done.returncode, "ask again" in done.stderr) == (2, True)
    models.hold(store, seconds=0)
    store.close()
    assert diptych("similar", 1, "--data", stopped).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((99,), "case 99 is unknown: `diptych verdicts` lists the cases"),
        ((10**30,), "is unknown"),
        ((6,), "is unknown"),
        (("nowhere",), "there is no such case number, file or folder"),
        ((1, "--slices", "some"), "none of all, every:N, sample:K"),
        ((1, "--slices", "sample:0"), "at least 1"),
        ((1, "--top", 0), "--top"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(
    archive: Archive, diptych: Diptych, arguments: tuple[object, ...], said: str
) -> None:
    done = diptych("similar", *arguments, "--data", archive.data)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""


def test_a_path_without_one_image_is_refused_in_words(
    archive: Archive, diptych: Diptych, tmp_path: Path
) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("none")
    (tmp_path / "broken.nii").write_bytes(b"nothing")
    os.mkfifo(tmp_path / "pipe")
    blank = [instance("1.2.3", "1.2", n + 1, np.zeros((32, 32), np.uint16)) for n in range(4)]
    series_folder(tmp_path / "blank", blank)
    series_folder(tmp_path / "two", [archive.original[0], archive.stranger[0]])
    for name, said in (
        ("text", "holds no NIfTI, NRRD, MetaImage or DICOM file"),
        ("text/a.txt", "is no NIfTI, NRRD, MetaImage or DICOM file"),
        ("broken.nii", "no image can be read from it"),
        ("pipe", "there is no such case number, file or folder"),
        ("blank", "the same value everywhere"),
        ("two", "holds 2 images, name one of them: 0.dcm, 1.dcm"),
    ):
        done = diptych("similar", tmp_path / name, "--data", archive.data)
        assert (done.returncode, said in done.stderr) == (2, True), (name, done.stderr)


def test_without_an_archive_it_says_where_there_could_be_one(
    diptych: Diptych, tmp_path: Path, make_daemon: Callable[..., Daemon]
) -> None:
    done = diptych("similar", 1, "--data", tmp_path / "none")
    assert (done.returncode, "holds no archive" in done.stderr) == (4, True)
    daemon = make_daemon().start()
    done = diptych("similar", 1, "--data", daemon.data)
    assert (done.returncode, "no case to compare with" in done.stderr) == (2, True)
