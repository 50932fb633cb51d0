"""The census accounts for every file, on a folder that holds one of each kind."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np

from dicom_factory import dicom_slice, save, save_series
from support import REPOSITORY


def test_files_are_images_or_not_an_image_or_refused_or_not_dicom(tmp_path):
    save_series(tmp_path / "series", [dicom_slice(number=n) for n in range(1, 6)])
    save(dicom_slice(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33"), tmp_path / "report.dcm")
    save(dicom_slice(Rows=99), tmp_path / "truncated.dcm")
    save(dicom_slice(np.ones((4, 4), np.int16), BitsAllocated=12), tmp_path / "packed.dcm")
    (tmp_path / "notes.txt").write_text("not DICOM at all, and longer than a preamble " * 5)
    (tmp_path / "empty").touch()
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "census", tmp_path, "--json", "-"],
        stdout=subprocess.PIPE,
        check=True,
    )
    report = json.loads(done.stdout)
    assert report["files"] == 10
    assert report["images"] == 5
    assert report["not_an_image"] == {"structured report": 1}
    assert report["refusals"] == {"truncated-pixel-data": 1, "unsupported-pixel-format": 1}
    assert report["not_dicom"] == 2
    assert report["silent"] == report["crashes"] == 0
    (series,) = report["series"]
    (stack,) = series["stacks"]
    assert stack["shape"] == [5, 12, 10]
    assert stack["geometry"] == "known"
