"""One file over HTTP(S), whole and right, or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from diptych.errors import ModelError

SECONDS = 30.0
"""Without a byte: then the server is given up."""
LARGEST = 2**30
"""Bytes: three times the largest checkpoint that is offered."""
_PART = 2**20


def fetch(
    url: str,
    target: Path,
    sha256: str | None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    largest: int = LARGEST,
) -> str:
    """Fetch ``url`` into ``target``; returns the hex SHA-256 of what was fetched.

    Written beside it under a temporary name, synced and renamed when it is complete and, if
    ``sha256`` is given, right. ``progress`` hears the bytes so far and in all (None: unknown).
    ModelError, in words, with what to do by hand; then ``target`` is untouched.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        digest = _receive(url, part, progress, largest)
        if sha256 is not None and digest != sha256:
            raise ModelError(f"its checksum is {digest}, not {sha256}")
        part.rename(target)
    except (ModelError, OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ModelError(
            f"{url} could not be fetched: {reason or type(error).__name__}. By hand: fetch it on a "
            f"machine that can, copy it here and add --file {target.name}"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return digest


def sha256_of(path: Path) -> str:
    """The hex SHA-256 of a file; ModelError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error


def _receive(
    url: str, part: Path, progress: Callable[[int, int | None], None], largest: int
) -> str:
    if not url.startswith(("https://", "http://")):
        raise ValueError("only http and https are known")
    digest, done = hashlib.sha256(), 0
    # The scheme is checked above.
    with urllib.request.urlopen(url, timeout=SECONDS) as answer, part.open("wb") as file:  # noqa: S310
        told = answer.headers.get("Content-Length")
        total = int(told) if told is not None else None
        if total is not None and total > largest:
            raise ValueError(f"{total} bytes are more than {largest}")
        while block := answer.read(_PART):
            done += len(block)
            if done > largest:
                raise ValueError(f"more than {largest} bytes")
            digest.update(block)
            file.write(block)
            progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done != total:
        raise ValueError(f"it ended after {done} of {total} bytes")
    return digest.hexdigest()
