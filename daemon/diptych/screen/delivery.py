"""Where a delivery lives: ``deliveries/NAME`` of the data folder.

    catalogue.sqlite3   what is in it (diptych.intake)
    diptych.sqlite3     an archive of its own: its cases, their verdicts, their chain
    delivery.json       what its verdicts depend on besides its files

What a delivery is to the main archive (candidate, owned, test set) stands in the main archive's
database, so that accepting one is a transaction there.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sqlalchemy import select, update

from diptych.audit import archive, migrate
from diptych.audit.schema import site
from diptych.audit.store import Store, now
from diptych.config import Config
from diptych.errors import ConfigError, UsageError
from diptych.sections import Database

# Also a source of the main archive once it is accepted, and there is room for a suffix.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,27}")
OWNED = "owned"
TEST_SET = "test-set"
RESERVED = frozenset({"delivery", OWNED, TEST_SET, "candidate"})


@dataclass(frozen=True)
class Settings:
    """What its verdicts depend on. against: the names of the collections it is compared with;
    archives: the archive_uuid of each, as names come again."""

    fingerprint: str
    policy: str
    against: tuple[str, ...]
    archives: tuple[str, ...]


@dataclass(frozen=True)
class About:
    """``delivery.json``. began: UTC microseconds, of the first run; seconds: of all runs. newest:
    the newest case of each collection that it is compared with, when it began."""

    settings: Settings
    inputs: tuple[str, ...]
    began: int
    newest: tuple[int, ...]
    seconds: float = 0.0


class Folder:
    """A delivery's folder; it need not be there yet. Raises UsageError for what is no name."""

    def __init__(self, config: Config, name: str) -> None:
        if not _NAME.fullmatch(name) or name in RESERVED:
            raise UsageError(
                f"{name!r} cannot name a delivery: up to 28 of a-z, 0-9, - and _, a letter or a "
                f"digit first, and none of {', '.join(sorted(RESERVED))}"
            )
        self.name, self.path = name, config.deliveries_folder / name
        self.config = config.model_copy(update={"data": self.path, "database": Database(url="")})
        self._about = self.path / "delivery.json"

    @property
    def exists(self) -> bool:
        """Whether something of it was judged."""
        return self._about.exists()

    @property
    def has_archive(self) -> bool:
        """False also where it was lost, or left out of what was restored."""
        return self.exists and (self.path / "diptych.sqlite3").exists()

    @property
    def head_file(self) -> Path:
        """Where the heads of its chain are written beside its database."""
        return self.path / "audit-heads.jsonl"

    def make(self) -> None:
        """For this user alone: paths, UIDs and proxies of patients will be in it."""
        for folder in (self.path.parent, self.path):
            folder.mkdir(mode=0o700, exist_ok=True)

    def begin(
        self, settings: Settings, inputs: tuple[str, ...], newest: tuple[int, ...]
    ) -> tuple[About, bool]:
        """Before judging; what was judged under other settings goes. True: so it was."""
        known = self.about() if self.exists else None
        if known is not None and known.settings == settings:
            self.write(replace(known, inputs=inputs))
            return replace(known, inputs=inputs), False
        self.clear()
        made = About(settings, inputs, now(), newest)
        self.write(made)
        return made, known is not None

    def clear(self) -> None:
        """Let go of its archive; the catalogue stays."""
        self._about.unlink(missing_ok=True)
        for path in (*self.path.glob("diptych.sqlite3*"), self.head_file):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.path / "index", ignore_errors=True)

    def about(self) -> About:
        """Raises ConfigError when it cannot be read."""
        try:
            said = json.loads(self._about.read_text("utf-8"))
            settings = said.pop("settings")
            for names, of in (("against", settings), ("archives", settings), ("inputs", said)):
                of[names] = tuple(of[names])
            said["newest"] = tuple(said["newest"])
            return About(Settings(**settings), **said)
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self._about} cannot be read: {error}; remove it") from error

    def write(self, about: About) -> None:
        temporary = self._about.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(about), indent=1) + "\n", "utf-8")
        temporary.replace(self._about)

    def open_store(self, main: Store) -> Store:
        """Its database, made where there is none; patients are hidden by the main archive's key,
        so that they can be recognised in both."""
        store = Store(self.config.database_url)
        migrate.upgrade(store)
        with main.read() as connection:
            key = archive.hmac_key(connection)
        with store.read() as connection:
            known = connection.execute(select(site.c.hmac_key)).scalar_one()
        if bytes(known) != key:
            with store.write() as connection:
                connection.execute(update(site).values(hmac_key=key))
        return store

    def remove(self) -> None:
        """All of it."""
        shutil.rmtree(self.path)
