"""Inputs → files. Folders are walked, a DICOMDIR stands for its folder, a manifest for what it
names; a link is never followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diptych.errors import UsageError

from . import remote
from .catalogue import Absent, Found, Listed
from .entry import Entry, Status, readable_text
from .manifest import Manifest, is_manifest, read_manifest

NO_SPLITS: Mapping[str, str] = MappingProxyType({})


def list_inputs(
    inputs: list[str], ours: Sequence[Path], splits: Mapping[str, str] = NO_SPLITS
) -> Iterator[Listed]:
    """Everything the inputs hold; ``ours``, folders that we write to, are passed over.

    splits: input → the split of all that is in it, where no manifest says one.

    Raises UsageError for an input that is not there or cannot be one before anything is yielded,
    and for a line of a manifest that says nothing when it is reached.
    """
    if not inputs:
        raise UsageError("name at least one INPUT: a folder, file, URL or manifest")
    without = frozenset(str(folder.resolve()) for folder in ours)
    roots: list[str | Path] = []
    named: dict[str | Path, str] = {}
    manifests: list[Manifest] = []
    for text in inputs:
        if remote.is_url(text):
            remote.check(text)
            roots.append(text)
            named |= {text: splits[text]} if text in splits else {}
            continue
        path = Path(text)
        try:
            path = path.resolve(strict=True)
        except OSError as error:
            raise UsageError(f"INPUT {text}: {error.strerror}") from error
        if path.is_file() and is_manifest(path):
            manifests.append(read_manifest(path))
        else:
            roots.append(path.parent if path.name.upper() == "DICOMDIR" else path)
            named |= {roots[-1]: splits[text]} if text in splits else {}
            for folder in ours:
                if path.is_relative_to(folder.resolve()):
                    raise UsageError(f"INPUT {text} is inside the output folder {folder}")
    _refuse_overlap(named)
    return _all(roots, manifests, without, named)


def _refuse_overlap(named: Mapping[str | Path, str]) -> None:
    folders = [root for root in named if isinstance(root, Path)]
    for one in folders:
        for other in folders:
            if one is not other and one.is_relative_to(other):
                raise UsageError(f"{one} is inside {other}: every file has one split")


def _all(
    roots: list[str | Path],
    manifests: list[Manifest],
    without: frozenset[str],
    splits: Mapping[str | Path, str],
) -> Iterator[Listed]:
    for root in roots:
        below = remote.walk(root) if isinstance(root, str) else _below(os.fsencode(root), without)
        split = (None, splits.get(root), None)
        yield from (_with(found, split) for found in below) if root in splits else below
    for manifest in manifests:
        allowed = [root for root in roots if isinstance(root, str)]
        folders = [manifest.path.parent, *(root for root in roots if isinstance(root, Path))]
        for line in manifest.lines():
            extra = (line.vendor, line.split, line.price)
            if remote.is_url(line.path):
                if any(_is_below(line.path, root) for root in allowed):
                    yield from (_with(found, extra) for found in remote.walk(line.path))
                else:
                    yield Absent(str(manifest.path), line.path, "outside-the-inputs")
                continue
            path = Path(os.path.normpath(manifest.path.parent / line.path))
            path = path.parent.resolve() / path.name
            if not any(path.is_relative_to(folder) for folder in folders):
                yield Absent(str(manifest.path), line.path, "outside-the-inputs")
            elif not os.path.lexists(path):
                yield Absent(str(manifest.path), line.path, "not-there")
            else:
                yield from (_with(found, extra) for found in _below(os.fsencode(path), without))


def _with(found: Found, extra: tuple[str | None, str | None, str | None]) -> Found:
    vendor, split, price = extra
    return Found(found.where, found.size, found.stamp, vendor, split, price, found.refused)


def _is_below(url: str, root: str) -> bool:
    return ".." not in url.split("/") and (url == root or url.startswith(root.rstrip("/") + "/"))


def _below(path: bytes, without: frozenset[str]) -> Iterator[Found]:
    """Depth first, holding one open folder per level and no list of names."""
    found = _one(path)
    if found is not None:
        yield found
        return
    levels: list[Any] = []
    try:
        folder: bytes | None = path
        while folder is not None or levels:
            if folder is not None:
                try:
                    levels.append(os.scandir(folder))
                except OSError as error:
                    yield _stands(folder, Status.UNREADABLE, "folder-not-opened", error.strerror)
                folder = None
                continue
            each = next(levels[-1], None)
            if each is None:
                levels.pop().close()
                continue
            found = _one(each.path)
            if found is not None:
                yield found
            elif os.fsdecode(each.path) not in without:
                folder = each.path
    finally:
        for level in levels:
            level.close()


def _one(path: bytes) -> Found | None:
    """None for a folder."""
    try:
        about = os.lstat(path)
    except OSError as error:
        return _stands(path, Status.UNREADABLE, "cannot-be-opened", error.strerror)
    if stat.S_ISDIR(about.st_mode):
        return None
    if stat.S_ISLNK(about.st_mode):
        return _stands(path, Status.REFUSED, "link", "links are not followed")
    if not stat.S_ISREG(about.st_mode):
        return _stands(path, Status.REFUSED, "device")
    return Found(path, about.st_size, str(about.st_mtime_ns))


def _stands(path: bytes, status: Status, reason: str, detail: str | None = "") -> Found:
    entry = Entry("", readable_text(path), 0)
    entry.becomes(status, reason, detail or "")
    return Found(path, 0, "", refused=entry)
