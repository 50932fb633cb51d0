"""Logging: one line per association, series and verdict; never patient data, never a UID."""

from __future__ import annotations

import logging
import sys
import time
import warnings


def configure(level: str, process: str) -> None:
    """Write to stderr in UTC, naming the process; quieten libraries that log identifiers."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter(
        f"%(asctime)s.%(msecs)03dZ %(levelname)s {process} %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Python's own warnings go to stderr past the log, and pydicom's quote values.
    warnings.simplefilter("ignore")
    # pynetdicom logs identifiers and pydicom logs values: patient data would reach our log.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def printable(text: str, limit: int = 64) -> str:
    """``text`` from the wire made safe for one log line: no control characters, bounded."""
    cut = text[:limit] + ("…" if len(text) > limit else "")
    return "".join(c if c.isprintable() else "�" for c in cut)
