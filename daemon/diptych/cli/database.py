"""``diptych db``: the schema of the audit database, and whose it is."""

from __future__ import annotations

import typer

from diptych.cli.common import ConfigOption, DataOption, in_words, load
from diptych.errors import UsageError

app = typer.Typer(help="The audit database.", no_args_is_help=True)


@app.command("current")
def db_current(data: DataOption = None, config: ConfigOption = None) -> None:
    """Print the schema the database has; exit status 1 when this version needs another."""
    with in_words():
        from diptych.audit import migrate
        from diptych.audit.store import Store

        store = Store(load(data, config).database_url)
        current, newest = migrate.current_revision(store), migrate.newest_revision()
        store.close()
        typer.echo(f"schema {current or 'none'}, this version needs {newest}")
        raise typer.Exit(0 if current == newest else 1)


@app.command("upgrade")
def db_upgrade(data: DataOption = None, config: ConfigOption = None) -> None:
    """Bring the schema up to date. Stop the daemon and back the database up first: PostgreSQL is
    migrated in one transaction, and nothing takes it back. SQLite needs no command: the next start
    copies and migrates it."""
    with in_words():
        from diptych import data_folder
        from diptych.audit import daemons, migrate, postgres
        from diptych.audit.store import Store

        chosen = load(data, config)
        store = Store(chosen.database_url, patient=True)
        if store.is_postgresql:
            with store.read() as connection:
                postgres.check_server(connection)
            before = migrate.current_revision(store)
            with daemons.alone(store, lambda why: None):
                migrate.upgrade(store)
        else:
            chosen.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            with data_folder.locked(chosen.data):
                before = migrate.current_revision(store)
                migrate.upgrade(store)
        after = migrate.current_revision(store)
        store.close()
        typer.echo(f"schema {before or 'none'} → {after}" if before != after else f"schema {after}")


@app.command("adopt")
def db_adopt(data: DataOption = None, config: ConfigOption = None) -> None:
    """Make this data folder's spool the one the database speaks of, for one that is gone for good.

    The next start marks as lost what is not in it: such series keep their verdicts, and bytes that
    are sent again are kept again.
    """
    with in_words():
        from diptych import data_folder
        from diptych.audit import daemons, migrate
        from diptych.audit.store import Store
        from diptych.receive.spool import Spool

        chosen = load(data, config)
        if not chosen.database.url:
            raise UsageError("the database lies in the data folder itself: nothing to adopt")
        chosen.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with data_folder.locked(chosen.data):
            store = Store(chosen.database_url)
            migrate.check(store)
            with daemons.alone(store, lambda why: None):
                spool = Spool(chosen.spool_folder, chosen.source_names())
                spool.prepare()
                daemons.bind(store, spool.folder, by_force=True)
            store.close()
        typer.echo(f"the database speaks of {spool.folder} now")
