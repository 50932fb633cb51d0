"""The tables of the configuration: what each key means, and what it may be.

``deploy/diptych.example.toml`` documents every key; a test holds the two together. Sizes are bytes
and times seconds unless the name says otherwise.
"""

from __future__ import annotations

import ipaddress
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_serializer,
    field_validator,
    model_validator,
)

from diptych.errors import ConfigError
from diptych.tls import Caller, Certificates

OTHER_SOURCE = "other"
# The driver that is tested, and whose licence asks nothing.
POSTGRESQL = "postgresql+pg8000"

# PS3.5 section 6.2, AE: up to 16 of the default character repertoire without backslash and
# control characters; spaces around it mean nothing, and it is not only spaces.
_AE_TITLE = re.compile(r"[\x20-\x5B\x5D-\x7E]{1,16}")
# PS3.5 section 9.1: components of digits without a leading zero, 64 characters in all.
_UID = re.compile(r"(?=.{1,64}\Z)(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_SOURCE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
# A PDU is held in memory while it is received (PS3.8 would allow 4 GiB).
_LARGEST_PDU = 16 * 2**20


def _ae_title(value: str) -> str:
    if not _AE_TITLE.fullmatch(value) or not value.strip():
        raise ValueError(
            "an AE title is 1 to 16 printable ASCII characters without a backslash, "
            "not all of them spaces (PS3.5 section 6.2)"
        )
    return value.strip()


def _uid(value: str) -> str:
    if not _UID.fullmatch(value):
        raise ValueError("a UID is up to 64 digits and dots, such as 1.2.840.10008.5.1.4.1.1.2")
    return value


AETitle = Annotated[str, AfterValidator(_ae_title)]
Uid = Annotated[str, AfterValidator(_uid)]
Host = Annotated[str, Field(min_length=1)]  # an empty one would mean every interface


def _path(value: Any) -> Any:
    """TOML knows no null: an empty text is none."""
    return None if value == "" else value


def _text(value: Path | None) -> str:
    return "" if value is None else str(value)


OptionalPath = Annotated[Path | None, BeforeValidator(_path), PlainSerializer(_text)]


class Section(BaseModel):
    """A table of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Port(Section):
    """Where we listen."""

    host: Host = "127.0.0.1"
    tls_certificate: OptionalPath = None
    tls_key: OptionalPath = None
    tls_authorities: OptionalPath = None

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: give both or neither")
        if self.tls_authorities is not None and self.tls_certificate is None:
            raise ValueError("tls_authorities needs tls_certificate and tls_key")
        return self

    @property
    def is_open(self) -> bool:
        """Whether others than this machine can connect."""
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name
            return self.host != "localhost"

    def certificates(self, section: str) -> Certificates | None:
        """What peers are shown, None without TLS. Raises ConfigError."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return Certificates(section, self.tls_certificate, self.tls_key, self.tls_authorities)

    @property
    def local(self) -> str:
        """Where this machine reaches it."""
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:  # a name
            return self.host
        if not address.is_unspecified:
            return self.host
        return "127.0.0.1" if address.version == 4 else "::1"

    @property
    def locally(self) -> Caller | None:
        """How our own commands call it: they know it by its certificate, whatever that names, and
        show the same where one is asked for."""
        if self.tls_certificate is None:
            return None
        mutual = self.tls_authorities is not None
        return Caller(
            authorities=self.tls_certificate,
            certificate=self.tls_certificate if mutual else None,
            key=self.tls_key if mutual else None,
            check_hostname=False,
        )


class Peer(Section):
    """Whom we call, over TLS where ``tls_authorities`` says who vouches for it."""

    host: Host
    port: int = Field(ge=1, le=65535)
    ae_title: AETitle
    tls_authorities: OptionalPath = None
    tls_certificate: OptionalPath = None
    tls_key: OptionalPath = None
    tls_check_hostname: bool = True

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: give both or neither")
        if self.tls_certificate is not None and self.tls_authorities is None:
            raise ValueError(
                "tls_certificate needs tls_authorities: nobody is called over TLS unverified"
            )
        return self

    @property
    def tls(self) -> Caller | None:
        """How it is called, None without TLS."""
        if self.tls_authorities is None:
            return None
        return Caller(
            self.tls_authorities, self.tls_certificate, self.tls_key, self.tls_check_hostname
        )


class Dicom(Port):
    """The listener."""

    port: int = Field(11112, ge=0, le=65535)
    ae_title: AETitle = "DIPTYCH"
    check_called_ae_title: bool = False
    private_sop_classes: tuple[Uid, ...] = ()
    deflated: bool = False
    big_endian: bool = False
    acceptors: int = Field(1, ge=1, le=16)
    maximum_associations: int = Field(64, ge=1, le=500)
    maximum_pending_series: int = Field(10_000, ge=0)
    maximum_pdu: int = Field(131072, ge=4096, le=_LARGEST_PDU)
    network_timeout: float = Field(60, gt=0)
    artim_timeout: float = Field(10, gt=0)
    maximum_waiting: int = Field(2048, ge=1, le=65536)
    maximum_waiting_per_address: int = Field(64, ge=1, le=65536)
    header_limit: int = Field(8 * 2**20, ge=4096)


class Source(Section):
    """Who may send: a name for the audit table and metrics, and how to recognise it."""

    name: str
    ae_titles: tuple[AETitle, ...] = ()
    networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    certificate_names: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    maximum_associations: int = Field(500, ge=1, le=500)
    alert_duplicate_ratio: float = Field(0.05, gt=0, le=1)
    alert_minimum_series: int = Field(20, ge=1)
    alert_silent_seconds: float = Field(0, ge=0)

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        if not _SOURCE_NAME.fullmatch(value):
            raise ValueError("a source name is 1 to 32 of a-z, 0-9, '_' and '-', no sign first")
        if value == OTHER_SOURCE:
            raise ValueError(f"{OTHER_SOURCE!r} is reserved for peers that no source matches")
        return value

    @field_validator("networks")
    @classmethod
    def _parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise ValueError(f"{error}; a network is such as 192.0.2.0/24 or ::1") from error
        return value

    def matches(self, ae_title: str, address: str, certificate_names: frozenset[str]) -> bool:
        """Whether a peer with this calling AE title, IP address and certificate is this source."""
        if self.ae_titles and ae_title not in self.ae_titles:
            return False
        if self.certificate_names and certificate_names.isdisjoint(self.certificate_names):
            return False
        peer = ipaddress.ip_address(address)
        mapped = getattr(peer, "ipv4_mapped", None)
        return any((mapped or peer) in ipaddress.ip_network(text) for text in self.networks)


class Forward(Peer):
    """Where everything that was received is sent on to."""

    name: str
    calling_ae_title: AETitle | Literal[""] = ""
    sources: tuple[str, ...] = ()
    maximum_associations: int = Field(1, ge=1, le=16)
    retry_seconds: float = Field(10, gt=0)
    longest_retry_seconds: float = Field(900, gt=0)
    network_timeout: float = Field(60, gt=0)
    commit: bool = False

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        if not _SOURCE_NAME.fullmatch(value):
            raise ValueError("a destination is 1 to 32 of a-z, 0-9, '_' and '-', no sign first")
        if value == OTHER_SOURCE:
            raise ValueError(f"{OTHER_SOURCE!r} is reserved for destinations no longer configured")
        return value


class Requester(Peer):
    """Who may ask for storage commitment, and where the answer goes."""


class Commitment(Section):
    """Storage Commitment Push Model (PS3.4 annex J)."""

    mode: Literal["off", "own", "relay"] = "off"
    relay_hours: float = Field(24, gt=0)
    requester: tuple[Requester, ...] = ()

    @model_validator(mode="after")
    def _requesters(self) -> Commitment:
        titles = [requester.ae_title for requester in self.requester]
        if len(set(titles)) != len(titles):
            raise ValueError("requester: every ae_title once")
        if self.mode != "off" and not titles:
            raise ValueError("requester: at least one, or nobody could be answered")
        return self


class Http(Port):
    """Health and metrics."""

    port: int = Field(8112, ge=0, le=65535)
    token_file: OptionalPath = None

    @model_validator(mode="after")
    def _closed_by_default(self) -> Http:
        if self.is_open and self.token_file is None:
            raise ValueError(
                f"host {self.host!r} opens the pages to others, and nothing says who may ask: set "
                "token_file, or listen on 127.0.0.1"
            )
        return self

    def token(self) -> str | None:
        """What requests must bear; None: nothing. Raises ConfigError."""
        if self.token_file is None:
            return None
        try:
            found = self.token_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"http.token_file {self.token_file}: {error}") from error
        if not found:
            raise ConfigError(f"http.token_file {self.token_file} is empty")
        return found


class Spool(Section):
    """Where pixels wait, and when they go."""

    min_free_bytes: int = Field(512 * 2**20, ge=0)
    keep_days: float | Literal["forever"] = 30.0
    purge_below_free_bytes: int = Field(5 * 2**30, ge=0)
    quarantine_files: int = Field(200, ge=0)
    quarantine_bytes: int = Field(2**30, ge=0)

    @field_validator("keep_days", mode="plain")
    @classmethod
    def _days(cls, value: Any) -> float | Literal["forever"]:
        if value == "forever":
            return "forever"
        try:
            days = float(value)
        except (TypeError, ValueError):
            days = -1
        if not 0 <= days < math.inf:
            raise ValueError('should be a number of days, at least 0, or "forever"')
        return days


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
    audit: float = Field(86_400, gt=0)


class Database(Section):
    """Where the audit table lives; empty: SQLite in the data folder."""

    url: str = Field("", repr=False)
    password_file: OptionalPath = None

    def with_password(self) -> str:
        """The URL with what the file holds now. Raises ConfigError when that cannot be read."""
        if self.password_file is None:
            return self.url
        from sqlalchemy import make_url

        try:
            found = self.password_file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"database.password_file {self.password_file}: {error}") from error
        if not found:
            raise ConfigError(f"database.password_file {self.password_file} is empty")
        return make_url(self.url).set(password=found).render_as_string(hide_password=False)

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password_file is None:
            return self
        if not self.url.startswith("postgresql"):
            raise ValueError("password_file needs the url of a PostgreSQL database")
        from sqlalchemy import make_url

        if make_url(self.url).password is not None:
            raise ValueError("the url holds a password, and password_file names another")
        return self

    @field_validator("url")
    @classmethod
    def _usable(cls, value: str) -> str:
        if not value:
            return value
        # Only who has a database of their own pays for this import.
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            url = make_url(value)
        except (ArgumentError, ValueError):  # whose words may hold parts of it, the password too
            raise ValueError(
                "should be such as postgresql://user:password@host:5432/diptych; signs like @ and "
                "/ in a password are written %40 and %2F"
            ) from None
        if url.drivername in ("postgresql", "postgres"):
            url = url.set(drivername=POSTGRESQL)
        if url.drivername not in (POSTGRESQL, "sqlite", "sqlite+pysqlite"):
            raise ValueError(
                f"{url.drivername} is not supported: use postgresql://… or sqlite:///FILE"
            )
        try:
            url.get_dialect().import_dbapi()
        except ImportError:
            raise ValueError(
                "the driver of PostgreSQL is missing: pip install 'diptych[postgresql]'"
            ) from None
        return url.render_as_string(hide_password=False)

    @field_serializer("url", when_used="json")
    def _without_password(self, value: str) -> str:
        """What is printed holds no secret; pickling and reading the field do."""
        if not value:
            return value
        from sqlalchemy import make_url

        return make_url(value).render_as_string(hide_password=True)


class Log(Section):
    """What is written to stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["console", "json"] = "console"
    identifiers: bool = False
