"""A reader that dies whenever it meets a file of a certain name."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from pathlib import Path

from diptych.intake import reader
from diptych.intake.limits import Limits

_read = reader.read


def serve(parent_pid: int, connection: Connection, limits: Limits, scratch: Path) -> None:
    def read(where, size, *rest):
        if where.endswith(b"/bold.nii.gz"):
            os.abort()
        return _read(where, size, *rest)

    reader.read = read
    reader.serve(parent_pid, connection, limits, scratch)
