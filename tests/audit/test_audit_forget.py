"""Forgetting: what identified a case is gone from every table and from the file itself."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select

from audit.builder import (
    Archive,
    digests_of,
    keys_of,
    nodes_of,
    sha,
    slices_of,
    stack,
    uid,
)
from diptych.audit import archive, blobs, schema
from diptych.audit.forget import UnknownCase
from diptych.audit.nodes import Nodes
from diptych.audit.store import Store
from diptych.errors import StoreError


def texts(archive_: Archive) -> str:
    """Every column of every row, as text or hexadecimal."""
    said = []
    for table in schema.metadata.sorted_tables:
        for row in archive_.rows(f'SELECT * FROM "{table.name}"'):
            said += [value.hex() if isinstance(value, bytes) else str(value) for value in row]
    return "\n".join(said)


def identifiers_of_g() -> list[str]:
    """Series G shares its study with A and B; the rest is its own."""
    return [uid("2", "G"), *(uid("9", content) for content in slices_of("g"))]


def hashes_of_g() -> list[str]:
    digests = digests_of("g")
    contents = slices_of("g")
    return [
        digests.case_digest.hex(),
        *(plane.hex() for plane in digests.planes),
        *(sha("bytes", content).hex() for content in contents),
        *(sha("prepared", content).hex() for content in contents),
        *(sha(part, sha("bytes", c).hex()).hex() for part in range(4) for c in contents),
        *(row.tobytes().hex() for row in nodes_of(*contents).vectors.astype("<f2")),
        b"proxy of g".hex(),
    ]


def test_no_identifier_and_no_content_of_a_forgotten_case_is_left_in_any_table(filled):
    before = texts(filled)
    everything = [*identifiers_of_g(), *hashes_of_g()]
    assert not [value for value in everything if value not in before]
    filled.forget(6)
    after = texts(filled)
    assert not [value for value in everything if value in after]
    assert filled.verify() == ()


@pytest.mark.sqlite
def test_nothing_of_a_forgotten_case_is_left_in_the_files_bytes(filled):
    before = filled.database.read_bytes()
    forms = [*identifiers_of_g(), *hashes_of_g()]  # some are kept as bytes, some as text
    wanted = [*(f.encode() for f in forms), *map(bytes.fromhex, hashes_of_g())]
    wanted = [value for value in wanted if value in before]
    assert len(wanted) >= len(forms)
    filled.forget(6)
    files = [p.read_bytes() for p in filled.folder.iterdir() if p.name.startswith("diptych")]
    assert not [value for value in wanted for file in files if value in file]


def test_every_stack_of_the_series_is_forgotten_with_it(filled):
    """The pixels of one stack cannot be told from those of another."""
    gone = filled.forget(2)
    assert gone.cases == (1, 2)
    assert filled.rows('SELECT id FROM "case" WHERE forgotten_at IS NOT NULL') == [(1,), (2,)]
    for table in ("digest", "embedding", "node"):
        assert filled.value(f"SELECT count(*) FROM {table} WHERE case_id IN (1, 2)") == 0
    assert filled.verify() == ()


def test_forgetting_twice_is_refused(filled):
    filled.forget(1)
    for case_id in (1, 2, 99):
        with pytest.raises(UnknownCase, match=f"case {case_id}"):
            filled.forget(case_id)
    assert filled.value("SELECT count(*) FROM event WHERE kind = 'forget'") == 1


def test_shared_nodes_go_to_the_earliest_other_case_and_others_go(filled):
    a, b, c = keys_of(filled, 1), keys_of(filled, 3), keys_of(filled, 4)
    owned = {key for (key,) in filled.rows("SELECT key FROM node WHERE case_id IN (1, 2)")}
    assert set(c) & owned == set(a[1:3])
    gone = filled.forget(1)
    heirs = dict(filled.rows("SELECT key, case_id FROM node"))
    assert {heirs[key] for key in b} == {3}  # the exact copy, earlier than C
    assert {key for key in c if heirs[key] == 4} == set(c) - set(b)
    assert set(gone.keys) == owned - set(b)
    assert not set(gone.keys) & set(heirs)


def test_after_two_of_three_holders_are_forgotten_the_third_owns_the_nodes(filled):
    c = keys_of(filled, 4)
    filled.forget(1)
    filled.forget(3)
    assert set(filled.rows("SELECT key, case_id FROM node")) >= {(key, 4) for key in c}
    with filled.store.read() as connection:
        vectors = archive.vectors(connection, 1, c, 8)
    assert vectors.shape == (4, 8)
    assert filled.verify() == ()


def test_verdicts_that_matched_it_lose_its_name_and_keep_their_own(filled):
    filled.forget(1)
    columns = "series_instance_uid, matched_series_instance_uid, matched_case_id, salt IS NULL"
    query = f"SELECT {columns}, matched_salt IS NULL FROM verdict WHERE relation = ?"
    assert filled.rows(query, "exact") == [(uid("2", "B"), None, 1, False, True)]
    assert filled.rows(query, "near-duplicate") == [(uid("2", "C"), None, 1, False, True)]


def test_bytes_of_another_series_survive_and_the_others_are_returned(filled):
    gone = filled.forget(1)  # of its five contents B holds four
    assert len(gone.locators) == 1
    kept = filled.value("SELECT count(*) FROM blob WHERE purged_at IS NULL AND sha256 IS NOT NULL")
    assert kept == filled.value("SELECT count(*) FROM blob") - 1
    assert blobs.was_purged(filled.store, gone.locators[0])
    gone = filled.forget(3)  # the forgotten series does not hold them any more
    assert len(gone.locators) == 4


def test_bytes_purged_before_are_not_returned_for_removal(filled):
    blobs.purge(filled.store, None, 1000)
    assert filled.forget(6).locators == ()
    assert sha("bytes", "g/0").hex() not in texts(filled)


def test_receipts_are_still_counted(filled):
    before = filled.value("SELECT count(*) FROM receipt")
    filled.forget(1)
    assert filled.value("SELECT count(*) FROM receipt") == before
    if not filled.store.is_postgresql:  # which checks them at every statement
        assert filled.rows("PRAGMA foreign_key_check") == []


def test_a_forgotten_series_that_is_sent_again_is_a_new_series_and_not_matched(filled):
    filled.forget(6)
    digests = digests_of("g")
    with filled.store.read() as connection:
        assert not archive.earliest_with_digest(connection, digests.case_digest, 1, 0)
        assert not archive.nodes_by_digest(connection, 1, nodes_of(*slices_of("g")).digests)
    recorded = filled.receive("G", slices_of("g"), study="A")
    assert all(r.new_content and not r.bytes_known for r in recorded)
    assert filled.seal() == 1
    claimed = filled.claim()
    assert claimed is not None
    assert (claimed.number, len(claimed.instances)) == (0, 4)
    assert not any(row.purged or row.judged_before for row in claimed.instances)
    keys = filled.record(claimed, stack("g"))
    assert min(keys) > filled.value("SELECT max(key) FROM node WHERE case_id < 7")
    filled.forget(filled.value('SELECT max(id) FROM "case"'))
    assert filled.verify() == ()


def test_two_forgotten_series_with_the_same_names_do_not_collide(filled):
    for _ in range(2):
        filled.receive("G", slices_of("g"), study="A")
        if filled.seal():
            claimed = filled.claim()
            assert claimed is not None
            filled.record(claimed, stack("g"))
        filled.forget(filled.value('SELECT max(id) FROM "case"'))
    assert filled.value("SELECT count(*) FROM series WHERE series_instance_uid IS NULL") == 2


def test_a_series_forgotten_while_it_is_received_leaves_no_work(filled):
    filled.receive("G", ["g/9"], study="A")
    filled.forget(6)
    assert filled.seal() == 0
    assert filled.claim() is None


def test_a_late_revision_that_waits_is_not_judged_any_more(filled):
    filled.receive("G", ["g/9"], study="A")
    assert filled.seal() == 1
    filled.forget(6)
    assert filled.claim() is None
    assert filled.verify() == ()


def test_a_verdict_on_a_series_forgotten_meanwhile_is_not_recorded(filled):
    filled.receive("G", ["g/9"], study="A")
    filled.seal()
    claimed = filled.claim()
    assert claimed is not None
    filled.forget(6)
    with pytest.raises(RuntimeError, match="not being judged"):
        filled.record(claimed, stack("g"))
    assert uid("2", "G") not in texts(filled)


def test_a_match_forgotten_meanwhile_sends_the_revision_back(filled):
    matched = filled.owner(6)
    reused = Nodes(reused=keys_of(filled, 6))
    filled.receive("H", ["h"])
    filled.seal()
    claimed = filled.claim()
    assert claimed is not None
    filled.forget(6)
    with pytest.raises(StoreError, match="case 6 was forgotten"):
        filled.record(claimed, stack("h", matched=matched))
    with pytest.raises(StoreError, match="nodes to be reused"):
        filled.record(claimed, stack("h", nodes=reused))
    assert uid("2", "G") not in texts(filled)
    filled.record(claimed, stack("h"))
    assert filled.verify() == ()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE verdict SET series_instance_uid = '1.2' WHERE salt IS NULL",
        "UPDATE verdict SET case_digest = 'ab' WHERE salt IS NULL",
        "UPDATE verdict SET salt = x'00' WHERE salt IS NULL",
        "UPDATE verdict SET matched_series_instance_uid = '1.2' WHERE matched_salt IS NULL",
        "INSERT INTO evidence SELECT id, 1, x'00' FROM verdict WHERE salt IS NULL",
        "UPDATE verdict SET relation = 'exact' WHERE salt IS NULL",
        'UPDATE "case" SET forgotten_at = NULL WHERE id = 6',
        'UPDATE "case" SET forgotten_at = 5 WHERE id = 5',
        "UPDATE verdict SET salt = NULL, series_instance_uid = NULL, study_instance_uid = NULL "
        "WHERE case_id = 5",
        "DELETE FROM verdict WHERE salt IS NULL",
    ],
)
def test_a_forgotten_case_is_still_guarded(filled, statement):
    filled.forget(6)
    assert filled.verify() == ()
    filled.tamper(statement)
    assert len(filled.verify()) >= 1


def test_forgotten_cases_stay_countable_in_their_delivery(filled):
    with filled.store.write() as connection:
        connection.execute(
            insert(schema.collection).values(id=1, name="owned", kind="owned", created_at=1)
        )
        connection.execute(insert(schema.membership).values(case_id=6, collection_id=1))
    filled.forget(6)
    with filled.store.read() as connection:
        assert connection.execute(select(schema.membership.c.case_id)).scalar_one() == 6


def test_forgetting_works_beside_an_open_reader(filled):
    """The daemon reads while the command writes; the log is then emptied later."""
    other = Store(filled.store.url)
    with other.read() as connection:
        connection.execute(select(schema.verdict.c.id)).all()
        quick(filled.store)
        filled.forget(6)
    other.close()
    assert filled.verify() == ()


def quick(store: Store) -> None:
    """Do not wait ten seconds for the reader."""
    if store.is_postgresql:
        return
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=50")
