"""Stored evidence judged again: rows beside the first verdicts, never over them."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from sqlalchemy import event

from audit.builder import Archive, slices_of, stack, uid
from diptych import reverdict
from diptych.audit import reverdicts, verdicts
from diptych.config import Config
from diptych.embed.manifest import load_model
from diptych.judge import replay
from diptych.judge.definition import BUNDLED, Definition, read
from diptych.judge.ladder import SliceHit, gather, judge
from diptych.judge.replay import written

MODEL = load_model()
BEFORE = BUNDLED.under(MODEL.d_max)
STRICT = read({"name": "strict", "version": 1, "d_max": 0.1})


def silent(what: str, done: int, total: int | None) -> None:
    """Progress that nobody reads."""


def near(archive: Archive, name: str, case: int | None, distance: float, **more: Any) -> None:
    """A series whose slices all lie this far from one case, judged as the path judges."""
    hits = [SliceHit(case, distance if case else math.inf)] * 4
    evidence = gather(hits, BEFORE)
    judgement = judge(evidence, BEFORE)
    match = judgement.matched_case
    one = stack(
        name,
        relation=judgement.relation.value,
        flags=tuple(judgement.flags),
        matched=None if match is None else archive.owner(match),
        model=MODEL.name,
        fingerprint=MODEL.fingerprint,
        policy=BEFORE.label,
        threshold=BEFORE.threshold,
        detail=judgement.reason,
        evidence=written(evidence, judgement),
    )
    archive.judge(name, one, contents=slices_of(name), **more)


@pytest.fixture
def judged(empty: Archive) -> Archive:
    """case 1 unique; 2 a sure copy of it; 3 and 4 copies by the shipped policy only."""
    near(empty, "A", None, 0)
    near(empty, "B", 1, 0.05)
    near(empty, "C", 1, 0.2)
    near(empty, "D", 1, 0.3)
    return empty


def again(
    archive: Archive, definition: Definition = STRICT, since: int = 0, **more: Any
) -> reverdict.Replayed:
    config = Config(data=archive.folder)
    options = {"until": None, "dry_run": False, "progress": silent, **more}
    return reverdict.reverdict(config, archive.store, definition, since, **options)


def now_said(archive: Archive, **chosen: Any) -> dict[int, Any]:
    with archive.store.read() as connection:
        return {row.case_id: row for row in verdicts.current(connection, **chosen)}


def counted(archive: Archive) -> list[Any]:
    return archive.rows("SELECT * FROM counter ORDER BY name, labels")


def test_what_differs_says_so_from_now_on_and_the_earlier_verdict_stays(judged: Archive) -> None:
    first, counters = judged.rows("SELECT * FROM verdict"), counted(judged)
    done = again(judged)
    assert (done.judged, len(done.changed), done.written) == (4, 2, 4)
    assert done.outcomes == {
        ("unique", "unique"): 1,
        ("near-duplicate", "near-duplicate"): 1,
        ("near-duplicate", "unique"): 2,
    }
    found = now_said(judged)
    assert [found[case].relation for case in (1, 2, 3, 4)] == [
        "unique", "near-duplicate", "unique", "unique"]  # fmt: skip
    assert (found[3].matched_case_id, found[3].matched_series_instance_uid) == (None, None)
    assert {row.policy for row in found.values()} == {STRICT.label}
    assert (found[2].matched_series_instance_uid) == uid("2", "A")
    assert set(now_said(judged, relation="unique")) == {1, 3, 4}
    assert judged.rows("SELECT * FROM verdict") == first
    assert counted(judged) == counters, "no alert may fire because of a policy"
    assert judged.verify() == ()


def test_a_second_time_nothing_changes(judged: Archive) -> None:
    again(judged)
    before = judged.value("SELECT max(seq) FROM event")
    done = again(judged)
    assert (done.judged, len(done.changed), done.written) == (4, 0, 0)
    assert judged.value("SELECT max(seq) FROM event") == before


def test_under_the_first_policy_nothing_ever_changed_and_the_way_back_is_exact(
    judged: Archive,
) -> None:
    done = again(judged, BUNDLED)
    assert (done.changed, done.written) == ([], 0)
    first = now_said(judged)
    again(judged)
    back = again(judged, BUNDLED)
    assert (len(back.changed), back.written) == (2, 4)
    found = now_said(judged)
    same = ("relation", "flags", "matched_case_id", "matched_series_instance_uid", "detail",
            "threshold", "policy")  # fmt: skip
    for case, row in first.items():
        assert {n: getattr(found[case], n) for n in same} == {n: getattr(row, n) for n in same}
    assert judged.value("SELECT count(*) FROM reverdict") == 8
    assert judged.verify() == ()


def test_every_verdict_judged_again_names_the_policy_it_stands_under(judged: Archive) -> None:
    same = read({"name": "same", "version": 3, "max_error": 0.14})
    done = again(judged, same)
    assert (len(done.changed), done.written) == (0, 4)
    label = same.under(MODEL.d_max).label
    assert {row.policy for row in now_said(judged).values()} == {label}
    assert judged.verify() == ()


def test_a_verdict_that_says_the_same_is_no_news_to_who_asks_for_what_is_new(
    judged: Archive,
) -> None:
    at = max(row.created_at for row in now_said(judged).values()) + 1
    again(judged)
    assert set(now_said(judged, since=at)) == {3, 4}
    again(judged, BUNDLED)  # and all is as it was first said
    assert now_said(judged, since=at) == {}


@pytest.mark.parametrize("series", [reverdict.BATCH + 3, 3 * reverdict.BATCH])
def test_a_replay_holds_the_database_for_a_few_rows_at_a_time(empty: Archive, series: int) -> None:
    near(empty, "A", None, 0)
    for number in range(1, series):
        near(empty, f"series {number}", 1, 0.2)
    rows: list[int] = []
    statements: list[int] = []

    def said(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if statement == "BEGIN IMMEDIATE" or "pg_advisory_xact_lock" in statement:
            rows.append(0)
            statements.append(0)
        elif connection.get_execution_options().get("diptych_write"):
            statements[-1] += 1
            if "INTO reverdict" in statement:
                rows[-1] += len(parameters) if many else 1

    event.listen(empty.store.engine, "before_cursor_execute", said)
    assert again(empty).written == series
    assert sum(rows) == series
    assert max(rows) == reverdict.BATCH
    # One more writes the policy down, once.
    assert len(rows) == 1 + -(-series // reverdict.BATCH)
    assert max(statements[1:]) <= 6, "however many rows"


def test_between_two_transactions_others_have_their_turn(
    judged: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's lock is not fair: who takes it at once again is the one who has it."""
    monkeypatch.setattr(reverdict, "BATCH", 1)
    slept: list[float] = []
    monkeypatch.setattr(reverdict.time, "sleep", slept.append)
    again(judged)
    assert len(slept) == 4
    assert min(slept) >= reverdict.PAUSE_SECONDS > 0


@pytest.mark.sqlite
def test_what_a_stack_says_now_is_asked_of_its_own_rows_alone(judged: Archive) -> None:
    """Else a replay of n verdicts reads n² rows."""
    again(judged)
    plans: list[str] = []

    def explained(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM verdict LEFT OUTER JOIN" in statement:
            rows = cursor.execute("EXPLAIN QUERY PLAN " + statement, parameters).fetchall()
            plans.extend(str(row[-1]) for row in rows)

    event.listen(judged.store.engine, "before_cursor_execute", explained)
    with judged.store.read() as connection:
        assert len(reverdicts.stacks(connection, 1)) == 1
    assert any("reverdict" in step for step in plans)
    assert not [step for step in plans if step.startswith("SCAN") and "reverdict" in step]


def test_a_dry_run_says_the_same_and_writes_nothing(judged: Archive) -> None:
    events = judged.value("SELECT count(*) FROM event")
    done = again(judged, dry_run=True)
    assert (len(done.changed), done.written) == (2, 0)
    assert judged.value("SELECT count(*) FROM event") == events
    assert judged.value("SELECT count(*) FROM policy WHERE name LIKE 'strict%'") == 0
    assert again(judged).written == 4


def test_only_what_was_judged_in_the_given_time_is_judged_again(judged: Archive) -> None:
    at = [row[0] for row in judged.rows("SELECT created_at FROM verdict ORDER BY id")]
    assert again(judged, since=at[3], dry_run=True).judged == 1
    assert again(judged, since=at[1], until=at[3], dry_run=True).judged == 2
    assert again(judged, since=at[3] + 1).judged == 0


def test_who_is_interrupted_goes_on(judged: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reverdict, "BATCH", 1)
    seen: list[int] = []

    def stop(what: str, done: int, total: int | None) -> None:
        seen.append(done)
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        again(judged, progress=stop)
    assert judged.value("SELECT count(*) FROM reverdict") == 3
    assert again(judged).written == 1
    assert again(judged).written == 0


def test_two_replays_at_once_write_each_change_once(judged: Archive) -> None:
    changed = again(judged, dry_run=True).changed
    assert reverdicts.record(judged.store, changed) == 2
    assert reverdicts.record(judged.store, changed) == 0
    assert judged.value("SELECT count(*) FROM reverdict") == 2


def test_cross_source_follows_the_match_and_other_flags_stay(empty: Archive) -> None:
    near(empty, "A", None, 0)
    near(empty, "B", 1, 0.2, source="south")
    again(empty)
    assert json.loads(now_said(empty)[2].flags) == []
    again(empty, BUNDLED)
    assert json.loads(now_said(empty)[2].flags) == ["cross_source"]


def test_what_was_forgotten_is_left_alone(judged: Archive) -> None:
    judged.forget(3)
    done = again(judged)
    assert done.left == {"forgotten": 1}
    assert done.written == 3
    judged.forget(1)  # the match of case 4, which is unique now
    back = again(judged, BUNDLED)
    assert back.written == 0
    assert back.left["their match was forgotten"] == 2
    assert judged.verify() == ()


def test_evidence_of_other_models_is_not_judged_by_a_d_max_that_is_not_theirs(
    filled: Archive,
) -> None:
    done = again(filled)
    assert done.judged == 0
    assert any(why.startswith("judged by model test-model") for why in done.left)


def test_evidence_of_an_unknown_version_is_left_and_named(
    empty: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "VERSION", 9)
    near(empty, "A", None, 0)
    monkeypatch.undo()
    done = again(empty)
    assert list(done.left) == ["evidence of version 9: this Diptych reads 1 to 3"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE reverdict SET relation = 'exact' WHERE id = (SELECT max(id) FROM reverdict)",
        "UPDATE reverdict SET matched_case_id = 1 WHERE id = (SELECT max(id) FROM reverdict)",
        "UPDATE reverdict SET policy = 'other' WHERE id = (SELECT max(id) FROM reverdict)",
        "UPDATE reverdict SET threshold = 1 WHERE id = (SELECT max(id) FROM reverdict)",
        "UPDATE reverdict SET verdict_id = 999 WHERE id = (SELECT max(id) FROM reverdict)",
        "UPDATE reverdict SET id = 999 WHERE id = (SELECT max(id) FROM reverdict)",
        "DELETE FROM reverdict WHERE id = (SELECT max(id) FROM reverdict)",
        "UPDATE reverdict SET detail = x'ff' WHERE id = (SELECT max(id) FROM reverdict)",
        "INSERT INTO reverdict SELECT 999, verdict_id, relation, flags, matched_case_id, "
        "threshold, detail, policy, created_at FROM reverdict LIMIT 1",
    ],
)
def test_a_changed_added_or_removed_reverdict_is_reported(judged: Archive, statement: str) -> None:
    again(judged)
    assert judged.verify() == ()
    judged.tamper(statement)
    assert any(problem.startswith("reverdict") for problem in judged.verify())
