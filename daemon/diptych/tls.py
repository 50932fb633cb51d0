"""TLS on every port and every call: PS3.15 annex B, the profiles that follow BCP 195 (RFC 9325,
RFC 8996).

TLS 1.2 and 1.3; of TLS 1.2 only the suites that RFC 9325 section 4.2 recommends. A server with
``authorities`` asks its peers for a certificate that one of them signed; a client always verifies.
"""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.errors import ConfigError
from diptych.log import get_logger

log = get_logger(__name__)

# RFC 9325 section 4.2: forward secrecy and authenticated encryption.
_SUITES_OF_TLS_1_2 = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384"
)
# Files are looked at again this often at most.
_LOOK_SECONDS = 1.0


class Certificates:
    """The server's certificate, its key and the authorities, read again when the files change."""

    def __init__(
        self, section: str, certificate: Path, key: Path, authorities: Path | None
    ) -> None:
        """section: the configuration's, for messages. Raises ConfigError when they cannot be
        used."""
        self._section = section
        self._files = (certificate, key, authorities)
        self._seen = self._look()
        self._context = self._read()
        self._looked_at = time.monotonic()

    @property
    def context(self) -> ssl.SSLContext:
        """What the next handshake uses. Files that cannot be used leave the last that could."""
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            found = self._look()
            # Newly written files are read once they agree: a key may follow its certificate.
            if found != self._seen:
                try:
                    self._context = self._read()
                    log.info("certificates-read", section=self._section)
                    self._seen = found
                except ConfigError as error:
                    log.error("certificates-refused", section=self._section, error=str(error))
        return self._context

    def for_asyncio(self) -> ssl.SSLContext:
        """For a server that is given one context for good: each connection gets ``context``."""
        made = _Newest(ssl.PROTOCOL_TLS_SERVER)
        made.certificates = self
        return made

    def _look(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in self._files:
            try:
                stat = path.stat() if path else None
            except OSError:
                stat = None
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat else None)
        return found

    def _read(self) -> ssl.SSLContext:
        certificate, key, authorities = self._files
        assert certificate is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _restrict(context)
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        try:
            # Without the password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(certificate, key, password="")
            if authorities is not None:
                context.load_verify_locations(authorities)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as error:  # SSLError is an OSError
            section = f"{self._section}."
            raise _unusable(section, certificate, key, authorities, error) from error
        return context


class _Newest(ssl.SSLContext):
    """asyncio asks the context for an object per connection: it is one of the newest context."""

    certificates: Certificates

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        return self.certificates.context.wrap_bio(*arguments, **named)


@dataclass(frozen=True)
class Caller:
    """How a peer is called: ``authorities``, one of whom must have signed its certificate, which
    must name the host we call unless ``check_hostname`` is False; and what we show of ourselves."""

    authorities: Path
    certificate: Path | None = None
    key: Path | None = None
    check_hostname: bool = True

    def context(self) -> Calling:
        """For one connection: files that were changed are read. Raises ConfigError."""
        context = Calling(ssl.PROTOCOL_TLS_CLIENT)
        _restrict(context)
        context.check_hostname = self.check_hostname
        # A pinned certificate, an archive's own, is an authority as well.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(self.authorities)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ValueError) as error:
            raise _unusable("", self.certificate, self.key, self.authorities, error) from error
        return context


class _Remembering(ssl.SSLSocket):
    """A library that calls for us tells only that it did not work: here is why."""

    context: Calling

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError as error:
            self.context.failure = _in_words(error)
            raise

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        try:
            return super().read(len, buffer)
        except ssl.SSLError as error:
            # With TLS 1.3 a server refuses our certificate after our handshake is over.
            if not isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError):
                self.context.failure = _in_words(error)
            raise


class Calling(ssl.SSLContext):
    """The context of one call; ``failure``: why TLS was not agreed on, empty if it was."""

    sslsocket_class = _Remembering
    failure = ""


def names_of(certificate: dict[str, Any] | None) -> frozenset[str]:
    """The names in a verified certificate, as ``getpeercert`` gives it: common name of the
    subject, DNS names, addresses and URIs."""
    if not certificate:
        return frozenset()
    common = [
        value
        for names in certificate.get("subject", ())
        for key, value in names
        if key == "commonName"
    ]
    return frozenset([*common, *(value for _, value in certificate.get("subjectAltName", ()))])


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES_OF_TLS_1_2)
    context.options |= ssl.OP_NO_RENEGOTIATION


def _unusable(
    section: str,
    certificate: Path | None,
    key: Path | None,
    authorities: Path | None,
    error: Exception,
) -> ConfigError:
    return ConfigError(
        f"{section}tls_certificate {certificate or '(none)'}, {section}tls_key "
        f"{key or '(none)'}, {section}tls_authorities {authorities or '(none)'}: "
        f"{_in_words(error)}; they are PEM files, the key without a password and of this "
        "certificate"
    )


def _in_words(error: Exception) -> str:
    """OpenSSL's reason: of a certificate that was refused, what is wrong with it."""
    said = (getattr(error, name, None) for name in ("verify_message", "reason", "strerror"))
    return next((str(one) for one in said if one), str(error))
