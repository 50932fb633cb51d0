"""Logging: one event a line on stderr, as text or as JSON; no patient data, no UID in clear.

    log = get_logger(__name__)
    log.info("association-ended", source="ct1", association="5f0c…", instances=12)

An event has a stable name and fields (deploy/events.md). Whatever the fields hold, the line stays
one line, and what looks like a UID is replaced by a hash under the site's key, unless
``log.identifiers`` allows it. Records of libraries become the event ``message``.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import logging
import math
import re
import signal
import sys
import threading
import traceback
import warnings
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.typing import EventDict

# Of one value: a sender must not fill the log with one line.
MOST_CHARACTERS = 1000
# Of a traceback: the innermost ones.
MOST_FRAMES = 12
# Four numbers with dots between them or more. Those of the standard are no identifiers.
_UID = re.compile(r"\d+(?:\.\d+){3,}")
_STANDARD = "1.2.840.10008."
_PLAIN = re.compile(r"[\w.,:/@+*%…-]+")
_UNKNOWN_KEY = "id-unknown"
# pynetdicom logs identifiers and pydicom logs values: patient data would reach our log.
_QUOTING = frozenset({"pydicom", "pynetdicom"})


@dataclass(frozen=True)
class Settings:
    """How a process logs. process: its name there. key: the site's, None while it is not known:
    then identifiers are left out. shared_level: the level in force, shared with children."""

    process: str = "command"
    level: str = "INFO"
    format: str = "console"
    identifiers: bool = False
    key: bytes | None = field(default=None, repr=False)
    shared_level: Any = None


def get_logger(name: str) -> BoundLogger:
    """The logger of a module: events go where ``configure`` says, in commands to stderr."""
    logger: BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure(settings: Settings) -> None:
    """Write to stderr in UTC, naming the process; quieten libraries that log identifiers."""
    global _settings
    _settings = settings
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(settings))
    # Not by their levels: a library sets its own when it is imported later.
    handler.addFilter(lambda record: record.name.partition(".")[0] not in _QUOTING)
    logging.getLogger().handlers[:] = [handler]
    shared = settings.shared_level
    own = logging.getLevelNamesMapping()[settings.level]
    _put_in_force(own if shared is None else shared.value)
    # Python's own warnings go to stderr past the log, and pydicom's quote values.
    warnings.simplefilter("ignore")
    # A run that is missed is no event: every job may be.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    # A traceback of a library may quote what a peer sent.
    threading.excepthook = lambda args: _log.error("thread-ended", error=args.exc_type.__name__)


def configured() -> Settings:
    """What this process was configured with: a child that it starts logs alike."""
    return _settings


def heed_level(settings: Settings) -> None:
    """In a child: take the shared level now, and whenever the supervisor sends SIGHUP."""

    def take() -> None:
        set_level(settings.shared_level.value)

    # In a thread: a handler that writes may interrupt the same write.
    signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=take).start())
    take()


def set_level(level: int) -> None:
    """From now on log what is at least of this level (a number of ``logging``)."""
    was = level_in_force()
    if level != was:
        _put_in_force(min(level, was))
        said = max(logging.INFO, min(level, was))
        _log.log(said, "log-level", to=logging.getLevelName(level), was=logging.getLevelName(was))
        _put_in_force(level)


def level_in_force() -> int:
    """As a number of ``logging``."""
    return logging.getLogger("diptych").level


def _put_in_force(level: int) -> None:
    logging.getLogger("diptych").setLevel(level)
    # What libraries say to debug them may hold anything.
    logging.getLogger().setLevel(max(level, logging.WARNING))


def identifier(site_key: bytes, value: str) -> str:
    """What stands in the log for an identifier: the same for the same value at one site."""
    key = hmac.new(site_key, b"diptych log identifiers", hashlib.sha256).digest()
    said = value.strip(" \0\n").encode("utf-8", "surrogatepass")
    return "id-" + hmac.new(key, said, hashlib.sha256).hexdigest()[:16]


def shortened(association: str) -> str:
    """The beginning of an association's name in the database: what its events are found by."""
    return association[:12]


def printable(text: str, limit: int = 64) -> str:
    """``text`` from the wire made safe for one line: no control characters, bounded."""
    cut = text[:limit] + ("…" if len(text) > limit else "")
    return "".join(c if c.isprintable() else " " if c in "\n\r\t" else "�" for c in cut)


def formatter(settings: Settings) -> logging.Formatter:
    """One line for each record, ours or a library's."""

    def line(_: Any, __: str, found: EventDict) -> str:
        record: logging.LogRecord = found.pop("_record")
        if not found.pop("_from_structlog"):
            found.update(event="message", text=found["event"], logger=record.name)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {
            "timestamp": at.replace("+00:00", "Z"),
            "level": record.levelname,
            "process": settings.process,
            "event": str(found.pop("event")),
        }
        error = found.pop("exc_info", None)
        if error:
            found["exception"] = _in_one_line(error, settings.identifiers)
        fields = {
            name: _safe(name, value, settings)
            for name, value in found.items()
            if value is not None and value != "" and value != []
        }
        if settings.format == "json":
            return json.dumps(head | fields)
        return _console(head, fields)

    return ProcessorFormatter(processors=[line])


def _console(head: dict[str, str], fields: dict[str, Any]) -> str:
    advice = fields.pop("advice", None)
    said = [*head.values(), *(f"{name}={_value(value)}" for name, value in fields.items())]
    return " ".join(said) + (f"; {advice}" if advice else "")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_value, value))
    text = value if isinstance(value, str) else json.dumps(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _safe(name: str, value: Any, settings: Settings) -> Any:
    """``value`` as something JSON has, of printable text, without an identifier in clear."""
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_safe(name, one, settings) for one in value]
    text = str(value)
    if not settings.identifiers:

        def hide(uid: str) -> str:
            return identifier(settings.key, uid) if settings.key else _UNKNOWN_KEY

        if not name.endswith("_uid"):
            text = _UID.sub(lambda m: m[0] if _is_open(m[0]) else hide(m[0]), text)
        elif not text.startswith(_STANDARD):
            text = hide(text)
    return printable(text, MOST_CHARACTERS)


def _is_open(text: str) -> bool:
    """A UID of the standard, or an IPv4 address."""
    if text.startswith(_STANDARD):
        return True
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _in_one_line(error: Any, with_its_words: bool) -> str:
    """Type and frames, the innermost first; its words may quote what a peer sent."""
    if not isinstance(error, tuple):
        error = sys.exc_info() if error is True else (type(error), error, error.__traceback__)
    kind, raised, trace = error
    if kind is None:
        return ""
    frames = traceback.extract_tb(trace)[: -MOST_FRAMES - 1 : -1]
    where = ", ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}" for f in frames)
    said = f": {raised}" if with_its_words else ""
    return f"{kind.__name__}{said} at {where}" if where else f"{kind.__name__}{said}"


_settings = Settings()
structlog.configure(
    processors=[structlog.stdlib.filter_by_level, ProcessorFormatter.wrap_for_formatter],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=BoundLogger,
    cache_logger_on_first_use=True,
)
# What a command has to say, where nothing is configured: warnings, on stderr.
if logging.lastResort is not None:
    logging.lastResort.setFormatter(formatter(Settings()))
_log = get_logger(__name__)
