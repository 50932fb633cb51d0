"""The life of a series between its receipts and its verdict."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from audit.builder import AT_ONCE, slices_of, stack, uid
from diptych.audit import receipts, work
from diptych.audit.store import Store, now
from diptych.errors import StoreError

RULE = work.Quiet(quiet_seconds=10, association_seconds=60, hard_limit_seconds=3600)
SECOND = 1_000_000


def test_a_series_is_sealed_after_the_quiet_period_and_not_before(empty):
    empty.receive("A", ["a"])
    empty.older(9)
    assert empty.seal(RULE) == 0
    empty.older(1)
    assert empty.seal(RULE) == 1
    assert empty.seal(RULE) == 0


def test_each_series_waits_for_its_own_quiet_period(empty):
    empty.receive("A", ["a"])
    empty.receive("B", ["b"])
    empty.older(11, "A")
    assert empty.seal(RULE) == 1
    assert empty.value("SELECT series_id FROM revision") == 1


def test_an_open_association_that_delivered_to_it_holds_it_for_a_while(empty):
    association = empty.opened()
    empty.receive("A", ["a"], association=association)
    empty.older(59)
    assert empty.seal(RULE) == 0
    empty.older(1)
    assert empty.seal(RULE) == 1


def test_an_association_is_written_down_with_its_first_instance_and_once(empty):
    opening = receipts.Opening("one", "acceptor", "north", "PEER", "127.0.0.1")
    first = empty.receive("A", ["a"], association=opening)[0]
    # As after a commit that was done and reported an error.
    again = empty.receive("A", ["b"], association=opening)[0]
    later = empty.receive("A", ["c"], association=first.association_id)[0]
    assert first.association_id == again.association_id == later.association_id
    assert empty.rows("SELECT name, acceptor, closed_at FROM association") == [
        ("one", "acceptor", None)
    ]


def test_a_closed_association_holds_nothing(empty):
    association = empty.opened()
    empty.receive("A", ["a"], association=association)
    receipts.close_associations(empty.store, [association])
    empty.older(10)
    assert empty.seal(RULE) == 1


def test_an_open_association_that_delivered_only_to_another_series_holds_nothing(empty):
    first, second = empty.opened(), empty.opened("two")
    empty.receive("A", ["a"], association=first)
    empty.receive("B", ["b"], association=second)
    receipts.close_associations(empty.store, [first])
    empty.older(10)
    assert empty.seal(RULE) == 1
    assert empty.value("SELECT series_id FROM revision") == 1


def test_one_of_two_associations_that_is_still_open_is_enough(empty):
    first, second = empty.opened(), empty.opened("two")
    empty.receive("A", ["a"], association=first)
    empty.receive("A", ["b"], association=second)
    receipts.close_associations(empty.store, [first])
    empty.older(11)
    assert empty.seal(RULE) == 0


def test_an_unfinished_transfer_holds_it_beyond_that(empty):
    association = empty.opened()
    empty.receive("A", ["a"], association=association)
    began = now()
    empty.older(600)
    assert empty.seal(RULE, one=began - 599 * SECOND) == 0
    assert empty.seal(RULE) == 1


def test_a_transfer_that_began_long_after_the_last_delivery_is_of_another_series(empty):
    association = empty.opened()
    empty.receive("A", ["a"], association=association)
    empty.older(600)
    assert empty.seal(RULE, one=now() - 500 * SECOND) == 1


def test_the_next_series_of_the_association_holds_it_no_longer_than_its_own_grace(empty):
    """A sender that goes on to another series at once, one transfer after the other."""
    association = empty.opened()
    empty.receive("A", ["a"], association=association)
    empty.older(61, "A")
    empty.receive("B", ["b"], association=association)
    assert empty.seal(RULE, one=now()) == 1
    assert empty.value("SELECT series_id FROM revision") == 1


def test_an_unfinished_transfer_of_a_foreign_association_holds_nothing(empty):
    association = empty.opened()
    empty.receive("A", ["a"], association=association)
    empty.older(61)
    assert empty.seal(RULE, two=now() - 61 * SECOND) == 1


def test_a_transfer_left_by_an_association_that_is_closed_holds_nothing(empty):
    association = empty.opened()
    empty.receive("A", ["a"], association=association)
    receipts.close_associations(empty.store, [association])
    empty.older(11)
    assert empty.seal(RULE, one=now()) == 1


@pytest.mark.parametrize(("age", "sealed"), [(3590, 0), (3601, 1)])
def test_nothing_holds_it_beyond_the_hard_limit(empty, age, sealed):
    association = empty.opened()
    empty.receive("A", ["a"], association=association)
    empty.older(age)
    assert empty.seal(RULE, one=now() - age * SECOND) == sealed


def test_a_hard_limit_below_the_grace_period_wins(empty):
    association = empty.opened()
    empty.receive("A", ["a"], association=association)
    empty.older(30)
    assert empty.seal(RULE) == 0
    assert empty.seal(replace(RULE, hard_limit_seconds=20)) == 1


def test_the_rule_outlives_a_restart(empty):
    """Everything it needs is in SQL; the dead daemon's associations are closed at the start."""
    empty.opened()
    empty.receive("A", ["a"], association=1)
    empty.older(11)
    store = Store(empty.store.url)
    assert work.seal_complete(store, RULE, {}) == []
    receipts.close_associations_of(store, None)
    assert len(work.seal_complete(store, RULE, {})) == 1
    store.close()


def test_the_death_of_one_acceptor_closes_only_its_own_associations(empty):
    empty.opened("one", "dead")
    empty.opened("two", "alive")
    receipts.close_associations_of(empty.store, "dead")
    closed = empty.rows("SELECT name FROM association WHERE closed_at IS NOT NULL")
    assert closed == [("one",)]


def test_a_slice_between_the_choice_and_the_seal_is_waited_for(empty, monkeypatch):
    empty.receive("A", ["a"])
    empty.older(11)
    may_still_grow = work._may_still_grow

    def grow(*given):
        answer = may_still_grow(*given)
        empty.receive("A", ["b"])
        return answer

    monkeypatch.setattr(work, "_may_still_grow", grow)
    assert empty.seal(RULE) == 0
    assert empty.value("SELECT count(*) FROM revision") == 0
    monkeypatch.undo()
    empty.older(10)
    assert empty.seal(RULE) == 1
    claimed = empty.claim()
    assert claimed is not None
    assert len(claimed.instances) == 2


def test_a_claim_tells_everything_about_the_revision(empty):
    empty.receive("A", ["a", "b"], source="south")
    empty.seal()
    before = now()
    claimed = empty.claim()
    assert claimed is not None
    assert (claimed.source, claimed.number, claimed.attempts) == ("south", 0, 1)
    assert claimed.study_instance_uid == uid("1", "A")
    assert claimed.series_instance_uid == uid("2", "A")
    assert [row.sop_instance_uid for row in claimed.instances] == [uid("9", "a"), uid("9", "b")]
    assert not any(row.purged or row.judged_before for row in claimed.instances)
    assert empty.value("SELECT lease_until FROM revision") >= before + 60 * SECOND


def test_a_resend_is_counted_and_chained_without_a_revision(filled):
    events = filled.value("SELECT max(seq) FROM event")
    before = filled.value("SELECT count(*) FROM revision")
    recorded = filled.receive("C", slices_of("c"))
    assert not any(r.new_content for r in recorded)
    assert all(r.bytes_known for r in recorded)
    assert filled.seal() == 0
    assert filled.claim() is None
    assert filled.value("SELECT count(*) FROM revision") == before
    assert (
        filled.value("SELECT resends FROM series WHERE series_instance_uid = ?", uid("2", "C")) == 1
    )
    said = filled.value("SELECT payload FROM event WHERE seq = ?", events + 1)
    assert json.loads(said) == {"series": 3, "source": "north"}
    labels = '{"source":"north"}'
    counted = "SELECT value FROM counter WHERE name = 'diptych_resends_total' AND labels = ?"
    assert filled.value(counted, labels) == 2
    assert filled.verify() == ()


def test_the_same_content_from_another_source_is_no_resend(filled):
    recorded = filled.receive("C", slices_of("c"), source="south")
    assert all(r.new_content and r.bytes_known for r in recorded)
    assert filled.seal() == 1


def test_a_resend_without_series_uid_is_a_resend_although_its_series_is_made_up(empty):
    empty.judge("made-up-1", stack("a"), contents=["a", "b"], synthetic=True)
    recorded = empty.receive("made-up-2", ["a", "b"], synthetic=True)
    assert [r.new_content for r in recorded] == [False, False]
    assert empty.seal() == 0
    assert empty.value("SELECT sum(resends) FROM series") == 1
    recorded = empty.receive("made-up-3", ["a", "c"], synthetic=True)
    assert [r.new_content for r in recorded] == [False, True]
    assert empty.seal() == 1
    assert empty.verify() == ()


def test_a_resend_while_the_first_is_still_received_stays_one_series(empty):
    empty.receive("A", ["a", "b"])
    recorded = empty.receive("A", ["a", "b"])
    assert not any(r.new_content for r in recorded)
    assert empty.seal() == 1
    assert empty.value("SELECT resends FROM series") == 0
    assert empty.value("SELECT count(*) FROM receipt") == 4


def test_a_late_slice_opens_a_revision_and_the_first_verdict_stays(empty):
    empty.judge("A", stack("a"), contents=["a", "b"])
    empty.receive("A", ["c"])
    assert empty.seal() == 1
    claimed = empty.claim()
    assert claimed is not None
    assert claimed.number == 1
    assert [row.judged_before for row in claimed.instances] == [True, True, False]
    empty.record(claimed, stack("a+"))
    assert empty.rows("SELECT revision FROM verdict ORDER BY id") == [(0,), (1,)]
    assert empty.rows("SELECT current FROM digest ORDER BY id") == [(0,), (1,)]
    assert empty.verify() == ()


def test_a_slice_that_comes_after_the_seal_belongs_to_the_next_revision(empty):
    empty.receive("A", ["a"])
    empty.seal()
    empty.receive("A", ["b"])
    claimed = empty.claim()
    assert claimed is not None
    assert len(claimed.instances) == 1
    empty.record(claimed, stack("a"))
    assert empty.seal() == 1
    later = empty.claim()
    assert later is not None
    assert (later.number, len(later.instances)) == (1, 2)


def test_claims_come_in_the_order_of_sealing_and_each_once(empty):
    for name in "ABC":
        empty.receive(name, [name])
        empty.seal()
    claimed = [empty.claim() for _ in range(4)]
    assert [c.series_id if c else None for c in claimed] == [1, 2, 3, None]


def test_a_lapsed_lease_is_claimed_again_and_counts_as_an_attempt(empty):
    empty.receive("A", ["a"])
    empty.seal()
    assert empty.claim("one", lease=60) is not None
    assert empty.claim("two") is None
    empty.tamper("UPDATE revision SET lease_until = 1")
    again = empty.claim("two")
    assert again is not None
    assert again.attempts == 2


def test_a_heartbeat_keeps_a_claim_but_only_its_owners(empty):
    empty.receive("A", ["a"])
    empty.seal()
    claimed = empty.claim("one")
    assert claimed is not None
    empty.tamper("UPDATE revision SET lease_until = 1")
    work.renew(empty.store, "two", 60)
    assert empty.value("SELECT lease_until FROM revision") == 1
    work.renew(empty.store, "one", 60)
    assert empty.claim("two") is None


@pytest.mark.parametrize(("forgive", "attempts"), [(True, 1), (False, 2)])
def test_a_released_claim_is_claimed_again(empty, forgive, attempts):
    empty.receive("A", ["a"])
    empty.seal()
    empty.claim("one")
    assert work.release(empty.store, "two", forgive) == 0
    assert work.release(empty.store, "one", forgive) == 1
    again = empty.claim("two")
    assert again is not None
    assert again.attempts == attempts


def test_a_start_releases_what_every_dead_worker_held(empty):
    for name in "AB":
        empty.receive(name, [name])
    empty.seal()
    empty.claim("one")
    empty.claim("two")
    assert work.release(empty.store, None, forgive=True) == 2


def test_a_revision_is_judged_once_even_after_its_lease_was_lost(empty):
    empty.receive("A", ["a"])
    empty.seal()
    first = empty.claim("one")
    empty.tamper("UPDATE revision SET lease_until = 1")
    second = empty.claim("two")
    assert first is not None
    assert second is not None
    empty.record(second, stack("a"))
    with pytest.raises(RuntimeError, match="not being judged"):
        empty.record(first, stack("a"))
    assert empty.value("SELECT count(*) FROM verdict") == 1
    assert empty.value("SELECT count(*) FROM node") == 4
    assert empty.verify() == ()


def test_two_claimers_never_get_the_same_revision(empty):
    for number in range(20):
        empty.receive(f"S{number}", [f"s{number}"])
    empty.seal()
    claimed: list[int] = []

    def take(owner: str) -> None:
        store = Store(empty.store.url)
        while found := work.claim(store, owner, 60):
            claimed.append(found.revision_id)
        store.close()

    threads = [threading.Thread(target=take, args=(f"worker {i}",)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(1, 21))


def test_pending_counts_series_and_names_the_oldest(empty):
    with empty.store.read() as connection:
        assert work.pending(connection) == (0, None)
    empty.receive("A", ["a"])
    empty.older(30)
    empty.receive("B", ["b"])
    empty.seal(replace(AT_ONCE, quiet_seconds=20))
    empty.receive("A", ["c"])  # sealed and receiving again: one series
    with empty.store.read() as connection:
        count, oldest = work.pending(connection)
    assert count == 2
    assert oldest is not None
    assert now() - oldest >= 30 * SECOND
    for _ in range(3):
        empty.seal()
        if claimed := empty.claim():
            empty.record(claimed, stack(str(claimed.revision_id)))
    with empty.store.read() as connection:
        assert work.pending(connection) == (0, None)


def test_nothing_of_a_verdict_is_kept_when_its_transaction_fails(filled, monkeypatch):
    before = {
        table: filled.value(f'SELECT count(*) FROM "{table}"')
        for table in ("verdict", "event", "digest", "plane", "node", "embedding", "case", "match")
    }
    counters = filled.rows("SELECT name, labels, value FROM counter ORDER BY 1, 2")
    filled.receive("H", ["h"])
    filled.seal()
    claimed = filled.claim()
    assert claimed is not None
    counters = filled.rows("SELECT name, labels, value FROM counter ORDER BY 1, 2")
    monkeypatch.setenv("DIPTYCH_FAULT", "judge.inside-transaction:ENOSPC@1+")
    with pytest.raises(OSError, match="No space"):
        filled.record(claimed, stack("h"))
    monkeypatch.delenv("DIPTYCH_FAULT")
    for table, count in before.items():
        assert filled.value(f'SELECT count(*) FROM "{table}"') == count, table
    assert counters == filled.rows("SELECT name, labels, value FROM counter ORDER BY 1, 2")
    filled.record(claimed, stack("h"))
    assert filled.verify() == ()


@pytest.mark.sqlite
def test_receipts_of_a_database_that_is_away_are_refused(empty):
    empty.close()
    empty.database.rename(empty.folder / "away")
    for path in empty.folder.glob("diptych.sqlite3-*"):
        path.unlink()
    empty.database.mkdir()
    with pytest.raises(StoreError, match="audit database"):
        empty.receive("A", ["a"])


def test_a_series_that_never_rests_is_sealed_at_the_hard_limit_and_reports_its_age(empty):
    empty.receive("A", ["a"])
    began = now() - 100 * work.MICROSECONDS
    empty.tamper(f"UPDATE series SET receiving_since = {began}")
    empty.receive("A", ["b"])  # just now: it is not quiet
    rule = work.Quiet(quiet_seconds=10, association_seconds=60, hard_limit_seconds=200)
    assert work.seal_complete(empty.store, rule, {}) == []
    with empty.store.read() as connection:
        assert work.pending(connection) == (1, began)
    rule = work.Quiet(quiet_seconds=10, association_seconds=60, hard_limit_seconds=50)
    assert len(work.seal_complete(empty.store, rule, {})) == 1
