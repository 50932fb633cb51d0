"""Daemons on PostgreSQL: one at a time, one spool, and a server that comes and goes."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import forked
from diptych.audit import daemons, migrate, schema, work
from diptych.audit.store import Store
from diptych.errors import ConfigError, StoreError
from postgres import Server
from running import Daemon, instance, send, series

MakeDaemon = Callable[..., Daemon]


@pytest.fixture
def url(postgresql: Server) -> Iterator[str]:
    """A database with this version's tables."""
    name = postgresql.create(postgresql.migrated())
    yield postgresql.url(name)
    postgresql.drop(name)


@pytest.fixture
def bare(postgresql: Server) -> Iterator[str]:
    """A database without any table."""
    name = postgresql.create()
    yield postgresql.url(name)
    postgresql.drop(name)


def diptych(*arguments: object, data: Path, url: str) -> subprocess.CompletedProcess[str]:
    return forked.run(
        [sys.executable, "-m", "diptych", *map(str, arguments), "--data", data],
        env={**__import__("os").environ, "DIPTYCH_DATABASE__URL": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refused(daemon: Daemon) -> str:
    """Start it, and see it end with status 4; what it said."""
    daemon.spawn()
    assert daemon.died(60), daemon.log()
    assert daemon.process is not None
    assert daemon.process.returncode == 4
    return daemon.log()


def judged(daemon: Daemon, count: int) -> None:
    query = "SELECT count(*) FROM revision WHERE status = 'judged'"
    daemon.wait_until(lambda: daemon.value(query) == count, f"{count} judged", 120)


def test_a_second_daemon_is_refused_and_takes_over_neither_work_nor_files(
    make_daemon: MakeDaemon, url: str
) -> None:
    first = make_daemon("one", DIPTYCH_DATABASE__URL=url).start()
    slices = series(3, seed=1)
    assert send(first.port, slices) == [0, 0, 0]
    said = refused(make_daemon("two", DIPTYCH_DATABASE__URL=url))
    assert "another daemon uses this database" in said
    assert str(first.data) in said
    judged(first, 1)
    assert len(first.kept_files()) == 3
    assert first.value("SELECT count(*) FROM blob WHERE purged_at IS NOT NULL") == 0
    # With the first one gone its files are still not the second one's.
    first.kill()
    said = refused(make_daemon("three", DIPTYCH_DATABASE__URL=url))
    assert "lie in another spool" in said
    assert "diptych db adopt" in said
    assert first.value("SELECT count(*) FROM blob WHERE purged_at IS NOT NULL") == 0
    first.start()
    assert send(first.port, slices) == [0, 0, 0]
    first.wait_until(lambda: first.value("SELECT resends FROM series") == 1, "counted", 30)


def test_a_spool_that_is_gone_for_good_is_given_up_by_a_command(
    make_daemon: MakeDaemon, url: str, tmp_path: Path
) -> None:
    first = make_daemon("one", DIPTYCH_DATABASE__URL=url).start()
    slices = series(3, seed=2)
    assert send(first.port, slices) == [0, 0, 0]
    judged(first, 1)
    done = diptych("db", "adopt", data=tmp_path / "two", url=url)
    assert done.returncode == 4
    assert "another daemon uses this database" in done.stderr
    assert first.stop() == 0
    assert diptych("db", "adopt", data=tmp_path / "two", url=url).returncode == 0
    second = make_daemon("two", DIPTYCH_DATABASE__URL=url).start()
    assert second.value("SELECT count(*) FROM blob WHERE purged_at IS NULL") == 0
    assert send(second.port, slices) == [0, 0, 0]
    second.wait_until(lambda: len(second.kept_files()) == 3, "kept again", 30)
    assert second.value("SELECT count(*) FROM blob WHERE purged_at IS NULL") == 3


def test_a_lost_session_is_taken_again_and_another_that_was_quicker_ends_the_daemon(
    url: str,
) -> None:
    one, other = Store(url), Store(url)
    lost: list[str] = []
    gone = threading.Event()

    def hear(why: str) -> None:
        lost.append(why)
        gone.set()

    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
        "AND pid <> pg_backend_pid()"
    )
    with daemons.alone(one, hear):
        with pytest.raises(daemons.Taken), daemons.alone(other, hear):
            pass
        with other.write() as connection:
            connection.exec_driver_sql(kill)
        assert not gone.wait(3), lost
        with pytest.raises(daemons.Taken), daemons.alone(other, hear):
            pass
        with other.write() as connection:
            connection.exec_driver_sql(kill)
        with daemons.alone(other, lambda why: None):
            assert gone.wait(10)
    assert "another daemon uses this database" in lost[0]


def test_the_tables_are_made_by_a_command_only(
    make_daemon: MakeDaemon, bare: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    assert "`diptych db upgrade` makes its tables" in refused(
        make_daemon(DIPTYCH_DATABASE__URL=bare)
    )
    newest = migrate.newest_revision()
    done = diptych("db", "current", data=data, url=bare)
    assert (done.returncode, done.stdout) == (1, f"schema none, this version needs {newest}\n")
    done = diptych("db", "upgrade", data=data, url=bare)
    assert (done.returncode, done.stdout) == (0, f"schema none → {newest}\n"), done.stderr
    done = diptych("db", "upgrade", data=data, url=bare)
    assert (done.returncode, done.stdout) == (0, f"schema {newest}\n")
    assert diptych("db", "current", data=data, url=bare).returncode == 0
    store = Store(bare)
    with store.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(ConfigError, match=r"schema 0001.*`diptych db upgrade`"):
        migrate.prepare(store)
    store.close()


def test_every_migration_from_the_first_to_the_last_makes_the_schema_of_the_code(
    bare: str,
) -> None:
    from alembic import command
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    store = Store(bare)
    alembic = migrate._alembic()
    for revision in sorted(migrate.known_revisions()):
        with store.write() as connection:
            alembic.attributes["connection"] = connection
            command.upgrade(alembic, revision)
        assert migrate.current_revision(store) == revision
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
    store.close()


def test_while_the_server_is_away_nothing_is_acknowledged_and_afterwards_all_goes_on(
    make_daemon: MakeDaemon,
) -> None:
    server = Server()
    try:
        url = server.url(server.create(server.migrated()))
        daemon = make_daemon(DIPTYCH_DATABASE__URL=url).start()
        slices = series(4, seed=3)
        assert send(daemon.port, slices[:2]) == [0, 0]
        supervisor = daemon.process
        server.stop()
        assert send(daemon.port, slices[2:]) == [0xA700, 0xA700]
        daemon.wait_until(lambda: daemon.get("/readyz")[0] == 503, "not ready", 30)
        assert "database" in daemon.get("/readyz")[1]
        assert daemon.get("/healthz")[0] == 200
        server.start()
        daemon.wait_until(lambda: daemon.get("/readyz")[0] == 200, "ready again", 60)
        assert send(daemon.port, slices[2:]) == [0, 0]
        judged_all = "SELECT count(*) FROM instance WHERE outcome IS NULL"
        daemon.wait_until(lambda: daemon.value(judged_all) == 0, "judged", 120)
        assert daemon.value("SELECT count(*) FROM receipt") == 4
        assert daemon.process is supervisor
        # Whoever comes now still finds the place taken.
        store = Store(url)
        with pytest.raises(daemons.Taken), daemons.alone(store, lambda why: None):
            pass
        store.close()
        assert daemon.stop() == 0
    finally:
        server.end()


def test_a_dead_daemons_work_is_taken_up_by_the_next_one_on_its_folder(
    make_daemon: MakeDaemon, url: str
) -> None:
    daemon = make_daemon(DIPTYCH_DATABASE__URL=url, DIPTYCH_FAULT="judge.begin:kill-daemon").start()
    assert send(daemon.port, series(3, seed=4)) == [0, 0, 0]
    assert daemon.died(60)
    store = Store(url)
    with store.read() as connection:
        assert work.pending(connection)[0] == 1
    store.close()
    daemon.environment.pop("DIPTYCH_FAULT")
    daemon.start()
    judged(daemon, 1)


def test_neither_the_password_nor_an_identifier_is_said_when_it_goes_wrong(
    make_daemon: MakeDaemon,
) -> None:
    url = "postgresql://somebody:S3CRET-password@127.0.0.1:1/diptych"
    said = refused(make_daemon(DIPTYCH_DATABASE__URL=url))
    assert "Connection refused" in said
    assert "S3CRET" not in said
    with (
        pytest.raises(StoreError, match="Connection refused") as raised,
        Store(url.replace("postgresql:", "postgresql+pg8000:")).write(),
    ):
        pass
    assert "S3CRET" not in str(raised.value)


def test_odd_text_from_a_sender_is_judged_like_any_other(make_daemon: MakeDaemon, url: str) -> None:
    daemon = make_daemon(DIPTYCH_DATABASE__URL=url).start()
    odd = instance(seed=9)
    odd.Modality = "X" * 300
    odd.BodyPartExamined = "HEAD\x00\x1b[2J" + "y" * 300
    odd.SeriesDescription = "\x00" * 40
    assert send(daemon.port, [odd], calling="ODD") == [0]
    judged(daemon, 1)
    (row,) = daemon.rows('SELECT body_part FROM "case"')
    assert "\x00" not in row["body_part"]
    assert len(row["body_part"]) <= 64
