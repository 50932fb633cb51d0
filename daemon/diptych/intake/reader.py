"""A reader process: asked for files, answers with their rows in batches."""

from __future__ import annotations

import logging
import os
import resource
import stat
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

import pydicom

from diptych.processes import follow

from .entry import Entry, Name, Status, readable_text
from .limits import Limits
from .look import look
from .remote import open_url

MEMORY_BYTES = 4 * 2**30
"""Address space: what a hostile archive could make a decompressor ask for ends here."""

_BATCH = 500

Task = tuple[int, bytes, int | None]
Answer = tuple[int, list[Entry | Name], bool]
"""(file, rows, whether these are the last)"""


def serve(parent_pid: int, connection: Connection, limits: Limits, scratch: Path) -> None:
    """Until the other side closes, or is killed. Each request is a list of tasks."""
    follow(parent_pid, "diptych-read")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    quiet()
    while True:
        try:
            tasks: list[Task] = connection.recv()
        except EOFError:
            return
        for number, where, size in tasks:
            batch: list[Entry | Name] = []
            for row in read(where, size, limits, scratch):
                batch.append(row)
                if len(batch) == _BATCH:
                    connection.send((number, batch, False))
                    batch = []
            connection.send((number, batch, True))


def quiet() -> None:
    """Libraries print values of the data set, that is patient data."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def read(where: bytes, size: int | None, limits: Limits, scratch: Path) -> Iterator[Entry | Name]:
    """The rows of one file; never raises for what it is or holds."""
    whole = readable_text(where)
    try:
        file = open_file(where)
    except OSError as error:
        entry = Entry("", whole, size)
        entry.becomes(Status.UNREADABLE, "cannot-be-opened", error.strerror or str(error))
        yield entry
        return
    with file:
        yield from look(file, whole, size, limits, scratch)


def open_file(where: bytes) -> IO[bytes]:
    """A regular file or a URL, to be sought in; raises OSError."""
    if not where.startswith(b"/"):
        return open_url(where.decode())
    # What was a file when it was listed may be a link or a pipe by now.
    handle = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("not a regular file any more")
    return os.fdopen(handle, "rb", buffering=0)
