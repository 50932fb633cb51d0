"""Certificate authorities of the tests' own, made by openssl."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

from running import program


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.certificate = folder / "authority.pem"
        self._key = folder / "authority.key"
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self._key)
        named = ("-subj", "/CN=authority", "-days", "30")
        usage = ("-addext", "keyUsage=critical,keyCertSign")
        new = ("-x509", "-new", "-key", self._key, *usage, *named)
        _openssl("req", *new, "-out", self.certificate)

    def issue(self, name: str, alternative: str = "DNS:localhost") -> tuple[Path, Path]:
        """A new certificate and key for ``name``."""
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, more = self.folder / "request.pem", self.folder / "more.cnf"
        # By default Python 3.13 asks for all that RFC 5280 does.
        more.write_text(f"subjectAltName={alternative}\nauthorityKeyIdentifier=keyid\n")
        _openssl("genrsa", "-out", key, "2048")
        _openssl("req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request)
        signed = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", "30")
        _openssl("x509", "-req", "-in", request, *signed, "-extfile", more, "-out", certificate)
        return certificate, key


def client_context() -> ssl.SSLContext:
    """Believes anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _openssl(*arguments: str | Path) -> None:
    subprocess.run([program("openssl"), *arguments], check=True, capture_output=True)
