"""The configuration: command line over ``DIPTYCH_…`` environment over TOML over defaults.

A key ``port`` of the table ``[dicom]`` is ``DIPTYCH_DICOM__PORT`` in the environment; lists and
``[[source]]`` tables are JSON there. Unknown keys are refused wherever they stand. A relative
``data`` is relative to the working directory, wherever it was set.

What the keys mean is in :mod:`diptych.sections`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from diptych.errors import ConfigError
from diptych.sections import (
    OTHER_SOURCE,
    Commitment,
    Database,
    Decode,
    Dicom,
    Forward,
    Http,
    Jobs,
    Log,
    Model,
    Peer,
    Search,
    Series,
    Source,
    Spool,
)

# Variables of the same prefix that are no configuration keys (see ``faults`` and ``cli``).
_NOT_KEYS = {
    "DIPTYCH_CONFIG",
    "DIPTYCH_FAULT",
    "DIPTYCH_FAULT_ONCE",
    "DIPTYCH_FAULT_UNTIL",
    "DIPTYCH_SUPERVISOR_PID",
}


class Config(BaseSettings):
    """Everything the daemon and the commands need to know. Immutable and picklable."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="DIPTYCH_", env_nested_delimiter="__"
    )

    data: Path = Path("diptych-data")
    dicom: Dicom = Dicom()
    source: tuple[Source, ...] = (Source(name="default"),)
    forward: tuple[Forward, ...] = ()
    commitment: Commitment = Commitment()
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

    @field_validator("data", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        # An unset shell variable would otherwise fill the working directory with our files.
        if isinstance(value, str) and (not value or "\0" in value):
            raise ValueError("names no folder")
        return value

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

    @model_validator(mode="after")
    def _destinations_are_unique_and_their_sources_known(self) -> Config:
        names = [forward.name for forward in self.forward]
        if len(set(names)) != len(names):
            raise ValueError("forward: every name once")
        known = {source.name for source in self.source}
        for forward in self.forward:
            for unknown in set(forward.sources) - known:
                raise ValueError(f"forward {forward.name}: no [[source]] is named {unknown!r}")
        return self

    @model_validator(mode="after")
    def _commitment_is_not_empty_words(self) -> Config:
        # Who is told "committed" may delete the originals.
        if self.commitment.mode == "own" and self.spool.keep_days != "forever":
            raise ValueError(
                'commitment.mode "own" promises to keep pixels for good: set spool.keep_days = '
                '"forever", or mode = "relay" with an archive that commits'
            )
        if self.commitment.mode == "relay" and not any(f.commit for f in self.forward):
            raise ValueError(
                'commitment.mode "relay" passes on what an archive commits: set commit = true in '
                "the [[forward]] of that archive"
            )
        return self

    @model_validator(mode="after")
    def _closed_by_default(self) -> Config:
        if self.dicom.is_open and self.source == (Source(name="default"),):
            raise ValueError(
                f"dicom.host {self.dicom.host!r} opens the listener to others, and no [[source]] "
                'says who may send: add one, such as [[source]] name = "router", '
                'ae_titles = ["ROUTER1"], networks = ["192.0.2.0/24"]'
            )
        if self.dicom.tls_authorities is None and any(s.certificate_names for s in self.source):
            raise ValueError("source: certificate_names need dicom.tls_authorities")
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Config:
        if self.dicom.port == self.http.port != 0 and self.dicom.host == self.http.host:
            raise ValueError(f"dicom.port and http.port are both {self.http.port}")
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

    def look_at_certificates(self) -> list[str]:
        """Read every certificate, key and authority; returns who uses TLS. Raises ConfigError."""
        ports = [("dicom", self.dicom), ("http", self.http)]
        used = [f"[{name}]" for name, port in ports if port.certificates(name)]
        peers: list[tuple[str, Peer]] = [(f"forward {f.name}", f) for f in self.forward]
        peers += [(f"requester {r.ae_title}", r) for r in self.commitment.requester]
        for name, peer in peers:
            if peer.tls is None:
                continue
            try:
                peer.tls.context()
            except ConfigError as error:
                raise ConfigError(f"{name}: {error}") from error
            used.append(name)
        return used

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the audit database."""
        return self.database.with_password() or f"sqlite:///{self.data / 'diptych.sqlite3'}"

    @property
    def spool_folder(self) -> Path:
        """Where instances wait for their verdict, and for the purge after it."""
        return self.data / "spool"

    @property
    def index_folder(self) -> Path:
        """Where index snapshots lie: a cache, rebuilt from SQL when missing."""
        return self.data / "index"

    @property
    def models_folder(self) -> Path:
        """Where models lie that were registered beside the bundled ones."""
        return self.data / "models"

    @property
    def deliveries_folder(self) -> Path:
        """Where deliveries lie that were screened, each in a folder of its own."""
        return self.data / "deliveries"

    def source_of(
        self, ae_title: str, address: str, certificate_names: frozenset[str] = frozenset()
    ) -> Source | None:
        """The first source that matches the peer, or None."""
        found = (s for s in self.source if s.matches(ae_title, address, certificate_names))
        return next(found, None)

    def destinations_of(self, source: str) -> tuple[str, ...]:
        """The names of the destinations that everything from this source is sent on to."""
        return tuple(f.name for f in self.forward if not f.sources or source in f.sources)

    def committing(self, source: str) -> tuple[str, ...]:
        """Those of ``destinations_of`` that are asked for storage commitment."""
        return tuple(
            f.name for f in self.forward if f.commit and (not f.sources or source in f.sources)
        )

    def destination_names(self) -> tuple[str, ...]:
        """The closed set of the metric label ``destination``."""
        return (*(forward.name for forward in self.forward), OTHER_SOURCE)

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
        raise ConfigError("; ".join(explain(e) for e in error.errors())) from None
    except SettingsError as error:
        raise ConfigError(f"environment: {error}: a list or a table is JSON there") from error
    # A plain Config pickles to child processes; the bound class exists only to carry the file.
    return Config.model_construct(**{k: getattr(values, k) for k in Config.model_fields})


def explain(error: ErrorDetails) -> str:
    """``key: what is wrong, found value``, in TOML's words rather than in Python's."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    said = {
        "tuple_type": "should be a list",
        "model_type": "should be a table",
        "missing": "is missing",
    }.get(error["type"], error["msg"].removeprefix("Value error, ").removeprefix("Input "))
    if not key:
        return said
    # A database URL may hold a password, a table everything else.
    found = error["input"]
    shown = isinstance(found, str | int | float) and not key.startswith("database")
    return f"{key}: {said}" + (f", found {found!r}" if shown else "")


def _refuse_unknown_variables() -> None:
    prefix = "DIPTYCH_"
    known = {prefix + name.upper() for name in Config.model_fields}
    for given in os.environ:
        name = given.upper()  # the settings do not distinguish case either
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
            raise ConfigError(f"environment variable {given} is not a configuration key")
