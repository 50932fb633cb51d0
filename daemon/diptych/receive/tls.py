"""TLS for the listener: PS3.15 annex B, the profiles that follow BCP 195 (RFC 9325, RFC 8996).

TLS 1.2 and 1.3; of TLS 1.2 only the suites that RFC 9325 section 4.2 recommends. With
``authorities`` a peer must show a certificate that one of them signed.
"""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path
from typing import Any

from diptych.errors import ConfigError

log = logging.getLogger(__name__)

# RFC 9325 section 4.2: forward secrecy and authenticated encryption.
_SUITES_OF_TLS_1_2 = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384"
)
# Files are looked at again this often at most.
_LOOK_SECONDS = 1.0


class Certificates:
    """The server's certificate, its key and the authorities, read again when the files change."""

    def __init__(self, certificate: Path, key: Path, authorities: Path | None) -> None:
        """Raises ConfigError when they cannot be used."""
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
                    log.info("TLS: certificates read again")
                    self._seen = found
                except ConfigError as error:
                    log.error("TLS: still using the certificates read before: %s", error)
        return self._context

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
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_SUITES_OF_TLS_1_2)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        try:
            # Without the password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(certificate, key, password="")
            if authorities is not None:
                context.load_verify_locations(authorities)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise ConfigError(
                f"dicom.tls_certificate {certificate}, dicom.tls_key {key}, "
                f"dicom.tls_authorities {authorities or '(none)'}: {_in_words(error)}; they are "
                "PEM files, the key without a password and of this certificate"
            ) from error
        return context


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


def _in_words(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
