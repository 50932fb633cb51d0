"""The configuration: command line over ``DIPTYCH_…`` environment over TOML over defaults.

Unknown keys are refused wherever they stand. ``deploy/diptych.example.toml`` documents every key;
a test holds the two together. Sizes are bytes and times seconds unless the name says otherwise.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from diptych.errors import ConfigError

OTHER_SOURCE = "other"

# Variables of the same prefix that are no configuration keys (see ``faults`` and ``cli``).
_NOT_KEYS = {
    "DIPTYCH_CONFIG",
    "DIPTYCH_FAULT",
    "DIPTYCH_FAULT_ONCE",
    "DIPTYCH_FAULT_UNTIL",
    "DIPTYCH_SUPERVISOR_PID",
}


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Dicom(Section):
    """The listener."""

    host: str = "127.0.0.1"
    port: int = Field(11112, ge=0, le=65535)
    ae_title: str = Field("DIPTYCH", min_length=1, max_length=16)
    check_called_ae_title: bool = False
    private_sop_classes: tuple[str, ...] = ()
    deflated: bool = False
    big_endian: bool = False
    acceptors: int = Field(1, ge=1, le=16)
    maximum_associations: int = Field(64, ge=1, le=500)
    maximum_pdu: int = Field(131072, ge=4096)
    network_timeout: float = Field(60, gt=0)
    header_limit: int = Field(8 * 2**20, ge=4096)


class Source(Section):
    """Who may send: a name for the audit table and metrics, and how to recognise it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")
    ae_titles: tuple[str, ...] = ()
    networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value == OTHER_SOURCE:
            raise ValueError(f"{OTHER_SOURCE!r} is reserved")
        return value

    @field_validator("networks")
    @classmethod
    def _parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            ipaddress.ip_network(text)
        return value

    def matches(self, ae_title: str, address: str) -> bool:
        """Whether a peer with this calling AE title and IP address is this source."""
        if self.ae_titles and ae_title not in self.ae_titles:
            return False
        peer = ipaddress.ip_address(address)
        mapped = getattr(peer, "ipv4_mapped", None)
        return any((mapped or peer) in ipaddress.ip_network(text) for text in self.networks)


class Http(Section):
    """Health and metrics."""

    host: str = "127.0.0.1"
    port: int = Field(8112, ge=0, le=65535)


class Spool(Section):
    """Where pixels wait, and when they go."""

    min_free_bytes: int = Field(512 * 2**20, ge=0)
    keep_days: float = Field(30, ge=0)
    purge_below_free_bytes: int = Field(5 * 2**30, ge=0)
    quarantine_files: int = Field(200, ge=0)
    quarantine_bytes: int = Field(2**30, ge=0)


class Series(Section):
    """When a series counts as complete."""

    quiet_seconds: float = Field(10, ge=0)
    association_seconds: float = Field(60, ge=0)
    hard_limit_seconds: float = Field(3600, gt=0)


class Decode(Section):
    """Limits of the decoder children."""

    children: int = Field(1, ge=1, le=64)
    seconds_per_instance: float = Field(60, gt=0)
    memory_bytes: int = Field(4 * 2**30, ge=256 * 2**20)
    attempts: int = Field(3, ge=1)


class Model(Section):
    """Which registered model embeds the slices."""

    name: str = ""
    threads: int = Field(0, ge=0)


class Search(Section):
    """How the index answers."""

    mode: Literal["auto", "hnsw", "exact"] = "auto"
    exact_below: int = Field(20_000, ge=0)


class Jobs(Section):
    """Seconds between runs of each job."""

    seal: float = Field(1, gt=0)
    snapshot: float = Field(300, gt=0)
    purge: float = Field(600, gt=0)
    recall: float = Field(3600, gt=0)


class Database(Section):
    """Where the audit table lives; empty: SQLite in the data folder."""

    url: str = ""


class Log(Section):
    """What is written to stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Config(BaseSettings):
    """Everything the daemon and the commands need to know. Immutable and picklable."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="DIPTYCH_", env_nested_delimiter="__"
    )

    data: Path = Path("diptych-data")
    dicom: Dicom = Dicom()
    source: tuple[Source, ...] = (Source(name="default"),)
    http: Http = Http()
    spool: Spool = Spool()
    series: Series = Series()
    decode: Decode = Decode()
    model: Model = Model()
    search: Search = Search()
    jobs: Jobs = Jobs()
    database: Database = Database()
    log: Log = Log()

    _toml: ClassVar[Mapping[str, Any]] = {}

    @field_validator("data")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @model_validator(mode="after")
    def _source_names_are_unique(self) -> Config:
        names = [source.name for source in self.source]
        if not names or len(set(names)) != len(names):
            raise ValueError("source: at least one, and every name once")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line, environment, TOML; the defaults come last by themselves."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, dict(cls._toml))

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the audit database."""
        return self.database.url or f"sqlite:///{self.data / 'diptych.sqlite3'}"

    @property
    def spool_folder(self) -> Path:
        """Where instances wait for their verdict, and for the purge after it."""
        return self.data / "spool"

    @property
    def index_folder(self) -> Path:
        """Where index snapshots lie: a cache, rebuilt from SQL when missing."""
        return self.data / "index"

    def source_of(self, ae_title: str, address: str) -> str | None:
        """The name of the first source that matches the peer, or None."""
        return next((s.name for s in self.source if s.matches(ae_title, address)), None)

    def source_names(self) -> tuple[str, ...]:
        """The closed set of the metric label ``source``."""
        return (*(source.name for source in self.source), OTHER_SOURCE)


def load(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read the configuration.

    ``overrides`` are nested values from the command line. Raises ConfigError naming the key and
    what is wrong with its value.
    """
    named = os.environ.get("DIPTYCH_CONFIG")
    chosen = file or (Path(named) if named else None)
    toml: Mapping[str, Any] = {}
    if chosen is not None:
        try:
            toml = tomllib.loads(chosen.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"configuration file {chosen}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"configuration file {chosen} is not TOML: {error}") from error
    _refuse_unknown_variables()
    bound = type("Config", (Config,), {"_toml": toml, "__module__": __name__})
    try:
        values = bound(**dict(overrides or {}))
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in e['loc']) or 'configuration'}: {e['msg']}"
            for e in error.errors()
        ]
        raise ConfigError("; ".join(lines)) from error
    # A plain Config pickles to child processes; the bound class exists only to carry the file.
    return Config.model_construct(**{k: getattr(values, k) for k in Config.model_fields})


def _refuse_unknown_variables() -> None:
    prefix = "DIPTYCH_"
    known = {prefix + name.upper() for name in Config.model_fields}
    for name in os.environ:
        if not name.startswith(prefix) or name in _NOT_KEYS or name in known:
            continue
        section, nested, key = name.partition("__")
        fields = Config.model_fields.get(section.removeprefix(prefix).lower())
        table = fields.annotation if fields else None
        if (
            not nested
            or not isinstance(table, type)
            or not issubclass(table, BaseModel)
            or key.lower() not in table.model_fields
        ):
            raise ConfigError(f"environment variable {name} is not a configuration key")


__all__ = ["OTHER_SOURCE", "Config", "Source", "load"]
