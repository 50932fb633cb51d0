"""The data folder: its database in this version's schema, and its lock."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from diptych.audit import migrate
from diptych.audit.store import Store
from diptych.config import Config
from diptych.errors import ConfigError
from diptych.log import get_logger

log = get_logger(__name__)

# In a data folder that is being restored from a backup: nothing may be served from it.
RESTORE_UNFINISHED = "restore-unfinished"


def open_store(config: Config) -> Store:
    """The database in this version's schema. Raises ConfigError when it is another's, StoreError
    when it is away."""
    if (config.data / RESTORE_UNFINISHED).exists():
        raise ConfigError(
            f"{config.data} was not restored whole: empty it and run `diptych restore` again"
        )
    store = Store(config.database_url)
    try:
        if migrate.prepare(store):
            log.info("database-migrated")
    except BaseException:
        store.close()
        raise
    return store


class Occupied(ConfigError):
    """Another daemon holds the data folder."""


class locked:  # noqa: N801 - reads as a statement
    """Hold the data folder's lock. Raises ConfigError when another daemon holds it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"

    def __enter__(self) -> None:
        self._file = self._path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise Occupied(
                f"another daemon (process {holder}) uses the data folder {self._path.parent}: "
                "stop it, or choose another folder with --data"
            ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._file.close()
