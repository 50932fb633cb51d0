"""Checksums of a report's files, and an Ed25519 signature (RFC 8032) over the list of them.

``manifest.sha256`` names every other file (``sha256sum -c`` reads it); ``manifest.sha256.sig`` is
the 64 bytes of the signature; ``report.pub.pem`` is the public key, itself in the list. Whoever
changes a report can sign it anew with a key of their own: only the *fingerprint* of a key that is
known from elsewhere says who signed.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from diptych.errors import ConfigError, UsageError

MANIFEST = "manifest.sha256"
SIGNATURE = "manifest.sha256.sig"
PUBLIC_KEY = "report.pub.pem"
KEY = "report-signing.pem"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\0\n]+)")
_HASH = "SHA256:"
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_LARGEST_MANIFEST = 4 * 2**20
_CHUNK = 2**20


def signing_key(data: Path) -> Ed25519PrivateKey:
    """The data folder's key, made at first use; only its owner can read it.

    ConfigError: what is there is no such key, or others can read it.
    """
    path = data / KEY
    if not path.exists():
        _make(path)
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} can be read by others: chmod 600 it, or remove it for a new key")
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is no private key in PEM: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is no Ed25519 key")
    return key


def _make(path: Path) -> None:
    content = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    try:
        os.link(new, path)  # of two that make one at once, the first stays
    except FileExistsError:
        pass
    finally:
        new.unlink()


def secret_of(key: Ed25519PrivateKey) -> bytes:
    """What the numbers in a vendor's copy are salted with."""
    raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return hashlib.sha256(b"diptych vendor copy\0" + raw).digest()


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of the key's SubjectPublicKeyInfo, in base64: short enough to be read out."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _HASH + base64.b64encode(hashlib.sha256(spki).digest()).decode().rstrip("=")


def seal(folder: Path, key: Ed25519PrivateKey) -> None:
    """List and sign all that is in ``folder``; to be done last."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / PUBLIC_KEY).write_bytes(pem)
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in sorted(_files(folder))]
    manifest = "".join(lines).encode()
    (folder / MANIFEST).write_bytes(manifest)
    (folder / SIGNATURE).write_bytes(key.sign(manifest))


@dataclass(frozen=True)
class Seal:
    """What became of a report since it was signed. fingerprint: of the key that is in it, empty
    where there is none. problems: each in words, empty when all is as signed."""

    fingerprint: str
    files: int
    problems: tuple[str, ...]


def check(folder: Path, expected: Ed25519PublicKey | str | None = None) -> Seal:
    """Whether a report is as it was signed; ``expected``: a key, or its fingerprint.

    UsageError: ``folder`` is no report.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise UsageError(f"{folder} is no report: it has no {MANIFEST}")
    if manifest.stat().st_size > _LARGEST_MANIFEST:
        raise UsageError(f"{manifest} is larger than any report's")
    content = manifest.read_bytes()
    key, problems = _shipped(folder)
    wanted = expected if isinstance(expected, Ed25519PublicKey) else key
    found = "" if key is None else fingerprint(key)
    if isinstance(expected, Ed25519PublicKey):
        expected = fingerprint(expected)
    if expected is not None and found and found != expected:
        problems.append(f"signed with another key: {found}, not {expected}")
    if wanted is not None:
        try:
            wanted.verify((folder / SIGNATURE).read_bytes(), content)
        except FileNotFoundError:
            problems.append(f"missing: {SIGNATURE}")
        except InvalidSignature:
            problems.append(f"{MANIFEST} is not what was signed")
    listed, malformed = _listed(content)
    problems += malformed
    there = _files(folder)
    for name in sorted(listed.keys() | there):
        if name not in there:
            problems.append(f"missing: {name}")
        elif name not in listed:
            problems.append(f"extra: {name}")
        elif (folder / name).is_symlink() or _sha256(folder / name) != listed[name]:
            problems.append(f"changed: {name}")
    return Seal(found, len(listed), tuple(problems))


def named_key(text: str) -> Ed25519PublicKey | str:
    """What somebody names a key by: its fingerprint, or a PEM file. UsageError: neither."""
    if text.startswith(_HASH):
        if not _FINGERPRINT.fullmatch(text):
            raise UsageError(f"{text[:80]} is no fingerprint: {_HASH} and 43 characters")
        return text
    return public_key(Path(text))


def public_key(path: Path) -> Ed25519PublicKey:
    """From a PEM file. UsageError: it is none, or of another kind."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is no public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{path} is no Ed25519 key")
    return key


def strangers(folder: Path) -> list[str]:
    """What is in ``folder`` and in no manifest there: with any of it, the folder is not only a
    report."""
    try:
        listed, _ = _listed((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        listed = {}
    return sorted(_files(folder) - listed.keys())


def _shipped(folder: Path) -> tuple[Ed25519PublicKey | None, list[str]]:
    try:
        return public_key(folder / PUBLIC_KEY), []
    except UsageError:
        return None, [f"{PUBLIC_KEY} is missing or no key"]


def _listed(manifest: bytes) -> tuple[dict[str, str], list[str]]:
    found, problems = {}, []
    for number, line in enumerate(manifest.decode("utf-8", "replace").splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            problems.append(f"{MANIFEST} line {number} is no checksum")
        else:
            found[match[2]] = match[1]
    return found, problems


def _files(folder: Path) -> set[str]:
    """Everything below that is no folder, by its path there, but the manifest and its signature."""
    names = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    return names - {MANIFEST, SIGNATURE}


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
