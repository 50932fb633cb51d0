"""The current verdict of every series, and the small notes beside them."""

from __future__ import annotations

import json
import zlib

from audit.builder import Archive, stack, uid
from diptych.audit import archive, indexing, policies, verdicts


def current(archive_: Archive, **how: object) -> list[object]:
    with archive_.store.read() as connection:
        return list(verdicts.current(connection, **how))


def test_each_series_has_one_current_verdict_of_its_newest_revision_and_principal_stack(filled):
    rows = current(filled)
    assert [(row.series_id, row.revision, row.relation, row.resends) for row in rows] == [
        (2, 0, "exact", 0),
        (3, 0, "near-duplicate", 0),
        (4, 0, "not-an-image", 0),
        (5, 0, "not-screenable", 0),
        (6, 0, "not-screenable", 0),
        (7, 0, "unique", 0),
        (1, 1, "unique", 1),
    ]
    assert [row.case_id for row in rows] == [3, 4, None, None, 5, 6, 1]


def test_current_verdicts_can_be_narrowed(filled):
    assert [row.series_id for row in current(filled, relation="unique")] == [7, 1]
    newest = current(filled)[-1].created_at
    assert [row.series_id for row in current(filled, since=newest)] == [1]
    assert current(filled, relation="exact", since=newest) == []


def test_a_verdict_row_holds_what_was_given(filled):
    [row] = current(filled, relation="exact")
    assert row.series_instance_uid == uid("2", "B")
    assert row.matched_series_instance_uid == uid("2", "A")
    assert (row.c1, row.c3, row.threshold, row.search) == (0.25, 0.75, 0.7711, "exact")
    assert json.loads(row.flags) == ["cross_source"]
    [data] = filled.rows("SELECT data FROM evidence WHERE verdict_id = ?", row.id)
    said = json.loads(zlib.decompress(data[0]))
    assert said == {"cases": [1, 2], "distances": [0.1, 0.25]}


def test_a_forgotten_series_is_still_listed_without_its_names(filled):
    filled.forget(6)
    [row] = [row for row in current(filled) if row.series_id == 7]
    assert (row.relation, row.series_instance_uid, row.case_id) == ("unique", None, 6)


def test_a_policy_is_written_and_chained_once(filled):
    for _ in range(2):
        with filled.store.write() as connection:
            policies.register(connection, "bundled/3", "{}")
    assert filled.value("SELECT count(*) FROM policy") == 2
    assert filled.value("SELECT count(*) FROM event WHERE kind = 'policy'") == 2
    assert filled.verify() == ()


def test_the_index_owner_hears_of_a_rebuild_and_of_what_was_forgotten(empty):
    with empty.store.read() as connection:
        assert indexing.rebuild_requested(connection) == 0
        assert indexing.last_forgotten(connection) == 0
    empty.judge("A", stack("a"), contents=["a"])
    indexing.request_rebuild(empty.store)
    empty.forget(1)
    with empty.store.read() as connection:
        assert indexing.rebuild_requested(connection) > 0
        assert indexing.last_forgotten(connection) == 3
        assert archive.node_keys(connection, empty.fingerprint) == set()
