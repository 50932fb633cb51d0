"""What every command shares: the options for data and configuration, and errors in words."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from diptych.errors import ConfigError, DiptychError, ModelError, StoreError, UsageError

if TYPE_CHECKING:
    from diptych.audit.store import Store
    from diptych.config import Config

USAGE = 2
ENVIRONMENT = 4
# What a shell reports of a program that a closed pipe ended: 128 + SIGPIPE.
PIPE_CLOSED = 141

DataOption = Annotated[
    str | None,
    typer.Option("--data", metavar="DIR", help="Data folder (DIPTYCH_DATA; default diptych-data)."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration in TOML (DIPTYCH_CONFIG)."),
]


def load(data: str | None, config: Path | None, **sections: dict[str, Any]) -> Config:
    from diptych import config as configuration

    given = {
        name: {key: value for key, value in section.items() if value is not None}
        for name, section in sections.items()
    }
    overrides: dict[str, Any] = {name: section for name, section in given.items() if section}
    if data is not None:
        overrides["data"] = data
    return configuration.load(config, overrides)


def open_store(config: Config) -> Store:
    """The database of a data folder that exists; commands never make one."""
    from diptych.audit import migrate
    from diptych.audit.store import Store

    if not config.database.url and not (config.data / "diptych.sqlite3").exists():
        raise ConfigError(
            f"{config.data} holds no archive: start `diptych serve` there first, or name the "
            "right folder with --data or DIPTYCH_DATA"
        )
    store = Store(config.database_url)
    migrate.check(store)
    return store


def open_store_if_any(config: Config) -> Store | None:
    """The database, or None where there is no archive yet."""
    if not config.database.url and not (config.data / "diptych.sqlite3").exists():
        return None
    return open_store(config)


def moment(option: str, text: str | None) -> int | None:
    """UTC microseconds of an ISO time or an age."""
    if text is None:
        return None
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    try:
        if text[-1:] in units and text[:-1].replace(".", "", 1).isdigit():
            found = datetime.now(UTC) - timedelta(**{units[text[-1]]: float(text[:-1])})
        else:
            found = datetime.fromisoformat(text)
            found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return int(found.timestamp() * 1_000_000)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"{option} {text!r}: neither an ISO time nor an age") from error


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: the daemon it started is stopped, too."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def in_words() -> Iterator[None]:
    """Say in words what stands in the way, once, at the edge."""
    try:
        yield
        sys.stdout.flush()
    except UsageError as error:
        fail(str(error), USAGE)
    except (ConfigError, ModelError, StoreError) as error:
        fail(str(error), ENVIRONMENT)
    except DiptychError as error:
        fail(str(error), 1)
    except ImportError as error:
        fail(f"{error}: install diptych[cpu] or diptych[gpu]", ENVIRONMENT)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:
        # Nothing more can be said to who read us; not even by the interpreter's last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(PIPE_CLOSED) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}", ENVIRONMENT)


def fail(words: str, code: int) -> NoReturn:
    typer.echo(f"diptych: {words}", err=True)
    raise typer.Exit(code)
