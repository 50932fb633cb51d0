"""Two workers judge one archive: connections and indexes of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from diptych.audit import verdicts, verify, work
from diptych.audit.store import Store
from diptych.demo import copies, phantoms
from diptych.demo.series import phantom_series
from diptych.embed.session import Embedder
from diptych.errors import StoreError
from diptych.volume.decoders import DecoderPool
from judged import NOW, Archive
from postgres import Server

Two = tuple[Archive, Archive]


@pytest.fixture
def two(
    tmp_path: Path, embedder: Embedder, decoders: DecoderPool, postgresql: Server
) -> Iterator[Two]:
    """Two daemons' worth of workers on one database and, so that either can, on one spool."""
    name = postgresql.create(postgresql.migrated())
    url = postgresql.url(name)
    with DecoderPool(children=1) as others:
        made = [Archive(tmp_path, embedder, pool, url) for pool in (decoders, others)]
        yield made[0], made[1]
    for archive in made:
        archive.store.close()
    postgresql.drop(name)


def body(number: int) -> list[Any]:
    recipe = phantoms.Recipe(f"b{number}", "abdomen", 80 + number, (12, 64, 64), (6.0, 4.0, 4.0))
    return phantom_series(phantoms.generate(recipe), seed=900 + number)


def judge_everything(archive: Archive, owner: str, ready: threading.Barrier) -> None:
    ready.wait()
    while claimed := work.claim(archive.store, owner, 60):
        try:
            archive.pipeline.judge(claimed)
        except StoreError:
            work.release(archive.store, owner, forgive=True)


def in_two_threads(two: Two) -> list[dict[str, Any]]:
    ready = threading.Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda n: judge_everything(two[n], f"w{n}", ready), range(2)))
    with two[0].store.read() as connection:
        return [dict(row._mapping) for row in verdicts.current(connection)]


def test_of_copies_judged_by_two_workers_at_once_one_is_unique_and_none_is_judged_twice(
    two: Two,
) -> None:
    bodies = [body(number) for number in range(3)]
    for number, one in enumerate(bodies):
        two[0].receive(one)
        two[1].receive(copies.deidentified(one, number), "vendor")
        two[1].receive(copies.rotated_noisy(one, 50 + number), "vendor")
    work.seal_complete(two[0].store, NOW, {})
    rows = in_two_threads(two)
    assert len(rows) == 9
    assert two[0].rows("SELECT count(*) FROM verdict")[0][0] == 9
    relations = sorted(row["relation"] for row in rows)
    assert relations.count("unique") == 3, relations
    assert set(relations) <= {"unique", "exact", "near-duplicate"}
    with two[0].store.read() as connection:
        found = verify.verify(connection, two[0].spool.folder.parent / "audit-heads.jsonl")
    assert found.problems == ()


def test_each_worker_finds_what_the_other_judged(two: Two) -> None:
    one, other = two
    original = body(7)
    assert one.add(original)["relation"] == "unique"
    assert len(other.indexes.slices) == 0
    row = other.add(copies.rotated_noisy(original, 3), "vendor")
    assert row["relation"] == "near-duplicate"
    assert len(other.indexes.slices) > len(one.indexes.slices) > 0
    assert one.add(copies.rotated_noisy(original, 5))["relation"] == "near-duplicate"
    assert set(one.indexes.slices.keys()) == set(other.indexes.slices.keys()) or len(
        one.indexes.slices
    ) > len(other.indexes.slices)


def test_without_the_lock_the_verdict_is_refused_rather_than_blind(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that is lost while its holder judges: the lock is gone, the verdict must not be."""
    one, other = two
    original = body(8)
    one.receive(original)
    one.receive(copies.deidentified(original, 1), "vendor")
    work.seal_complete(one.store, NOW, {})
    first, second = work.claim(one.store, "w0", 60), work.claim(other.store, "w1", 60)
    assert first is not None
    assert second is not None

    def between(self: Any, _: object) -> dict[int, set[str]]:
        monkeypatch.undo()
        kill_sessions(one.store)
        other.pipeline.judge(second)
        return {}

    monkeypatch.setattr(type(one.pipeline), "_collisions", lambda self, *_: between(self, None))
    with pytest.raises(StoreError, match="another worker judged meanwhile"):
        one.pipeline.judge(first)
    work.release(one.store, "w0", forgive=True)
    again = work.claim(one.store, "w0", 60)
    assert again is not None
    one.pipeline.judge(again)
    with one.store.read() as connection:
        found = [row.relation for row in verdicts.current(connection)]
    assert sorted(found) == ["exact", "unique"]


def kill_sessions(store: Store) -> None:
    """What a restarted server does to every lock."""
    with store.write() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
            "AND pid <> pg_backend_pid()"
        )


def test_the_lock_lets_one_judge_at_a_time(two: Two) -> None:
    inside = threading.Semaphore(1)
    overlaps: list[bool] = []

    def hold(store: Store) -> None:
        for _ in range(5):
            with store.judging():
                overlaps.append(not inside.acquire(blocking=False))
                threading.Event().wait(0.01)
                inside.release()

    jobs: list[Callable[[], None]] = [lambda a=a: hold(a.store) for a in two]  # type: ignore[misc]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda job: job(), jobs))
    assert overlaps == [False] * 10
