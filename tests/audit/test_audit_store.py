"""The connection: durable, one writer at a time, and silent about what it was given."""

from __future__ import annotations

import multiprocessing
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert, select, text

from diptych.audit import counters, receipts, schema
from diptych.audit.store import Store
from diptych.errors import StoreError

PATIENT = "1.2.3.4.5.6.7.8.9"


def count_in_a_process(url: str, times: int) -> None:
    store = Store(url)
    for _ in range(times):
        with store.write() as connection:
            counters.increment(connection, "n_total")
    store.close()


def test_a_write_that_raises_leaves_nothing(empty):
    def fail() -> None:
        with empty.store.write() as connection:
            counters.increment(connection, "n_total")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with empty.store.read() as connection:
        assert counters.read_counters(connection) == {}
    with empty.store.write() as connection:  # and the connection is good again
        counters.increment(connection, "n_total")


def test_a_write_that_the_database_refuses_leaves_nothing(empty):
    def refused() -> None:
        with empty.store.write() as connection:
            counters.increment(connection, "n_total")
            connection.execute(insert(schema.case).values(series_id=99, signature="", created_at=1))

    with pytest.raises(StoreError, match=r"(?i)foreign key"):
        refused()
    with empty.store.read() as connection:
        assert counters.read_counters(connection) == {}


ROW = {"name": PATIENT, "kind": "owned", "created_at": 1}


@pytest.mark.parametrize(
    "statement",
    [
        insert(schema.collection).values(ROW),
        insert(schema.collection).values({**ROW, "kind": None}),
        insert(schema.case).values(series_id=99, signature=PATIENT, created_at=1),
        text("SELECT :x FROM nowhere").bindparams(x=PATIENT),
    ],
    ids=["unique", "null", "foreign key", "no table"],
)
def test_an_error_says_nothing_of_what_was_written(empty, statement):
    def fail() -> None:
        with empty.store.write() as connection:
            connection.execute(statement)

    with empty.store.write() as connection:
        connection.execute(insert(schema.collection).values(ROW))
    with pytest.raises(StoreError) as raised:
        fail()
    assert str(raised.value).startswith("audit database: ")
    assert PATIENT not in "".join(traceback.format_exception(raised.value))


@pytest.mark.sqlite
def test_every_connection_has_wal_full_sync_and_foreign_keys(empty):
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "secure_delete": 1}
    with empty.store.read() as one, empty.store.read() as two, empty.store.write() as three:
        for connection in (one, two, three):
            found = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in wanted
            }
            assert found == wanted


def test_a_database_that_cannot_have_a_log_is_refused():
    with pytest.raises(StoreError, match="write-ahead log"), Store("sqlite://").write():
        pass


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "x.sqlite3"
    path.write_bytes(b"not a database at all, but long enough to look" * 50)
    refused = pytest.raises(StoreError, match="audit database: file is not a database")
    with refused, Store(f"sqlite:///{path}").write():
        pass


def test_a_reader_sees_one_state_while_others_write(empty):
    with empty.store.read() as reading:
        assert reading.execute(select(schema.counter)).all() == []
        with empty.store.write() as connection:
            counters.increment(connection, "n_total")
        assert reading.execute(select(schema.counter)).all() == []
    with empty.store.read() as reading:
        assert len(reading.execute(select(schema.counter)).all()) == 1


def test_a_writer_waits_for_a_writer_of_another_process(empty):
    other, began = Store(empty.store.url), threading.Event()

    def hold() -> None:
        with other.write() as connection:
            counters.increment(connection, "n_total")
            began.set()
            threading.Event().wait(0.3)

    thread = threading.Thread(target=hold)
    thread.start()
    began.wait()
    with empty.store.write() as connection:
        counters.increment(connection, "n_total")
        assert counters.read_counters(connection) == {("n_total", ()): 2.0}
    thread.join()
    other.close()


def test_writers_in_threads_and_processes_all_succeed(empty):
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=count_in_a_process, args=(empty.store.url, 25)) for _ in range(2)
    ]
    for process in processes:
        process.start()

    def write(_: int) -> None:
        for number in range(10):
            receipts.count(empty.store, "n_total", {})
            with empty.store.read() as connection:
                assert counters.read_counters(connection)[("n_total", ())] > number

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    for process in processes:
        process.join()
        assert process.exitcode == 0
    with empty.store.read() as connection:
        assert counters.read_counters(connection) == {("n_total", ()): 90.0}


@pytest.mark.sqlite
def test_emptying_the_log_leaves_every_row(filled):
    before = filled.rows("SELECT * FROM verdict")
    filled.store.scrub()
    log = filled.database.with_name("diptych.sqlite3-wal")
    assert not log.exists() or log.stat().st_size == 0
    assert filled.rows("SELECT * FROM verdict") == before
