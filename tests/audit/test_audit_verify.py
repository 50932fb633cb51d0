"""`audit verify` reports every change of what was decided, and names it."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import Boolean, Column, Float, Integer, LargeBinary, event

from audit.builder import Archive, fill, stack
from diptych.audit import chain, schema, verify
from diptych.audit.verdicts import COMMITTED

# Of series C: it has a matched series, two matches and evidence.
JUDGED = "SELECT min(id) FROM verdict WHERE relation = 'near-duplicate'"


def changed(column: Column[object], value: object) -> object:
    """Another value of the column's type."""
    kind = column.type
    if isinstance(kind, Boolean):
        return not value
    if isinstance(kind, Float):
        return (value or 0.0) + 0.25
    if isinstance(kind, Integer) or "INT" in str(kind).upper():
        return (value or 0) + 1000
    if isinstance(kind, LargeBinary):
        return bytes(value or b"") + b"x"
    length = getattr(kind, "length", None) or 100
    return f"x{value or ''}"[:length]


def set_column(archive: Archive, table: str, key: str, id_: object, column: str, to: object):
    archive.tamper((f'UPDATE "{table}" SET "{column}" = ? WHERE "{key}" = ?', (to, id_)))


def test_an_untouched_archive_has_no_problems(filled):
    assert filled.verify() == ()


def test_an_empty_archive_has_no_problems(empty):
    assert empty.verify() == ()


@pytest.mark.parametrize("column", schema.verdict.c, ids=lambda c: c.name)
@pytest.mark.sqlite
def test_a_changed_verdict_column_is_named(filled, column):
    id_ = filled.value(JUDGED)
    old = filled.value(f"SELECT {column.name} FROM verdict WHERE id = ?", id_)
    set_column(filled, "verdict", "id", id_, column.name, changed(column, old))
    problems = "\n".join(filled.verify())
    assert f"verdict {id_}:" in problems
    if column.name != "id":
        first_of = {name: names[0] for salt, names in COMMITTED.values() for name in (salt, *names)}
        assert first_of.get(column.name, column.name) in problems


@pytest.mark.parametrize(
    "column", [c for c in schema.verdict.c if c.nullable], ids=lambda c: c.name
)
@pytest.mark.sqlite
def test_an_emptied_verdict_column_is_reported(filled, column):
    # The first verdict that has a value there.
    id_ = filled.value(f"SELECT min(id) FROM verdict WHERE {column.name} IS NOT NULL")
    set_column(filled, "verdict", "id", id_, column.name, None)
    assert any(problem.startswith(f"verdict {id_}:") for problem in filled.verify())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("c1", float("inf")),
        ("c1", "text"),
        ("salt", "text"),
        ("principal", 2),
        ("slices", b"\x00\xff"),
        ("flags", b"\xff"),
        ("series_instance_uid", b"\xff"),
    ],
)
@pytest.mark.sqlite
def test_a_value_of_a_foreign_type_is_reported_not_raised(filled, column, value):
    set_column(filled, "verdict", "id", filled.value(JUDGED), column, value)
    assert len(filled.verify()) >= 1


@pytest.mark.parametrize("kind", ["verdict", "policy", "resend"])
@pytest.mark.parametrize("column", schema.event.c, ids=lambda c: c.name)
@pytest.mark.sqlite
def test_a_changed_event_column_is_reported(filled, column, kind):
    seq = filled.value("SELECT min(seq) FROM event WHERE kind = ?", kind)
    old = filled.value(f"SELECT {column.name} FROM event WHERE seq = ?", seq)
    set_column(filled, "event", "seq", seq, column.name, changed(column, old))
    assert any(f"event {seq}" in problem for problem in filled.verify())


@pytest.mark.parametrize("payload", ["", "{}", "[]", "null", '{"identifiers":3}', b"\xff"])
@pytest.mark.parametrize("kind", ["verdict", "policy", "resend", "forget"])
@pytest.mark.sqlite
def test_an_unreadable_payload_is_reported_not_raised(filled, kind, payload):
    filled.forget(6)
    seq = filled.value("SELECT min(seq) FROM event WHERE kind = ?", kind)
    set_column(filled, "event", "seq", seq, "payload", payload)
    problems = filled.verify()
    assert f"event {seq}: content does not match its hash" in problems


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE match SET h = h + 1 WHERE rank = 1",
        "UPDATE match SET within = 0 WHERE rank = 1",
        "UPDATE match SET exact = TRUE WHERE rank = 1",
        "UPDATE match SET case_id = 6 WHERE rank = 1",
        "UPDATE match SET rank = 7 WHERE rank = 1",
        "DELETE FROM match WHERE rank = 1",
        "INSERT INTO match SELECT verdict_id, 2, 6, 1, 1, FALSE FROM match WHERE rank = 1",
        "INSERT INTO match SELECT id, 0, 6, 1, 1, FALSE FROM verdict "
        "WHERE relation = 'not-an-image'",
        "INSERT INTO match VALUES (999, 0, 6, 1, 1, FALSE)",
        "UPDATE match SET verdict_id = 999 WHERE rank = 1",
    ],
)
@pytest.mark.sqlite
def test_changed_added_and_removed_matches_are_reported(filled, statement):
    filled.tamper(statement)
    assert any("match" in problem for problem in filled.verify())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE evidence SET data = data || x'00'",
        "UPDATE evidence SET data = x''",
        "UPDATE evidence SET version = version + 1",
        "DELETE FROM evidence",
        "UPDATE evidence SET verdict_id = verdict_id + 1000",
        "INSERT INTO evidence SELECT id, 1, x'' FROM verdict WHERE relation = 'not-an-image'",
    ],
)
def test_changed_added_and_removed_evidence_is_reported(filled, statement):
    filled.tamper(statement)
    assert any("evidence" in problem for problem in filled.verify())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE digest SET case_digest = x'00' WHERE id = 1",
        "UPDATE digest SET case_digest = 'text' WHERE id = 1",
        "DELETE FROM digest WHERE id = 1",
        "UPDATE digest SET case_id = 6 WHERE id = 1",
    ],
)
def test_a_changed_case_digest_is_reported(filled, statement):
    filled.tamper(statement)
    assert any("its case digest is not what was decided on" in p for p in filled.verify())


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE policy SET payload = '{\"threshold\":0.1}'",
        "UPDATE policy SET name = 'other'",
        "UPDATE policy SET sha256 = 'ab'",
        "DELETE FROM policy",
        "INSERT INTO policy VALUES (9, 'more', 'ab', '{}', 1)",
    ],
)
def test_a_changed_policy_is_reported(filled, statement):
    filled.tamper(statement)
    assert any(problem.startswith("policy") for problem in filled.verify())


def test_a_policy_changed_with_its_checksum_is_reported(filled):
    payload = '{"threshold":0.1}'
    sha256 = chain.hashlib.sha256(payload.encode()).hexdigest()
    filled.tamper(("UPDATE policy SET payload = ?, sha256 = ?", (payload, sha256)))
    assert "policy bundled/3: is not what was registered" in filled.verify()


def test_a_deleted_verdict_row_is_reported(filled):
    id_ = filled.value(JUDGED)
    filled.tamper(("DELETE FROM verdict WHERE id = ?", (id_,)))
    assert f"verdict {id_}: its row is gone" in filled.verify()


def test_an_added_verdict_row_is_reported(filled):
    columns = ", ".join(c.name for c in schema.verdict.c if c.name not in ("id", "case_id"))
    filled.tamper(
        f"INSERT INTO verdict (id, case_id, {columns}) SELECT 999, NULL, {columns} FROM verdict "
        "WHERE relation = 'unique' LIMIT 1"
    )
    assert "verdict 999: no event says so" in filled.verify()


def test_an_event_deleted_in_the_middle_is_reported(filled):
    filled.tamper("DELETE FROM event WHERE seq = 4")
    problems = filled.verify()
    assert "event 4: missing (next is 5)" in problems
    assert "verdict 4: no event says so" in problems


def test_the_first_event_deleted_is_reported(filled):
    filled.tamper("DELETE FROM event WHERE seq = 1")
    assert "event 1: missing (next is 2)" in filled.verify()


def test_two_swapped_events_are_reported(filled):
    filled.tamper(
        "UPDATE event SET seq = -1 WHERE seq = 3",
        "UPDATE event SET seq = 3 WHERE seq = 4",
        "UPDATE event SET seq = 4 WHERE seq = -1",
    )
    problems = filled.verify()
    assert {"event 3: does not follow the event before it"} <= set(problems)
    assert any(problem.startswith("verdict 3:") for problem in problems)


@pytest.mark.parametrize("events", [1, 2, 5])
@pytest.mark.parametrize("with_rows", [True, False])
def test_a_chain_cut_at_its_end_is_reported(filled, events, with_rows):
    newest = filled.value("SELECT max(seq) FROM event")
    filled.tamper(("DELETE FROM event WHERE seq > ?", (newest - events,)))
    if with_rows:
        for table, key in (("match", "verdict_id"), ("evidence", "verdict_id"), ("verdict", "id")):
            delete_newer(filled, table, key, newest - events)
    problems = "\n".join(filled.verify())
    assert "which is gone: the chain was cut" in problems
    if not with_rows:
        assert f"verdict {newest}: no event says so" in problems


def test_a_chain_cut_together_with_the_head_file_is_reported(filled):
    """Rows elsewhere still know that there was a verdict, and a re-send."""
    newest = filled.value("SELECT min(seq) FROM event WHERE kind = 'resend'") - 1
    filled.tamper(("DELETE FROM event WHERE seq > ?", (newest,)))
    for table, key in (("match", "verdict_id"), ("evidence", "verdict_id"), ("verdict", "id")):
        delete_newer(filled, table, key, newest)
    heads = filled.head_file.read_text().splitlines(keepends=True)
    filled.head_file.write_text("".join(h for h in heads if json.loads(h)["seq"] <= newest))
    assert set(filled.verify()) == {
        "series 1 revision 1: judged, but no verdict says so",
        "series 1: 1 re-sends, events say 0",
    }


def delete_newer(archive: Archive, table: str, key: str, than: int) -> None:
    if archive.value(f"SELECT count(*) FROM {table} WHERE {key} > ?", than):
        archive.tamper((f"DELETE FROM {table} WHERE {key} > ?", (than,)))


def test_a_chain_rewritten_consistently_contradicts_the_head_file(filled):
    rewrite(filled)
    problems = filled.verify()
    assert problems == tuple(p for p in problems if "audit-heads.jsonl" in p)
    assert any("was rewritten" in p for p in problems)


def test_a_rewritten_chain_that_grew_on_is_still_reported(filled):
    rewrite(filled)
    filled.judge("H", stack("h"), contents=("h",))
    assert any("was rewritten" in p for p in filled.verify())


def test_a_cut_chain_that_grew_beyond_its_old_end_is_still_reported(filled):
    newest = filled.value("SELECT max(seq) FROM event")
    filled.tamper(("DELETE FROM event WHERE seq > ?", (newest - 2,)))
    delete_newer(filled, "evidence", "verdict_id", newest - 2)
    delete_newer(filled, "verdict", "id", newest - 2)
    for name in ("H", "I", "J"):
        filled.judge(name, stack(name), contents=(name,))
    assert any(f"names event {newest}, was rewritten" in p for p in filled.verify())


def rewrite(archive: Archive) -> None:
    """Someone who knows the code makes another relation true from end to end."""
    archive.tamper("UPDATE verdict SET relation = 'unique' WHERE relation = 'exact'")
    previous = chain.GENESIS
    for seq, at, kind, payload in archive.rows("SELECT seq, at, kind, payload FROM event"):
        payload = payload.replace('"relation":"exact"', '"relation":"unique"')
        hash_ = chain.link(previous, seq, at, kind, payload)
        archive.tamper(
            (
                "UPDATE event SET payload = ?, previous_hash = ?, hash = ? WHERE seq = ?",
                (payload, previous, hash_, seq),
            )
        )
        previous = hash_


def test_the_head_file_holds_one_line_per_verdict_transaction(filled):
    lines = filled.head_file.read_text().splitlines()
    assert len(lines) == filled.value("SELECT count(DISTINCT revision_id) FROM verdict") == 8
    last = json.loads(lines[-1])
    assert (last["seq"], last["hash"]) == filled.rows(
        "SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1"
    )[0]


def test_a_head_ahead_of_the_database_is_reported(filled):
    """A database restored from an older backup."""
    chain.write_head(filled.head_file, 99, "ab" * 32)
    (problem,) = filled.verify()
    assert problem == "audit-heads.jsonl: names event 99, which is gone: the chain was cut"


def test_a_head_torn_by_a_crash_is_ignored_and_replaced(filled):
    whole = filled.head_file.read_bytes()
    filled.head_file.write_bytes(whole + b'{"hash":"ab')
    assert filled.verify() == ()
    filled.judge("H", stack("h"), contents=("h",))
    assert filled.head_file.read_bytes().startswith(whole + b'{"hash":"')
    assert len(filled.head_file.read_bytes().splitlines()) == 9
    assert filled.verify() == ()


def test_a_head_torn_before_its_first_line_ended_is_replaced(empty):
    empty.head_file.write_bytes(b'{"ha')
    empty.judge("H", stack("h"), contents=("h",))
    assert len(empty.head_file.read_bytes().splitlines()) == 1
    assert empty.verify() == ()


def test_a_line_that_is_no_head_is_reported(filled):
    filled.head_file.write_text("what\n" + filled.head_file.read_text())
    assert filled.verify() == ("audit-heads.jsonl: line 1 is not a chain head",)


def test_a_missing_head_file_is_reported_once_a_crash_cannot_explain_it(empty):
    for number in range(chain.HEADS_MAY_LAG):
        empty.judge(f"S{number}", stack(f"s{number}"), contents=(f"s{number}",))
    empty.head_file.unlink()
    assert empty.verify() == ()
    empty.judge("T", stack("t"), contents=("t",))
    empty.head_file.unlink()
    assert empty.verify() == (
        "audit-heads.jsonl: missing, so a chain that was cut at its end would go unnoticed",
    )


def test_a_head_file_far_behind_is_reported(filled):
    first = filled.head_file.read_text().splitlines(keepends=True)[0]
    filled.head_file.write_text(first)
    assert filled.verify() == ("audit-heads.jsonl: 7 judged series behind the chain",)


def test_verify_reads_a_chain_longer_than_one_part(empty, monkeypatch):
    monkeypatch.setattr(chain, "_PART", 3)
    fill(empty)
    assert empty.verify() == ()


def test_no_identifier_stands_in_an_event_or_the_head_file(filled):
    uids = {row[0] for row in filled.rows("SELECT series_instance_uid FROM series")}
    uids |= {row[0] for row in filled.rows("SELECT study_instance_uid FROM series")}
    uids |= {row[0] for row in filled.rows("SELECT sop_instance_uid FROM instance")}
    text = filled.head_file.read_text() + "".join(
        row[0] for row in filled.rows("SELECT payload FROM event")
    )
    assert len(uids) > 10
    assert not [uid for uid in uids if uid in text]


def test_a_verdict_recorded_while_the_chain_is_walked_is_no_cut(filled):
    judged = []

    def judge_another(*_: object) -> None:
        if not judged:  # once, when the snapshot has begun
            judged.append(filled.judge("H", stack("h"), contents=["h"]))

    with filled.store.read() as connection:
        event.listen(connection, "after_cursor_execute", judge_another)
        assert verify.verify(connection, filled.head_file).problems == ()
    assert judged
    assert filled.verify() == ()
