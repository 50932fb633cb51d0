"""Copies, parts and look-alikes on the whole path: which relation, and which slices."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from diptych.demo import copies
from diptych.demo.series import write_series
from judged import Archive

Series = list[Dataset]
Bodies = dict[str, Series]
DUPLICATE = ("exact", "near-duplicate", "partial")


def flags(row: dict[str, Any]) -> set[str]:
    return set(json.loads(row["flags"]))


def check_of(own: Archive, row: dict[str, Any]) -> dict[str, Any]:
    """Of the matched case."""
    query = f"SELECT data FROM evidence WHERE verdict_id = {row['id']}"
    checks = json.loads(zlib.decompress(own.rows(query)[0][0]))["checks"]
    return next(check for check in checks if check["case"] == row["matched_case_id"])


def written_in(syntax: UID) -> Callable[[Series], Series]:
    def change(series: Series) -> Series:
        made = copies.new_uids(series, 1)
        for instance in made:
            if syntax == ExplicitVRBigEndian:
                instance.PixelData = np.frombuffer(instance.PixelData, "<u2").byteswap().tobytes()
            if syntax.is_compressed and not syntax.is_deflated:
                instance.compress(syntax, generate_instance_uid=False)
            instance.file_meta.TransferSyntaxUID = syntax
        return made

    return change


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
    ],
    ids=lambda syntax: syntax.name,
)
def test_a_copy_in_another_lossless_transfer_syntax_is_exact(
    own: Archive, bodies: Bodies, syntax: UID
) -> None:
    part = bodies["head-0"][5:9]
    first = own.add(part)
    row = own.add(written_in(syntax)(part))
    assert (row["relation"], row["matched_case_id"]) == ("exact", first["case_id"]), row["detail"]


def test_slices_sent_and_numbered_in_reverse_are_exact(own: Archive, bodies: Bodies) -> None:
    own.add(bodies["head-0"])
    copy = copies.new_uids(bodies["head-0"], 2)[::-1]
    for number, instance in enumerate(copy):
        instance.InstanceNumber = number + 1
    assert own.add(copy)["relation"] == "exact"


@pytest.mark.parametrize("slices", [2, 3])
def test_a_series_of_few_slices_and_its_copies(own: Archive, bodies: Bodies, slices: int) -> None:
    few = bodies["head-0"][6 : 6 + slices]
    first = own.add(few)
    for stranger in (bodies["head-1"], bodies["chest-0"], bodies["head-0"][4:]):
        row = own.add(copies.new_uids(stranger[6 : 6 + slices], 9))
        assert row["relation"] not in DUPLICATE, row["detail"]
    exact = own.add(copies.new_uids(few, 1))
    near = own.add(copies.rotated_noisy(few, 2))
    whole = own.add(copies.new_uids(bodies["head-0"], 3))
    assert [row["relation"] for row in (exact, near, whole)] == [
        "exact",
        "near-duplicate",
        "partial",
    ]
    assert {row["matched_case_id"] for row in (exact, near, whole)} == {first["case_id"]}
    assert ("few_slices" in flags(near)) == (slices < 3)


def test_a_series_of_one_slice_and_its_copy_are_exact(own: Archive, bodies: Bodies) -> None:
    first = own.add(bodies["head-0"][6:7])
    for stranger in (bodies["head-1"], bodies["chest-0"], bodies["head-0"][4:]):
        assert own.add(copies.new_uids(stranger[6:7], 9))["relation"] not in DUPLICATE
    row = own.add(copies.new_uids(bodies["head-0"][6:7], 1))
    assert (row["relation"], row["matched_case_id"]) == ("exact", first["case_id"])
    assert "few_slices" in flags(row)


def unplaced(series: Series, downwards: bool) -> Series:
    """As some exports leave it: nothing but the numbers tells the order."""
    for number, instance in enumerate(series):
        del instance.ImagePositionPatient, instance.SliceLocation
        instance.InstanceNumber = len(series) - number if downwards else number + 1
    return series


@pytest.mark.parametrize("downwards", [False, True], ids=["upwards", "downwards"])
def test_a_copy_without_positions_is_found_whichever_way_it_is_numbered(
    own: Archive, bodies: Bodies, downwards: bool
) -> None:
    first = own.add(bodies["head-0"])
    own.add(bodies["head-1"])
    exact = own.add(unplaced(copies.new_uids(bodies["head-0"], 4), downwards))
    near = own.add(unplaced(copies.rotated_noisy(bodies["head-0"], 5), downwards))
    part = own.add(unplaced(copies.new_uids(bodies["head-0"][3:9], 6), downwards))
    assert [row["relation"] for row in (exact, near, part)] == [
        "exact",
        "near-duplicate",
        "partial",
    ]
    assert near["matched_case_id"] in (first["case_id"], exact["case_id"])
    assert "geometry_inferred" in flags(near)
    assert check_of(own, part)["ours"]["last"] == 6
    assert check_of(own, part)["theirs"]["of"] == 16


def test_a_copy_that_lacks_a_slice_in_the_middle_is_a_near_duplicate(
    own: Archive, bodies: Bodies
) -> None:
    own.add(bodies["head-0"])
    own.add(bodies["head-1"])
    row = own.add(copies.rotated_noisy(bodies["head-0"][:7] + bodies["head-0"][8:], 7))
    assert row["relation"] == "near-duplicate", row["detail"]


def test_a_series_that_lies_across_two_parts_is_partial_with_the_one_it_shares_more_with(
    own: Archive, bodies: Bodies
) -> None:
    low, high = own.add(bodies["chest-0"][:8]), own.add(copies.new_uids(bodies["chest-0"][8:], 1))
    assert high["relation"] not in DUPLICATE, "neighbouring parts have no slice in common"
    row = own.add(copies.new_uids(bodies["chest-0"][2:14], 2))
    assert row["relation"] == "partial", row["detail"]
    assert row["matched_case_id"] in (low["case_id"], high["case_id"])


@pytest.mark.both
def test_of_two_copies_that_arrive_at_the_same_moment_one_is_the_duplicate(
    own: Archive, bodies: Bodies
) -> None:
    own.add(bodies["head-0"])
    own.receive(copies.new_uids(bodies["chest-0"], 1))
    own.receive(copies.rotated_noisy(bodies["chest-0"], 2))
    own.receive(copies.new_uids(bodies["chest-0"], 3))
    rows = own.judge()
    assert [row["relation"] for row in rows] == ["unique", "near-duplicate", "exact"]
    assert {row["matched_case_id"] for row in rows[1:]} == {rows[0]["case_id"]}


def test_test_patterns_of_different_kinds_are_no_copies_of_each_other(own: Archive) -> None:
    z, y, x = np.mgrid[:16, :96, :96]
    across = np.hypot(y - 48, x - 48)
    patterns = {
        "checks": ((y // 12 + x // 12 + z // 4) % 2) * 1000,
        "ramp": y * 10 + z,
        "cylinder": (across < 40) * 1000,
        "ball": (np.hypot(across, 2 * (z - 8)) < 40) * 1000,
        "bars": (x // 8 % 2) * 900,
        "box": ((abs(y - 48) < 36) & (abs(x - 48) < 36)) * 1000,
    }
    affine = np.array([[0, 0, 3.0, 0], [0, 3, 0, 0], [6, 0, 0, 0], [0, 0, 0, 1]])
    for number, (name, pattern) in enumerate(patterns.items()):
        noise = np.random.default_rng(number).normal(20, 10, pattern.shape)
        row = own.add(write_series((pattern + noise).astype(np.int16), affine, "MR", name, number))
        assert row["relation"] not in DUPLICATE, (name, row["detail"])
