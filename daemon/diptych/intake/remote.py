"""Files behind a URL, by fsspec (extras ``remote``, ``s3``, ``gs``, ``az``); read only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any, cast

from diptych.errors import ConfigError, UsageError

from .catalogue import Found

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az"}
_STAMPS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")
_BLOCK = 1 << 20
"""Bytes fetched ahead: a header, or a slice of 512² as a whole."""


def is_url(text: str) -> bool:
    return _URL.match(text) is not None


def check(url: str) -> None:
    """Raise UsageError when there is nothing, ConfigError when what reads it is not installed."""
    system, path = _system(url)
    try:
        there = bool(path) and system.exists(path)
    except Exception as error:
        raise ConfigError(f"INPUT {url} cannot be reached: {_words(error)}") from error
    if not there:
        raise UsageError(f"INPUT {url}: nothing is there")


def walk(url: str) -> Iterator[Found]:
    """The objects at and below ``url``, one listing page of a folder in memory at a time."""
    system, path = _system(url)
    try:
        if not url.endswith("/") and system.isfile(path):
            yield _found(system, system.info(path))
            return
        for _, _, files in system.walk(path, detail=True):
            for info in files.values():
                if not str(info["name"]).endswith("/"):  # the marker of an empty folder
                    yield _found(system, info)
    except Exception as error:
        raise ConfigError(f"{url} cannot be listed: {_words(error)}") from error


def open_url(url: str) -> IO[bytes]:
    """To be sought in; what is read is fetched. Raises OSError."""
    system, path = _system(url)
    try:
        return cast(IO[bytes], system.open(path, "rb", block_size=_BLOCK))
    except OSError:
        raise
    except Exception as error:
        raise OSError(_words(error)) from error


def _found(system: Any, info: dict[str, Any]) -> Found:
    url = system.unstrip_protocol(info["name"])
    stamp = next((str(info[key]) for key in _STAMPS if info.get(key)), "")
    size = info.get("size")
    return Found(url.encode(), None if size is None else int(size), stamp)


def _system(url: str) -> tuple[Any, str]:
    scheme = url.partition("://")[0].lower()
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(url)
    except ImportError as error:
        extra = _EXTRAS.get(scheme, "remote")
        raise ConfigError(f"{scheme}:// needs more: install diptych[{extra}]") from error
    except ValueError as error:
        raise UsageError(f"INPUT {url}: {error}") from error
    return system, path


def _words(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200] or type(error).__name__
