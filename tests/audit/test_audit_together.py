"""Many at once, on every database: threads and processes write as if they came one by one."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from audit.builder import AT_ONCE, Archive, keys_of, nodes_of, slices_of, stack
from diptych.audit import archive, chain, counters, forget, models, receipts, verdicts, work
from diptych.audit.store import Store
from diptych.errors import StoreError

WRITERS = 6


def at_once(jobs: list[Callable[[], object]]) -> None:
    """Run these in threads that begin together; the first error is raised."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], object]) -> object:
        barrier.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as threads:
        list(threads.map(run, jobs))


def stores(archive_: Archive, number: int) -> list[Store]:
    """As many processes would have them: each with its own connections, and no lock in common."""
    return [Store(archive_.store.url) for _ in range(number)]


def test_the_same_instances_from_many_writers_are_one_series_one_blob_each_and_every_receipt(
    empty: Archive,
) -> None:
    """No unique violation answers a sender 0xA700."""
    contents = [f"c{number}" for number in range(4)]
    arrivals = [[empty.arrival("A", content) for content in contents] for _ in range(WRITERS)]
    at_once(
        [
            lambda store=store, mine=mine: [receipts.record(store, [one]) for one in mine]
            for store, mine in zip(stores(empty, WRITERS), arrivals, strict=True)
        ]
    )
    for table, rows in {"series": 1, "blob": 4, "instance": 4, "receipt": 4 * WRITERS}.items():
        assert empty.value(f"SELECT count(*) FROM {table}") == rows, table
    assert (
        empty.value("SELECT value FROM counter WHERE name = 'diptych_receipts_total'")
        == 4 * WRITERS
    )
    assert empty.rows("SELECT received_at FROM receipt ORDER BY id") == sorted(
        empty.rows("SELECT received_at FROM receipt ORDER BY id")
    )
    assert empty.seal() == 1


def test_counters_in_opposite_order_never_deadlock(empty: Archive) -> None:
    names = [f"n{number}_total" for number in range(8)]

    def count(store: Store, order: list[str]) -> None:
        for _ in range(10):
            with store.write() as connection:
                for name in order:
                    counters.increment(connection, name)

    one, two = stores(empty, 2)
    at_once([lambda: count(one, names), lambda: count(two, names[::-1])])
    with empty.store.read() as connection:
        assert set(counters.read_counters(connection).values()) == {20.0}


def test_events_of_many_writers_are_one_chain_without_a_fork(empty: Archive) -> None:
    def append(store: Store) -> None:
        for number in range(10):
            with store.write() as connection:
                chain.append(connection, models.USE, event(number))

    def event(number: int) -> dict[str, object]:
        return {"model": "m", "fingerprint": "f", "missing": number}

    at_once([lambda store=store: append(store) for store in stores(empty, WRITERS)])
    with empty.store.read() as connection:
        assert chain.walk(connection)[:2] == ([], 10 * WRITERS + 1)
    assert empty.verify() == ()


def test_a_later_commit_never_has_the_smaller_id(empty: Archive) -> None:
    """A revision holds its series up to an id: a smaller one that comes later would be missed."""
    began, ids = threading.Event(), list[int]()

    def slow() -> None:
        with Store(empty.store.url).write() as connection:
            ids.append(counted(connection))
            began.set()
            time.sleep(0.3)

    def counted(connection: object) -> int:
        from sqlalchemy import insert

        from diptych.audit import schema

        row = insert(schema.collection).values(name=f"n{len(ids)}", kind="owned", created_at=1)
        made = connection.execute(row).inserted_primary_key  # type: ignore[attr-defined]
        return int(made[0])

    thread = threading.Thread(target=slow)
    thread.start()
    began.wait()
    with empty.store.write() as connection:
        # The slow one is committed, or its id would be the smaller one.
        assert len(ids) == 1
        found = list(connection.exec_driver_sql("SELECT id FROM collection").scalars())
        assert found == ids
    thread.join()


def test_claims_of_many_workers_are_each_of_another_revision(empty: Archive) -> None:
    for number in range(12):
        empty.receive(f"S{number}", [f"s{number}"])
    assert empty.seal() == 12
    found: list[int] = []

    def claim(store: Store, owner: str) -> None:
        while claimed := work.claim(store, owner, 60):
            found.append(claimed.revision_id)

    at_once([lambda s=s, n=n: claim(s, f"w{n}") for n, s in enumerate(stores(empty, 4))])
    assert sorted(found) == sorted(set(found))
    assert len(found) == 12


def test_a_lapsed_lease_of_a_dead_worker_is_taken_over_by_one_of_many(empty: Archive) -> None:
    empty.receive("A", ["a"])
    empty.seal()
    assert work.claim(empty.store, "dead", -1) is not None
    found: list[work.Work | None] = []
    at_once(
        [
            lambda s=s, n=n: found.append(work.claim(s, f"w{n}", 60))
            for n, s in enumerate(stores(empty, 4))
        ]
    )
    (taken,) = [one for one in found if one is not None]
    assert taken.attempts == 2


def test_a_verdict_whose_search_did_not_see_another_is_refused_and_judged_again(
    empty: Archive,
) -> None:
    for name in ("A", "B"):
        empty.receive(name, [name])
    empty.seal()
    one, two = empty.claim("one"), empty.claim("two")
    assert one is not None
    assert two is not None
    with empty.store.read() as connection:
        known = verdicts.newest(connection)
    empty.record(one, stack("x"), known=known)
    with pytest.raises(StoreError, match="another worker judged meanwhile"):
        empty.record(two, stack("x"), known=known)
    assert empty.value("SELECT count(*) FROM verdict") == 1
    assert work.release(empty.store, "two", forgive=True) == 1
    again = empty.claim("two")
    assert again is not None
    with empty.store.read() as connection:
        known = verdicts.newest(connection)
    empty.record(again, stack("x"), known=known)
    assert empty.value("SELECT count(*) FROM verdict") == 2
    assert empty.verify() == ()


def test_keys_of_nodes_are_never_given_twice(empty: Archive) -> None:
    fingerprint = empty.fingerprint

    def judge(store: Store, name: str) -> None:
        mine = empty.arrival(name, name)
        receipts.record(store, [mine])
        work.seal_complete(store, AT_ONCE, {})
        while (claimed := work.claim(store, name, 60)) is not None:
            shared = nodes_of(*slices_of("same", 2), *slices_of(str(claimed.series_id), 2))
            judged = verdicts.Judged(claimed, [stack(name, nodes=shared)], [], 0.1, {})
            verdicts.record(store, judged, fingerprint)

    at_once([lambda s=s, n=n: judge(s, f"S{n}") for n, s in enumerate(stores(empty, 4))])
    with empty.store.read() as connection:
        keys = archive.node_keys(connection, fingerprint)
        assert archive.next_key(connection, fingerprint) == max(keys) + 1
        assert chain.walk(connection)[0] == []
    assert len(keys) == 2 + 4 * 2


def test_forgetting_beside_judging_leaves_whole_answers(filled: Archive) -> None:
    wanted = keys_of(filled, 1)
    assert wanted

    def judge(store: Store) -> None:
        for number in range(5):
            receipts.record(store, [filled.arrival(f"X{number}", f"x{number}")])
            work.seal_complete(store, AT_ONCE, {})

    one, two = stores(filled, 2)
    at_once([lambda: judge(one), lambda: forget.forget(two, 1)])
    assert filled.verify() == ()


def hold_for_ever(url: str, began: object) -> None:
    with Store(url).write() as connection:
        counters.increment(connection, "n_total")
        began.set()  # type: ignore[attr-defined]
        time.sleep(600)


def test_a_writer_that_is_killed_inside_its_transaction_holds_nobody_up(empty: Archive) -> None:
    context = multiprocessing.get_context("spawn")
    began = context.Event()
    process = context.Process(target=hold_for_ever, args=(empty.store.url, began))
    process.start()
    assert began.wait(60)
    process.kill()
    process.join()
    with empty.store.write() as connection:
        counters.increment(connection, "n_total")
        assert counters.read_counters(connection) == {("n_total", ()): 1.0}
