"""Bring the database to this version's schema, or say in words why not.

The migrations are Alembic's, in ``sql/``. An SQLite database is copied (with SQLite's own backup)
before it is migrated, by whichever start comes first; PostgreSQL is migrated only by
``diptych db upgrade``, after a backup of the operator's own. A schema from a newer Diptych is
refused and left untouched.
"""

from __future__ import annotations

import secrets
import sqlite3
import uuid
from contextlib import closing
from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import insert, select

from diptych.audit import postgres
from diptych.audit.schema import site
from diptych.audit.store import Store, now
from diptych.errors import ConfigError


def scripts_folder() -> Path:
    """``sql/`` of the source tree, or its copy inside the wheel."""
    packaged = Path(str(files("diptych"))) / "_sql"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "sql"


def prepare(store: Store) -> str | None:
    """What a start does: bring SQLite up to date (see ``upgrade``), check PostgreSQL.

    Raises ConfigError with the command when PostgreSQL is not of this version.
    """
    if not store.is_postgresql:
        return upgrade(store)
    with store.read() as connection:
        postgres.check_server(connection)
    check(store)
    return None


def upgrade(store: Store) -> str | None:
    """Migrate to the newest schema; returns the backup's path if one was made."""
    newest, current, backup = newest_revision(), current_revision(store), None
    if current != newest:
        if current is not None and current not in known_revisions():
            raise ConfigError(
                f"the audit database has schema {current}, which this version does not know "
                f"(newest known: {newest}): install the newer Diptych it was written with"
            )
        if current is not None:
            backup = _backup(store, current)
        alembic = _alembic()
        with store.write() as connection:
            alembic.attributes["connection"] = connection
            command.upgrade(alembic, "head")
    with store.write() as connection:
        if connection.execute(select(site.c.id)).first() is None:
            connection.execute(
                insert(site).values(
                    id=1,
                    created_at=now(),
                    archive_uuid=str(uuid.uuid4()),
                    hmac_key=secrets.token_bytes(32),
                )
            )
    return backup


def check(store: Store) -> None:
    """Raise ConfigError unless the database has exactly this version's schema."""
    current, newest = current_revision(store), newest_revision()
    if current == newest:
        return
    if current is None and store.is_postgresql:
        raise ConfigError("the audit database is empty: `diptych db upgrade` makes its tables")
    how = "`diptych db upgrade`" if store.is_postgresql else "`diptych serve`"
    raise ConfigError(
        f"the audit database has schema {current}, this version needs {newest}: "
        f"{how} migrates an older one; a newer one needs the newer Diptych"
    )


def current_revision(store: Store) -> str | None:
    """The schema revision the database says it has; None before the first migration."""
    with store.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def newest_revision() -> str | None:
    """The schema of this version."""
    return _scripts().get_current_head()


def known_revisions() -> set[str]:
    """Every schema this version can migrate."""
    return {script.revision for script in _scripts().walk_revisions()}


def _alembic() -> AlembicConfig:
    alembic = AlembicConfig()
    alembic.set_main_option("script_location", str(scripts_folder()))
    return alembic


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic())


def _backup(store: Store, current: str) -> str | None:
    database = store.engine.url.database
    if store.engine.dialect.name != "sqlite" or not database:
        return None
    target = f"{database}.before-{current}.{now()}"
    try:
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
    except sqlite3.Error as error:
        Path(target).unlink(missing_ok=True)
        raise ConfigError(
            f"the audit database is not migrated, its backup {target} cannot be written: {error}"
        ) from error
    return target
