"""What a delivery holds ends up in the catalogue once, whatever stops the intake on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest
from pydicom.uid import BasicTextSRStorage, DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from dicom_factory import (
    deflated,
    dicom_slice,
    enhanced_mr,
    pixels,
    save,
    save_compressed,
    save_series,
)
from diptych.errors import ConfigError, UsageError
from diptych.intake.materialise import materialise
from diptych.intake.take import take_in
from diptych.volume.instance import decode_file
from intake import dying
from intake.deliveries import outcomes, tarred, zipped


def rows(catalogue, query):
    return catalogue.db.execute(query).fetchall()


@pytest.fixture
def delivery(tmp_path):
    """One of everything; every file has exactly one row, and every member."""
    folder = tmp_path / "delivery"
    save_series(folder / "ct", [dicom_slice(number=n) for n in range(1, 6)])
    (folder / "ct" / "0003.dcm").rename(folder / "ct" / "IM3")
    save(dicom_slice(SOPClassUID=BasicTextSRStorage, Rows=None, Columns=None), folder / "report")
    save(dicom_slice(Rows=None, Columns=None), folder / "no-size.dcm")
    save(enhanced_mr(np.ones((6, 8, 8), np.int16), range(6), [1] * 6), folder / "enhanced")
    deflated(dicom_slice(SeriesInstanceUID="1.2.9"), folder / "deflated.dcm")
    save_compressed(
        dicom_slice(pixels(1, 64, 64), SeriesInstanceUID="1.2.8"),
        folder / "j2k.dcm",
        JPEG2000Lossless,
    )
    image = nibabel.Nifti1Image(np.zeros((9, 8, 7, 2), np.int16), np.eye(4))
    for name in ("bold.nii.gz", "plain.nii"):
        nibabel.save(image, folder / name)
    nibabel.save(nibabel.Nifti1Pair(np.zeros((9, 8, 7), np.int16), np.eye(4)), folder / "pair.hdr")
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 8), np.int16), np.eye(4)), folder / "flat.nii")
    (folder / "bold.json").write_text("{}")
    (folder / "alone.json").write_text("{}")
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 5 6\nencoding: raw\nendian: little\n"
    (folder / "in.nrrd").write_bytes(header.encode() + b"\n" + bytes(240))
    (folder / "out.nhdr").write_text(header + "data file: out.raw\n")
    (folder / "out.raw").write_bytes(bytes(240))
    (folder / "lost.nhdr").write_text(header + "data file: nowhere.raw\n")
    meta = "ObjectType = Image\nNDims = 3\nDimSize = 4 5 6\nElementType = MET_SHORT\n"
    (folder / "in.mha").write_bytes(f"{meta}ElementDataFile = LOCAL\n".encode() + bytes(240))
    (folder / "list.mhd").write_text(f"{meta}ElementDataFile = s%02d.raw 1 6 1\n")
    for number in range(1, 7):
        (folder / f"s{number:02d}.raw").write_bytes(bytes(40))
    (folder / "cut.nii").write_bytes((folder / "plain.nii").read_bytes()[:500])
    (folder / "bad.dcm").write_bytes(b"\xff" * 500)
    (folder / "empty.dcm").touch()
    (folder / "empty").touch()
    (folder / "shot.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    (folder / "old.rar").write_bytes(b"Rar!\x1a\x07\0" + bytes(99))
    (folder / "link").symlink_to(folder / "bold.nii.gz")
    os.mkfifo(folder / "pipe")
    return folder


EXPECTED = {
    "readable": 15, "not-an-image: structured report": 1, "not-screenable: no-pixel-data": 1,
    "not-screenable: not-3d": 1, "not-screenable: picture": 1, "not-an-image: sidecar": 1,
    "not-an-image: json": 1, "not-an-image: detached-data": 8, "unreadable: data-file-missing": 1,
    "unreadable: truncated": 1, "unreadable: not-what-its-name-says": 1,
    "unreadable: empty-file": 1, "not-an-image: empty-file": 1, "refused: link": 1,
    "refused: device": 1, "refused: unsupported-archive": 1,
}  # fmt: skip


def test_every_file_has_one_outcome(delivery, taken):
    catalogue = taken(delivery)
    assert outcomes(catalogue) == EXPECTED
    inside = sum(len(files) for _, _, files in os.walk(delivery))
    assert sum(EXPECTED.values()) == inside
    assert rows(catalogue, "SELECT count(*) FROM file") == [(inside,)]
    assert rows(catalogue, "SELECT kind, files, planes FROM series ORDER BY 1, 2, 3") == [
        ("dicom", 1, 1), ("dicom", 1, 1), ("dicom", 6, 11), ("metaimage", 1, 6),
        ("metaimage", 1, 6), ("nifti", 1, 7), ("nifti", 1, 14), ("nifti", 1, 14), ("nrrd", 1, 6),
        ("nrrd", 1, 6),
    ]  # fmt: skip


def test_what_a_zip_of_the_delivery_holds_is_what_the_delivery_holds(delivery, taken, tmp_path):
    files = {
        str(path.relative_to(delivery)): path.read_bytes()
        for path in delivery.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / "d.zip").write_bytes(zipped({"deep/d.tgz": tarred(files, "gz")}))
    catalogue = taken(tmp_path / "zips")
    expected = dict(EXPECTED) | {"opened": 2}
    del expected["refused: link"], expected["refused: device"]
    assert outcomes(catalogue) == expected


def test_materialised_series_are_the_bytes_that_were_delivered(delivery, taken, tmp_path):
    files = {
        str(path.relative_to(delivery)): path.read_bytes()
        for path in delivery.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    packed = tmp_path / "packed.zip"
    packed.write_bytes(zipped({"a.tar.xz": tarred(files, "xz")}))
    plain, inside = taken(delivery, out="1"), taken(packed, out="2")
    count = len(rows(plain, "SELECT id FROM series"))
    assert count == len(rows(inside, "SELECT id FROM series")) == 10
    for number in range(1, count + 1):
        with (
            materialise(plain.db, number, plain.scratch) as ones,
            materialise(inside.db, number, inside.scratch) as others,
        ):
            assert all(path.is_relative_to(delivery) for path in ones)
            assert all(path.is_relative_to(inside.scratch) for path in others)
            assert [each.read_bytes() for each in ones] == [each.read_bytes() for each in others]
            if ones[0].suffix == ".mhd":
                assert (others[0].parent / "s06.raw").exists()
        assert not list(inside.scratch.iterdir())
    assert ones


def test_the_same_series_in_two_places_is_two_and_a_series_in_two_archives_one(taken, tmp_path):
    slices = save_series(tmp_path / "d" / "a", [dicom_slice(number=n) for n in range(1, 5)])
    contents = [path.read_bytes() for path in slices]
    (tmp_path / "d" / "1.zip").write_bytes(zipped({"1": contents[0], "2": contents[1]}))
    (tmp_path / "d" / "2.zip").write_bytes(zipped({"1": contents[2], "2": contents[3]}))
    catalogue = taken(tmp_path / "d" / "1.zip", tmp_path / "d" / "2.zip", out="halves")
    assert rows(catalogue, "SELECT files, packed FROM series") == [(4, 4)]
    catalogue = taken(tmp_path / "d", out="copies")
    assert sorted(rows(catalogue, "SELECT files FROM series")) == [(2,), (2,), (4,)]


def test_a_second_run_reads_only_what_changed_and_forgets_what_went(delivery, taken, monkeypatch):
    catalogue = taken(delivery)
    before = dict(rows(catalogue, "SELECT where_, id FROM file"))
    read = []
    monkeypatch.setattr("diptych.intake.take.multiprocessing.get_context", _Recorder(read))
    again = taken(delivery)
    assert dict(rows(again, "SELECT where_, id FROM file")) == before
    assert read == []
    monkeypatch.undo()
    (delivery / "bad.dcm").unlink()
    (delivery / "empty").write_bytes((delivery / "j2k.dcm").read_bytes())
    expected = dict(EXPECTED) | {"readable": 16}
    del expected["unreadable: not-what-its-name-says"], expected["not-an-image: empty-file"]
    assert outcomes(taken(delivery)) == expected


class _Recorder:
    def __init__(self, calls):
        self.calls = calls

    def __call__(self, method):
        self.calls.append(method)
        raise AssertionError("no reader is needed")


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_and_resumed_it_ends_as_if_it_had_not_been(seed, taken, tmp_path):
    folder = tmp_path / "d"
    save_series(folder / "a", [dicom_slice(number=n) for n in range(1, 80)])
    contents = {str(n): path.read_bytes() for n, path in enumerate((folder / "a").iterdir())}
    for number in range(4):
        (folder / f"{number}.zip").write_bytes(zipped({"in.tgz": tarred(contents, "gz")}))
    whole = list(taken(folder, out="whole").dump())
    assert len(whole) > 5 * 79
    program = (
        "import sys; from pathlib import Path; from diptych.intake.take import take_in\n"
        "if __name__ == '__main__': take_in([sys.argv[1]], Path(sys.argv[2]), readers=2)"
    )
    script = tmp_path / "run.py"
    script.write_text(program)
    draw = random.Random(seed)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, script, folder, tmp_path / "killed"])
        time.sleep(draw.uniform(0.3, 2.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    time.sleep(0.2)
    assert list(taken(folder, out="killed").dump()) == whole


def test_a_reader_that_dies_costs_the_file_that_killed_it(delivery, taken, monkeypatch):
    monkeypatch.setattr("diptych.intake.take.serve", dying.serve)
    found = outcomes(taken(delivery, readers=2))
    assert found["unreadable: reader-crashed"] == 1
    assert sum(found.values()) == sum(EXPECTED.values())


def test_two_at_once_in_one_folder_are_refused(delivery, taken, tmp_path):
    assert taken(delivery)
    with pytest.raises(ConfigError, match="in use"):
        take_in([str(delivery)], tmp_path / "out")


def test_usage_errors_say_what_to_do(delivery, taken, tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        taken(tmp_path / "nothing")
    with pytest.raises(UsageError, match="inside the output folder"):
        taken(delivery, out="delivery")
    assert not (delivery / "catalogue.sqlite3").exists()


def test_the_output_folder_inside_the_input_is_no_input(delivery, taken):
    assert outcomes(taken(delivery, out="delivery/out")) == EXPECTED


def test_names_that_are_no_text_are_kept(taken, tmp_path, one_slice):
    given = [b"new\nline", "ü".encode(), b"\xff\xfe"]
    (tmp_path / "d").mkdir()
    for name in given:
        (tmp_path / "d" / os.fsdecode(name)).write_bytes(one_slice)
    catalogue = taken(tmp_path / "d")
    assert outcomes(catalogue) == {"readable": 3}
    (names,) = zip(*rows(catalogue, "SELECT where_ FROM file ORDER BY 1"), strict=True)
    assert [name.rpartition(b"/")[2] for name in names] == given
    with materialise(catalogue.db, 1, catalogue.scratch) as paths:
        assert {path.read_bytes() for path in paths} == {one_slice}


def test_the_deflated_data_set_is_read_within_bounds(tmp_path, taken):
    deflated(dicom_slice(np.zeros((900, 900), np.int16)), tmp_path / "1.dcm")
    catalogue = taken(tmp_path / "1.dcm")
    assert rows(catalogue, "SELECT transfer_syntax, rows FROM entry") == [
        (str(DeflatedExplicitVRLittleEndian), 900)
    ]


def test_json_beside_an_image_in_another_folder_is_no_sidecar(tmp_path, taken):
    (tmp_path / "d" / "a").mkdir(parents=True)
    image = nibabel.Nifti1Image(np.zeros((9, 8, 7), np.int16), np.eye(4))
    nibabel.save(image, tmp_path / "d" / "a" / "x.nii.gz")
    (tmp_path / "d" / "x.json").write_text(json.dumps({}))
    assert outcomes(taken(tmp_path / "d")) == {"readable": 1, "not-an-image: json": 1}


def test_a_sidecar_of_an_archive_is_laid_down_beside_its_image(tmp_path, taken):
    image = nibabel.Nifti1Image(np.zeros((9, 8, 7), np.int16), np.eye(4))
    files = {"a/x.nii": image.to_bytes(), "a/x.json": b'{"Modality": "MR"}'}
    (tmp_path / "d.zip").write_bytes(zipped(files))
    catalogue = taken(tmp_path / "d.zip")
    with materialise(catalogue.db, 1, catalogue.scratch) as (path,):
        assert decode_file(path).header.Modality == "MR"
