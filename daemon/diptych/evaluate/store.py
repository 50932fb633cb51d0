"""The results of a run, kept case by case: what was finished is never done again.

``OUT/answers.jsonl``: a header that says what is run, then one JSON object a line, appended and
synced when a case is finished. A line that an end in the middle left torn is cut off at the next
start. ``OUT/vectors/``: the database's vectors, a cache. Both hold paths of images, and the second
what was made of their pixels: patient data.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from diptych.embed.prepare import DIGEST_BYTES
from diptych.errors import UsageError
from diptych.ready import Ready

Record = dict[str, Any]

FORMAT = 3


@dataclass(frozen=True, eq=False)
class Embedded:
    """A case of an archive. vectors: float32 (n, d), every slice (of a stand-in the informative
    ones only), as an index keeps them (f16). kept: bool (n,), the informative ones; slice_digests:
    theirs. digest: of the case, None where constant planes make it no evidence. proxy: for
    verification, empty without a ladder."""

    vectors: NDArray[np.float32]
    kept: NDArray[np.bool_]
    slice_digests: tuple[bytes, ...]
    digest: bytes | None
    proxy: bytes


def embedded_case(
    ready: Ready,
    digest: bytes | None,
    vectors: NDArray[np.float32],
    kept: NDArray[np.bool_],
) -> Embedded:
    """What an archive keeps of a volume that was made ready: the one place that says so.

    kept: which of the ``vectors`` are the informative slices'.
    """
    return Embedded(vectors, kept, ready.slice_digests, digest, ready.proxy[1])


def pack(embedded: Embedded) -> bytes:
    """A case as bytes, for a file or a row of a database."""
    content = io.BytesIO()
    np.savez(
        content,
        vectors=embedded.vectors.astype(np.float16),
        kept=embedded.kept,
        slice_digests=np.frombuffer(b"".join(embedded.slice_digests), np.uint8),
        digest=np.frombuffer(embedded.digest or b"", np.uint8),
        proxy=np.frombuffer(embedded.proxy, np.uint8),
    )
    return content.getvalue()


def unpack(content: bytes) -> Embedded:
    """What :func:`pack` wrote. ValueError: anything else."""
    try:
        with np.load(io.BytesIO(content)) as arrays:
            digests = arrays["slice_digests"].tobytes()
            return Embedded(
                arrays["vectors"].astype(np.float32),
                arrays["kept"],
                tuple(
                    digests[start : start + DIGEST_BYTES]
                    for start in range(0, len(digests), DIGEST_BYTES)
                ),
                arrays["digest"].tobytes() or None,
                arrays["proxy"].tobytes(),
            )
    except (OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"no case: {error}") from error


class Results:
    """The results in one folder, for one process at a time. A context manager."""

    def __init__(self, folder: Path, header: Mapping[str, Any], resume: bool | None) -> None:
        """Begin, or go on where a run with the same header ended.

        resume: True goes on, False begins anew, None begins where no query was finished.
        UsageError: the folder holds another run, or None was said and it holds answers; another
        process writes there; a file is damaged.
        """
        self._folder = folder
        self._path = folder / "answers.jsonl"
        wanted: Record = {"kind": "header", "format": FORMAT, **header}
        self._file = self._open()
        try:
            found = self._header()
            if resume is None and self._has_queries():
                raise UsageError(
                    f"{folder} holds the results of a run: --resume goes on with it, --restart "
                    "throws it away, --out names another folder"
                )
            if not resume:
                found = None
            if found is None:
                self._clear()
                self.append(wanted)
            elif differing := _differing(found, wanted):
                raise UsageError(
                    f"{folder} holds the results of another run ({', '.join(differing)} differ): "
                    "--restart throws them away, --out names another folder"
                )
            else:
                self._cut_torn_line()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, record: Record) -> None:
        """One line, on disk when this returns."""
        line = json.dumps(record, separators=(",", ":"), ensure_ascii=False)
        self._file.seek(0, os.SEEK_END)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def records(self, kind: str) -> Iterator[Record]:
        """The records of one kind, in the order in which they were finished."""
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                record = _parsed(line)
                if record is None:
                    raise UsageError(f"{self._path}: line {number} is damaged: --restart")
                if record["kind"] == kind:
                    yield record

    def keep_vectors(self, number: int, embedded: Embedded) -> None:
        """Cache what the database holds of its case ``number``."""
        path = self._vectors(number)
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(pack(embedded))
        part.replace(path)

    def vectors(self, number: int) -> Embedded | None:
        """What was cached of a case; None when it was not, or cannot be read."""
        try:
            return unpack(self._vectors(number).read_bytes())
        except (OSError, ValueError):
            return None

    def _vectors(self, number: int) -> Path:
        return self._folder / "vectors" / f"{number:06}.npz"

    def _open(self) -> BinaryIO:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._path.open("r+b" if self._path.exists() else "w+b")
        except OSError as error:
            raise UsageError(f"cannot write to {self._folder}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise UsageError(f"another run is writing to {self._folder}") from error
        return file

    def _header(self) -> Record | None:
        """What the first line says; None when nothing was begun."""
        self._file.seek(0)
        line = self._file.readline()
        if not line.endswith(b"\n"):
            return None
        header = _parsed(line)
        if header is None or header.get("kind") != "header":
            raise UsageError(f"{self._path} is no file of results: name another folder with --out")
        return header

    def _has_queries(self) -> bool:
        self._file.seek(0)
        return any(b'"kind":"query"' in line for line in self._file)

    def _clear(self) -> None:
        self._file.truncate(0)
        # By name, and not the folder: what else lies there is not ours.
        for path in (self._folder / "vectors").glob("[0-9]" * 6 + ".npz"):
            path.unlink()

    def _cut_torn_line(self) -> None:
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
        self._file.truncate(whole)


def _parsed(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "kind" in record else None


def _differing(found: Record, wanted: Record) -> list[str]:
    return [
        key.replace("_", " ")
        for key in sorted({*found, *wanted})
        if found.get(key) != wanted.get(key)
    ]
