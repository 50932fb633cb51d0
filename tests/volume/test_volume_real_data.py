"""Real files: every one is accounted for, nothing crashes, and volumes are what they must be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict

import pytest

from support import REPOSITORY, shared

LOSSLESS = ("1.2", "2.1", "2.2", "2.1.99", "2.5", "2.4.57", "2.4.70", "2.4.80", "2.4.90")


@pytest.fixture(scope="module")
def census():
    folder = shared("dicom")
    done = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "census", folder, "--json", "-"],
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def test_no_file_is_silent_and_nothing_crashes(census):
    assert census["silent"] == 0
    assert census["crashes"] == 0
    assert census["images"] > 0
    assert census["not_an_image"]


def test_every_plane_of_every_series_is_in_a_stack(census):
    stacks = [stack for series in census["series"] for stack in series["stacks"]]
    kept = sum(stack["planes"] for stack in stacks)
    assert kept <= census["planes"]
    assert all(series["stacks"] for series in census["series"])
    assert all("shape" in stack for stack in stacks)
    for series in census["series"]:
        signatures = [stack["signature"] for stack in series["stacks"]]
        assert len(signatures) == len(set(signatures))


def test_malformed_files_have_a_reason_and_real_series_are_read(census):
    reasons = defaultdict(set)
    for refusal in census["refused"]:
        reasons[refusal["file"].split("/")[0]].add(refusal["reason"])
    for owner in ("FNNDSC__data", "plotly__dash-vtk", "udacity", "neurolabusc__dcm_qa_decubitus"):
        assert not reasons[owner]


def test_one_slice_in_many_lossless_transfer_syntaxes_has_one_digest():
    from diptych.volume.instance import Instance, decode_file

    folder = shared("dicom", "cornerstonejs__cornerstoneWADOImageLoader")
    digests = defaultdict(set)
    for path in sorted(folder.rglob("CTImage.dcm*.dcm")):
        outcome = decode_file(path)
        assert isinstance(outcome, Instance), outcome
        if not outcome.header.lossy and outcome.planes[0].signed:
            syntax = outcome.header.transfer_syntax
            if syntax.removeprefix("1.2.840.10008.1.") in LOSSLESS:
                digests[outcome.planes[0].digest].add(syntax)
    assert len(digests) == 1
    assert len(next(iter(digests.values()))) >= 8
