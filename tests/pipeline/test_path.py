"""The path as a whole: what becomes of a series, and of its copies."""

from __future__ import annotations

import json
import zlib
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, generate_uid
from sqlalchemy import text

from diptych import worker
from diptych.audit import verify, work
from diptych.audit.forget import forget
from diptych.demo import copies
from diptych.judge import proxy
from judged import NOW, Archive
from running import instance, series

Bodies = dict[str, list[Dataset]]


def flags(row: dict[str, Any]) -> set[str]:
    return set(json.loads(row["flags"]))


def constant_series(value: int, slices: int = 4) -> list[Dataset]:
    study, uid = generate_uid(), generate_uid()
    pixels = np.full((32, 32), value, np.uint16)
    return [instance(uid, study, n + 1, pixels) for n in range(slices)]


def test_the_first_series_of_an_archive_is_unique(own: Archive, bodies: Bodies) -> None:
    row = own.add(bodies["head-0"])
    assert (row["relation"], row["matched_case_id"], row["c1"]) == ("unique", None, 0.0)
    assert row["slices"] == 16
    assert 0 < row["informative_slices"] <= 16


def test_strangers_are_unique_in_archives_of_one_two_three_and_more_cases(
    own: Archive, bodies: Bodies
) -> None:
    relations = {name: own.add(body)["relation"] for name, body in bodies.items()}
    assert relations == dict.fromkeys(bodies, "unique")


@pytest.mark.both
@pytest.mark.parametrize(
    "copy",
    [
        lambda s: copies.new_uids(s, 1),
        lambda s: copies.deidentified(s, 2),
        lambda s: copies.lossless_j2k(s, 3),
    ],
    ids=["new UIDs", "de-identified and re-ordered", "lossless JPEG 2000"],
)
def test_a_copy_with_the_same_pixels_is_exact(own: Archive, bodies: Bodies, copy: Any) -> None:
    original = own.add(bodies["abdomen-0"])
    own.add(bodies["chest-0"])
    nodes = len(own.indexes.slices)
    row = own.add(copy(bodies["abdomen-0"]))
    assert row["relation"] == "exact"
    assert row["matched_case_id"] == original["case_id"]
    assert row["matched_series_instance_uid"] == original["series_instance_uid"]
    assert (row["c1"], row["c3"]) == (1.0, 1.0)
    assert row["informative_slices"] == original["informative_slices"]
    assert len(own.indexes.slices) == nodes, "an exact copy reuses the vectors of its original"


def test_a_rotated_noisy_copy_is_a_near_duplicate(own: Archive, bodies: Bodies) -> None:
    originals = {name: own.add(body) for name, body in bodies.items()}
    row = own.add(copies.rotated_noisy(bodies["abdomen-1"], 4))
    assert row["relation"] == "near-duplicate", row["detail"]
    assert row["matched_case_id"] == originals["abdomen-1"]["case_id"]
    assert row["c3"] > row["threshold"]


def evidence_of(own: Archive, row: dict[str, Any]) -> dict[str, Any]:
    query = f"SELECT data FROM evidence WHERE verdict_id = {row['id']}"
    found: dict[str, Any] = json.loads(zlib.decompress(own.rows(query)[0][0]))
    return found


@pytest.mark.both
def test_a_near_duplicate_was_aligned_and_the_evidence_says_how(
    own: Archive, bodies: Bodies
) -> None:
    for body in bodies.values():
        own.add(body)
    row = own.add(copies.rotated_noisy(bodies["abdomen-1"], 4))
    evidence = evidence_of(own, row)
    assert (evidence["verified"], evidence["verified_reason"]) == ("yes", "aligned")
    check = next(c for c in evidence["checks"] if c["case"] == row["matched_case_id"])
    assert check["correlation"] > 0.93
    assert abs(check["rotation_degrees"]) > 1
    assert "turned" in row["detail"]


def test_a_case_whose_pixels_were_purged_is_still_aligned(own: Archive, bodies: Bodies) -> None:
    original = own.add(bodies["head-1"])
    for path in own.spool.path("").rglob("*.dcm"):
        path.unlink()
    row = own.add(copies.rotated_noisy(bodies["head-1"], 6))
    assert (row["relation"], row["matched_case_id"]) == ("near-duplicate", original["case_id"])
    assert evidence_of(own, row)["verified"] == "yes"


@pytest.mark.parametrize(
    ("part", "theirs"),
    [(slice(4, 10), (5, 10)), (slice(0, 16, 2), (1, 16))],
    ids=["six slices of sixteen", "every second slice"],
)
def test_a_part_of_a_series_is_partial_and_names_its_slices(
    own: Archive, bodies: Bodies, part: slice, theirs: tuple[int, int]
) -> None:
    originals = {name: own.add(body) for name, body in bodies.items()}
    row = own.add(copies.new_uids(bodies["abdomen-0"][part], 3))
    assert row["relation"] == "partial", row["detail"]
    assert row["matched_case_id"] == originals["abdomen-0"]["case_id"]
    check = next(c for c in evidence_of(own, row)["checks"] if c["case"] == row["matched_case_id"])
    assert (check["ours"]["first"], check["ours"]["last"]) == (1, row["slices"])
    assert abs(check["theirs"]["first"] - theirs[0]) <= 1
    assert abs(check["theirs"]["last"] - theirs[1]) <= 1


def test_the_whole_that_arrives_after_its_part_is_partial_too(own: Archive, bodies: Bodies) -> None:
    first = own.add(bodies["abdomen-0"][4:10])
    own.add(bodies["head-0"])
    row = own.add(copies.new_uids(bodies["abdomen-0"], 3))
    assert (row["relation"], row["matched_case_id"]) == ("partial", first["case_id"]), row["detail"]


def test_within_one_study_a_processed_copy_is_no_more_than_related(
    own: Archive, bodies: Bodies
) -> None:
    own.add(bodies["abdomen-1"])
    own.add(bodies["head-0"])
    copy = copies.rotated_noisy(bodies["abdomen-1"], 5)
    for data_set in copy:
        data_set.StudyInstanceUID = bodies["abdomen-1"][0].StudyInstanceUID
    assert own.add(copy)["relation"] in ("related", "unique")


@pytest.mark.both
def test_the_same_series_from_another_source_is_exact_and_says_so(
    own: Archive, bodies: Bodies
) -> None:
    own.add(bodies["limb-0"])
    row = own.add(bodies["limb-0"], source="vendor")
    assert row["relation"] == "exact"
    assert "cross_source" in flags(row)


@pytest.mark.both
def test_a_resend_makes_no_revision_and_no_duplicate(own: Archive, bodies: Bodies) -> None:
    own.add(bodies["limb-0"])
    own.receive(bodies["limb-0"])
    assert own.judge() == []
    assert own.rows("SELECT revisions, resends FROM series") == [(1, 1)]


@pytest.mark.both
def test_late_slices_open_a_revision_that_does_not_match_itself(
    own: Archive, bodies: Bodies
) -> None:
    own.add(bodies["chest-1"])
    first = own.add(bodies["head-1"][:8])
    second = own.add(bodies["head-1"][8:])
    assert (first["revision"], second["revision"]) == (0, 1)
    assert first["case_id"] == second["case_id"]
    assert second["slices"] == 16
    assert second["relation"] == "unique"


def test_a_blank_series_is_not_screenable_and_matches_no_other_blank_series(
    own: Archive,
) -> None:
    for row in (own.add(constant_series(7)), own.add(constant_series(7))):
        assert (row["relation"], row["reason"]) == ("not-screenable", "no-informative-slice")
        assert row["matched_case_id"] is None
    assert len(own.indexes.slices) == 0


@pytest.mark.both
def test_identical_slices_share_one_node_of_the_index(own: Archive, bodies: Bodies) -> None:
    body = deepcopy(bodies["head-0"])
    for data_set in body[8:]:
        data_set.PixelData = body[7].PixelData
    row = own.add(body)
    assert row["informative_slices"] > len(own.indexes.slices) > 0


def test_an_object_that_is_no_image_is_silent(own: Archive) -> None:
    report = instance()
    report.SOPClassUID, report.Modality = BasicTextSRStorage, "SR"
    del report.PixelData, report.Rows, report.Columns
    row = own.add([report])
    assert (row["relation"], row["reason"]) == ("not-an-image", "not-an-image")
    assert row["case_id"] is None


def test_a_series_that_is_partly_unreadable_is_judged_by_the_rest_and_says_so(
    own: Archive, bodies: Bodies
) -> None:
    body = deepcopy(bodies["chest-0"])
    body[3].PixelData = body[3].PixelData[:100]
    row = own.add(body)
    assert row["relation"] == "unique"
    assert row["slices"] == 15
    assert "incomplete" in flags(row)
    assert own.rows("SELECT count(*) FROM instance WHERE outcome = 'truncated-pixel-data'") == [
        (1,)
    ]


def _truncated(data_set: Dataset) -> None:
    data_set.PixelData = data_set.PixelData[:-2]


def _absurd(data_set: Dataset) -> None:
    data_set.Rows = data_set.Columns = 65535


def _bomb(data_set: Dataset) -> None:
    data_set.NumberOfFrames = 2**31 - 1


def _without_pixels(data_set: Dataset) -> None:
    del data_set.PixelData


def _unsupported(data_set: Dataset) -> None:
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = 24, 24, 23


@pytest.mark.parametrize(
    ("harm", "reasons"),
    [
        (_truncated, {"truncated-pixel-data"}),
        (_absurd, {"too-large", "truncated-pixel-data"}),
        (_bomb, {"too-large", "truncated-pixel-data"}),
        (_without_pixels, {"no-pixel-data"}),
        (_unsupported, {"unsupported-pixel-format"}),
    ],
)
def test_an_image_that_cannot_be_judged_gets_its_reason_and_the_next_one_is_judged(
    own: Archive, bodies: Bodies, harm: Any, reasons: set[str]
) -> None:
    harmed = series(1, seed=5)
    harm(harmed[0])
    row = own.add(harmed)
    assert row["relation"] == "not-screenable"
    assert row["reason"] in reasons
    assert own.add(bodies["limb-1"])["relation"] == "unique"


def test_a_file_that_vanished_from_the_spool_is_a_named_reason(
    own: Archive, bodies: Bodies
) -> None:
    own.receive(bodies["limb-1"])
    for path in (own.spool.folder / "instances").glob("*/*/*.dcm"):
        path.unlink()
    (row,) = own.judge()
    assert (row["relation"], row["reason"]) == ("not-screenable", "spool-file-lost")


@pytest.mark.both
@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda d: setattr(d, "PixelData", bytes(reversed(d.PixelData))), "pixels"),
        (lambda d: setattr(d, "PatientName", "Somebody^Else"), "identity"),
        (lambda d: d.private_block(0x0009, "TEST", create=True).add_new(1, "LO", "x"), "private"),
        (lambda d: setattr(d, "KVP", 80), "other"),
    ],
)
def test_a_known_uid_with_other_content_is_a_collision_that_names_the_part(
    own: Archive, change: Any, part: str
) -> None:
    first = series(3, seed=9)
    own.add(first)
    second = deepcopy(first)
    for data_set in second:
        data_set.SeriesInstanceUID = "1.2.3.4.5"
        data_set.StudyInstanceUID = first[0].StudyInstanceUID
    change(second[0])
    row = own.add(second)
    assert "collision" in flags(row)
    found = dict(
        own.rows("SELECT labels, value FROM counter WHERE name = 'diptych_collisions_total'")
    )
    assert json.dumps({"part": part, "source": "default"}, separators=(",", ":")) in found


def test_stacks_of_one_series_are_cases_of_their_own_and_the_largest_speaks(
    own: Archive, bodies: Bodies
) -> None:
    localizer = instance(
        bodies["head-0"][0].SeriesInstanceUID, bodies["head-0"][0].StudyInstanceUID, 99, seed=3
    )
    localizer.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    localizer.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    row = own.add([*bodies["head-0"], localizer])
    assert row["slices"] == 16
    assert own.rows("SELECT count(*) FROM verdict") == [(2,)]
    assert own.rows("SELECT count(*) FROM verdict WHERE principal") == [(1,)]


@pytest.mark.both
def test_every_verdict_keeps_a_proxy_its_evidence_and_a_chain_that_verifies(
    own: Archive, bodies: Bodies, tmp_path: Any
) -> None:
    own.add(bodies["abdomen-0"])
    own.add(copies.new_uids(bodies["abdomen-0"], 8))
    (data,) = {bytes(row[0]) for row in own.rows("SELECT data FROM proxy")}
    assert proxy.decode(data).values.ndim == 3
    assert own.rows("SELECT count(*) FROM evidence") == [(2,)]
    with own.store.read() as connection:
        found = verify.verify(connection, tmp_path / "audit-heads.jsonl")
    assert found.problems == ()
    assert found.verdicts == 2


def test_a_late_slice_after_the_purge_leaves_the_judged_whole_in_place(
    own: Archive, bodies: Bodies
) -> None:
    own.add(bodies["head-0"][:15])
    for path in (own.spool.folder / "instances").glob("*/*/*.dcm"):
        path.unlink()
    row = own.add(bodies["head-0"][15:])
    assert (row["relation"], row["reason"]) == ("not-screenable", "spool-file-lost")
    assert own.add(copies.new_uids(bodies["head-0"][:15], 6))["relation"] == "exact"


@pytest.mark.both
def test_a_series_whose_files_were_lost_is_judged_when_it_is_sent_again(
    own: Archive, bodies: Bodies
) -> None:
    own.receive(bodies["limb-0"])
    for path in (own.spool.folder / "instances").glob("*/*/*.dcm"):
        path.unlink()
    (lost,) = own.judge()
    assert lost["reason"] == "spool-file-lost"
    row = own.add(bodies["limb-0"])
    assert (row["relation"], row["slices"], row["revision"]) == ("unique", 16, 1)


def test_the_series_that_waits_next_is_decoded_ahead_and_judged_as_if_it_had_come_alone(
    own: Archive, bodies: Bodies
) -> None:
    own.receive(bodies["head-0"])
    own.receive(bodies["chest-0"])
    work.seal_complete(own.store, NOW, {})
    first = work.claim(own.store, "test", 60)
    assert first is not None
    with own.store.read() as connection:
        waiting = work.upcoming(connection)
    own.pipeline.judge(first)
    second = work.claim(own.store, "test", 60)
    assert second is not None
    assert waiting == [row.locator for row in second.instances]
    (verdict,) = own.pipeline.judge(second)
    assert (verdict.relation, verdict.slices) == ("unique", 16)
    with own.store.read() as connection:
        assert work.upcoming(connection) == []
    assert own.add(copies.new_uids(bodies["chest-0"], 7))["relation"] == "exact"


def damaged(body: list[Dataset], seed: int, noise: float) -> list[Dataset]:
    """White noise of ``noise`` of the volume's range on every voxel; a series of its own."""
    volume = np.stack([d.pixel_array for d in body]).astype(np.float64)
    low, high = volume.min(), volume.max()
    changed = volume + np.random.default_rng(seed).normal(0, noise * (high - low), volume.shape)
    changed = 1 + 4094 * (changed - changed.min()) / np.ptp(changed)
    out = copies.new_uids(body, seed)
    for data_set, plane in zip(out, changed, strict=True):
        data_set.PixelData = plane.astype(np.uint16).tobytes()
        data_set.PixelRepresentation = 0
        data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = 16, 12, 11
        data_set.SmallestImagePixelValue = data_set.LargestImagePixelValue = None
    return out


def test_a_copy_that_drowns_in_noise_is_found_by_its_layout(own: Archive, bodies: Bodies) -> None:
    originals = {name: own.add(body) for name, body in bodies.items()}
    row = own.add(damaged(bodies["abdomen-1"], 9, 0.5))
    assert row["relation"] == "near-duplicate", row["detail"]
    assert row["matched_case_id"] == originals["abdomen-1"]["case_id"]
    evidence = evidence_of(own, row)
    assert evidence["layouts"][0][0] == row["matched_case_id"]


def test_copies_of_a_copy_are_of_one_group(own: Archive, bodies: Bodies) -> None:
    first = own.add(bodies["abdomen-1"])
    own.add(bodies["chest-0"])
    rows = [own.add(copies.rotated_noisy(bodies["abdomen-1"], seed)) for seed in range(20, 26)]
    again = own.add(copies.new_uids(copies.rotated_noisy(bodies["abdomen-1"], 25), 99))
    assert {row["relation"] for row in rows} == {"near-duplicate"}
    assert {row["matched_case_id"] for row in rows} == {first["case_id"]}
    assert (again["relation"], again["matched_case_id"]) == ("exact", rows[-1]["case_id"])
    evidence = evidence_of(own, rows[-1])
    assert set(dict(evidence["groups"]).values()) == {first["case_id"]}
    assert rows[-1]["c3"] == 1.0, "the hits of the copies are those of the first"


@pytest.mark.both
def test_a_series_that_comes_after_the_newest_case_was_forgotten_is_judged(
    own: Archive, bodies: Bodies
) -> None:
    own.add(bodies["head-0"])
    forget(own.store, own.add(bodies["chest-0"])["case_id"])
    assert own.add(bodies["limb-0"])["relation"] == "unique"
    assert own.add(copies.rotated_noisy(bodies["limb-0"], 3))["relation"] == "near-duplicate"


def test_cases_of_an_earlier_version_get_the_layouts_they_would_have_had(
    own: Archive, bodies: Bodies
) -> None:
    own.add(bodies["abdomen-1"])
    own.add(bodies["chest-0"])
    made = own.rows("SELECT digest_id, version, vector FROM layout ORDER BY digest_id")
    assert len(made) == 2
    with own.store.write() as connection:
        connection.execute(text("DELETE FROM layout WHERE digest_id = 1"))
        connection.execute(text("UPDATE layout SET version = 0"))
    worker.make_layouts(own.store)
    assert own.rows("SELECT digest_id, version, vector FROM layout ORDER BY digest_id") == made
