"""The schema: made from nothing, brought up to date after a backup, a newer one left alone."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from audit.builder import Archive
from diptych.audit import migrate, schema
from diptych.audit.store import Store
from diptych.errors import ConfigError, StoreError

NEXT = '''"""A later schema."""
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "9000", "{newest}", None, None
def upgrade():
    op.create_table("later", sa.Column("id", sa.Integer(), primary_key=True))
    {more}
'''


def upgrade_in_a_process(url: str, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    migrate.upgrade(Store(url))


def dump(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


@pytest.fixture
def later(tmp_path, monkeypatch):
    """A Diptych with one more migration; ``later(statement)`` adds a statement to it."""

    def make(more: str = "pass") -> None:
        folder = tmp_path / "sql"
        shutil.copytree(migrate.scripts_folder(), folder)
        text = NEXT.format(more=more, newest=migrate.newest_revision())
        (folder / "versions" / "9000_later.py").write_text(text)
        monkeypatch.setattr(migrate, "scripts_folder", lambda: folder)

    return make


def test_the_migrations_make_exactly_the_schema_of_the_code(empty):
    with empty.store.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, schema.metadata) == []


@pytest.mark.sqlite
def test_nullability_and_comments_agree_too(empty):
    with empty.store.read() as connection:
        for table in schema.metadata.sorted_tables:
            found = {
                row[1]: bool(row[3])
                for row in connection.exec_driver_sql(f'PRAGMA table_info("{table.name}")')
            }
            assert found == {c.name: not c.nullable for c in table.c}, table.name


def test_a_fresh_database_needs_no_backup_and_gets_its_key_once(tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    assert migrate.current_revision(store) is None
    with pytest.raises(ConfigError, match="has schema None"):
        migrate.check(store)
    assert migrate.upgrade(store) is None
    migrate.check(store)
    assert migrate.current_revision(store) == migrate.newest_revision()
    site = dump(tmp_path / "x.sqlite3")
    assert migrate.upgrade(store) is None
    assert dump(tmp_path / "x.sqlite3") == site
    assert [path.name for path in tmp_path.glob("*before*")] == []
    store.close()


@pytest.mark.sqlite
def test_an_older_schema_is_backed_up_and_then_migrated(filled, later):
    before, shipped = dump(filled.database), migrate.newest_revision()
    later()
    with pytest.raises(ConfigError, match="needs 9000"):
        migrate.check(filled.store)
    backup = migrate.upgrade(filled.store)
    assert backup is not None
    assert Path(backup).name.startswith(f"diptych.sqlite3.before-{shipped}.")
    assert dump(Path(backup)) == before
    assert filled.value("SELECT count(*) FROM later") == 0
    assert migrate.current_revision(filled.store) == "9000"
    assert filled.verify() == ()
    assert migrate.upgrade(filled.store) is None


@pytest.mark.sqlite
def test_an_archive_of_the_second_schema_gets_the_table_of_what_was_judged_again(filled):
    filled.tamper("UPDATE alembic_version SET version_num = '0002'")
    with closing(sqlite3.connect(filled.database)) as connection:
        connection.execute("DROP TABLE reverdict")
        connection.execute("DROP TABLE layout")
        for table in ("forward", "commitment_item", "commitment", "pull"):
            connection.execute(f"DROP TABLE {table}")
    before = dump(filled.database)
    assert migrate.upgrade(filled.store) is not None
    assert set(before) <= {
        *dump(filled.database),
        "INSERT INTO \"alembic_version\" VALUES('0002');",
    }
    assert filled.value("SELECT count(*) FROM reverdict") == 0
    assert filled.verify() == ()


@pytest.mark.sqlite
def test_a_migration_that_fails_leaves_the_database_as_it_was(filled, later):
    before = dump(filled.database)
    later('op.execute("INSERT INTO nowhere VALUES (1)")')
    with pytest.raises(StoreError, match="no such table: nowhere"):
        migrate.upgrade(filled.store)
    assert dump(filled.database) == before


@pytest.mark.sqlite
def test_without_room_for_the_backup_nothing_is_migrated(filled, later, monkeypatch):
    before = dump(filled.database)
    later()
    monkeypatch.setattr(migrate, "now", lambda: "missing/folder")
    with pytest.raises(ConfigError, match="is not migrated, its backup"):
        migrate.upgrade(filled.store)
    assert dump(filled.database) == before


@pytest.mark.sqlite
def test_a_newer_schema_is_refused_in_words_and_left_untouched(filled):
    filled.tamper("UPDATE alembic_version SET version_num = '9999'")
    before = dump(filled.database)
    for act in (migrate.upgrade, migrate.check):
        with pytest.raises(ConfigError, match=r"schema 9999.*newer Diptych"):
            act(filled.store)
    assert dump(filled.database) == before
    assert list(filled.folder.glob("*before*")) == []


def test_two_processes_that_upgrade_at_once_make_one_good_database(tmp_path):
    url = f"sqlite:///{tmp_path / 'diptych.sqlite3'}"
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    processes = [context.Process(target=upgrade_in_a_process, args=(url, start)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    archive = Archive(tmp_path)
    assert archive.value("SELECT count(*) FROM site") == 1
    assert archive.rows("PRAGMA integrity_check") == [("ok",)]
    assert archive.verify() == ()
    archive.close()
