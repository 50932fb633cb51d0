"""Pixels are purged after their verdict, never before, and come back when they are sent again."""

from __future__ import annotations

from audit.builder import Archive, sha, stack
from diptych.audit import blobs, verdicts
from diptych.audit.store import now


def purge(archive: Archive, older_than: int | None = None, limit: int = 100) -> list[str]:
    return blobs.purge(archive.store, older_than, limit)


def judge_next(archive: Archive, content: str = "x") -> None:
    archive.seal()
    claimed = archive.claim()
    assert claimed is not None
    archive.record(claimed, stack(content))


def test_nothing_is_purged_before_its_verdict(empty):
    empty.receive("A", ["a"])
    assert purge(empty) == []
    empty.seal()
    assert purge(empty) == []
    claimed = empty.claim()
    assert claimed is not None
    assert purge(empty) == []
    empty.record(claimed, stack("a"))
    assert len(purge(empty)) == 1
    assert purge(empty) == []


def test_content_that_another_unjudged_series_holds_stays(empty):
    empty.judge("A", stack("a"), contents=["a"])
    empty.receive("B", ["a"], source="south")
    assert purge(empty) == []
    judge_next(empty)
    assert len(purge(empty)) == 1


def test_content_of_a_series_that_still_grows_stays(empty):
    empty.judge("A", stack("a"), contents=["a"])
    empty.receive("A", ["b"])
    assert purge(empty) == []
    judge_next(empty)
    assert len(purge(empty)) == 2


def test_only_what_is_old_enough_goes_the_oldest_first(empty):
    for name in ("A", "B", "C"):
        empty.judge(name, stack(name), contents=[name])
    empty.tamper("UPDATE blob SET created_at = created_at - 1000000 * (10 - id)")
    assert purge(empty, now() - 20_000_000) == []
    first = purge(empty, now() - 7_500_000, limit=1)
    assert first == [row[0] for row in empty.rows("SELECT locator FROM blob WHERE id = 1")]
    assert len(purge(empty, now() - 7_500_000)) == 1
    assert empty.value("SELECT id FROM blob WHERE purged_at IS NULL") == 3


def test_purged_bytes_are_counted_and_the_row_says_so(empty):
    empty.judge("A", stack("a"), contents=["a", "b"])
    [*locators] = purge(empty)
    assert len(locators) == 2
    assert empty.value("SELECT value FROM counter WHERE name = 'diptych_purged_bytes_total'") == 200
    assert all(blobs.was_purged(empty.store, locator) for locator in locators)
    assert blobs.known_locators(empty.store) == {}
    assert empty.verify() == ()


def test_content_received_again_after_the_purge_gets_its_new_file(empty):
    empty.judge("A", stack("a"), contents=["a"])
    [old] = purge(empty)
    [recorded] = empty.receive("B", ["a"], source="south")
    assert not recorded.bytes_known  # the file just written is the one to keep
    [new] = blobs.known_locators(empty.store)
    assert new != old
    assert not blobs.was_purged(empty.store, old)
    empty.seal()
    claimed = empty.claim()
    assert claimed is not None
    assert [(row.locator, row.purged) for row in claimed.instances] == [(new, False)]
    assert purge(empty) == []


def test_a_late_slice_after_the_purge_finds_the_earlier_ones_named_as_purged(empty):
    empty.judge("A", stack("a"), contents=["a"])
    purge(empty)
    empty.receive("A", ["b"])
    empty.seal()
    claimed = empty.claim()
    assert claimed is not None
    assert [row.purged for row in claimed.instances] == [True, False]
    lost = verdicts.InstanceOutcome(claimed.instances[0].instance_id, "spool-file-lost")
    found = verdicts.InstanceOutcome(claimed.instances[1].instance_id, "image", sha("p"))
    empty.record(claimed, stack("a+"), outcomes=[lost, found])
    # What it was known by stays, and it is no new failure.
    assert empty.rows("SELECT outcome, pixel_hash IS NULL FROM instance") == [
        ("image", 0),
        ("image", 0),
    ]
    assert empty.rows("SELECT * FROM counter WHERE name = 'diptych_failures_total'") == []


def test_a_file_that_was_never_judged_and_is_lost_is_a_counted_failure(empty):
    empty.receive("A", ["a"])
    empty.seal()
    claimed = empty.claim()
    assert claimed is not None
    lost = verdicts.InstanceOutcome(1, "spool-file-lost")
    refused = verdicts.CaseVerdict(None, True, "not-screenable", reason="spool-file-lost")
    empty.record(claimed, refused, outcomes=[lost])
    assert empty.value("SELECT outcome FROM instance") == "spool-file-lost"
    assert empty.rows(
        "SELECT labels, value FROM counter WHERE name = 'diptych_failures_total' ORDER BY 1"
    ) == [
        ('{"reason":"spool-file-lost","stage":"decode"}', 1),
        ('{"reason":"spool-file-lost","stage":"judge"}', 1),
    ]


def test_the_same_bytes_are_kept_once(empty):
    first, second = empty.receive("A", ["a"]) + empty.receive("A", ["a"])
    assert (first.bytes_known, second.bytes_known) == (False, True)
    assert empty.value("SELECT count(*) FROM blob") == 1
    assert empty.value("SELECT count(*) FROM receipt") == 2
