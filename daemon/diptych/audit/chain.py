"""The event chain: append-only, each event hashed over its text and the hash before it.

hash = SHA-256 over the lines previous hash, seq, at, kind, payload. The payload is the *text* of
canonical JSON, so a reader needs no agreement on how numbers print. Identifiers enter a payload
only as a salted commitment: SHA-256 over salt and canonical JSON; forgetting a case removes the
salt, and the chain still verifies. A chain alone does not reveal a full rewrite: its head is
also written outside the database (``write_head``), and belongs in a place others control.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, insert, select

from diptych.audit.schema import event, verdict
from diptych.audit.store import now

GENESIS = "0" * 64
# Each crash between a commit and its head leaves one head out until the next verdict.
HEADS_MAY_LAG = 3
# Longer than any line of the head file.
_HEAD_BYTES = 256
_PART = 500
STREAMED = {"yield_per": 1000}
"""Of a statement that reads a whole table: PostgreSQL's driver would hold all of its rows."""


def canonical(value: Mapping[str, Any]) -> str:
    """Canonical JSON: sorted keys, no spaces, plain ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def commitment(salt: bytes, value: Mapping[str, Any]) -> str:
    """A salted hash that binds ``value`` without revealing it."""
    return hashlib.sha256(salt + canonical(value).encode()).hexdigest()


def append(connection: Connection, kind: str, payload: Mapping[str, Any]) -> int:
    """Append one event inside a write transaction; returns its seq (from 1, without gaps)."""
    return extend(connection, kind, [payload])[0]


def extend(connection: Connection, kind: str, payloads: Sequence[Mapping[str, Any]]) -> list[int]:
    """Append several of one kind; returns their seqs."""
    seq, previous = head(connection)
    rows: list[dict[str, Any]] = []
    for payload in payloads:
        seq, at, text = seq + 1, now(), canonical(payload)
        hash_ = link(previous, seq, at, kind, text)
        rows.append(
            {
                "seq": seq,
                "at": at,
                "kind": kind,
                "payload": text,
                "previous_hash": previous,
                "hash": hash_,
            }
        )
        previous = hash_
    if rows:
        connection.execute(insert(event), rows)
    return [row["seq"] for row in rows]


def link(previous: str, seq: int, at: int, kind: str, payload: str) -> str:
    """The hash of one event."""
    return hashlib.sha256(
        f"{previous}\n{seq}\n{at}\n{kind}\n{payload}".encode(errors="surrogateescape")
    ).hexdigest()


def walk(connection: Connection) -> tuple[list[str], int, str]:
    """Every break in the chain in words, the number of events, and the hash of the last."""
    problems: list[str] = []
    expected, previous = 1, GENESIS
    for row in connection.execute(select(event).order_by(event.c.seq), execution_options=STREAMED):
        if row.seq != expected:
            problems.append(f"event {expected}: missing (next is {row.seq})")
        if row.previous_hash != previous:
            problems.append(f"event {row.seq}: does not follow the event before it")
        if row.hash != link(row.previous_hash, row.seq, row.at, row.kind, row.payload):
            problems.append(f"event {row.seq}: content does not match its hash")
        expected, previous = row.seq + 1, row.hash
    return problems, expected - 1, previous


def head(connection: Connection) -> tuple[int, str]:
    """seq and hash of the last event; (0, GENESIS) without one."""
    row = connection.execute(
        select(event.c.seq, event.c.hash).order_by(event.c.seq.desc()).limit(1)
    ).one_or_none()
    return (row.seq, row.hash) if row else (0, GENESIS)


def write_head(path: Path, seq: int, hash_: str) -> None:
    """Append the head to the file beside the database, after the commit: never ahead of it.

    One line of JSON per head, and none is ever taken back: a chain that is cut or rewritten and
    then grows on still contradicts the lines before. A line that a crash tore is replaced.
    """
    made = not path.exists()
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        start = max(0, end - _HEAD_BYTES)
        file.seek(start)
        tail = file.read()
        if tail and not tail.endswith(b"\n"):
            file.truncate(start + tail.rfind(b"\n") + 1)
        file.write(canonical({"hash": hash_, "seq": seq}).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if made:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def written(path: Path) -> int:
    """Bytes of heads in the file; asked before the chain is read, what they name is in it."""
    return path.stat().st_size if path.exists() else 0


def check_head(connection: Connection, path: Path, end: int) -> list[str]:
    """Whether every head written outside is still part of the chain, in words.

    ``end``: of :func:`written` before ``connection`` read anything; a head that came later names an
    event that its snapshot does not hold.
    """
    problems: list[str] = []
    gone: list[int] = []
    rewritten: list[int] = []
    newest = 0
    for heads in _heads(path, problems, end):
        stored = {
            int(row.seq): row.hash
            for row in connection.execute(
                select(event.c.seq, event.c.hash).where(event.c.seq.in_([seq for seq, _ in heads]))
            )
        }
        for seq, hash_ in heads:
            newest = max(newest, seq)
            if seq not in stored:
                gone.append(seq)
            elif stored[seq] != hash_:
                rewritten.append(seq)
    for seqs, what in ((gone, "which is gone: the chain was cut"), (rewritten, "was rewritten")):
        if seqs:
            more = f" and {len(seqs) - 1} more" if len(seqs) > 1 else ""
            problems.append(f"{path.name}: names event {seqs[0]}{more}, {what}")
    behind = connection.execute(
        select(func.count(verdict.c.revision_id.distinct())).where(verdict.c.id > newest)
    ).scalar_one()
    if behind > HEADS_MAY_LAG:
        problems.append(
            f"{path.name}: {behind} judged series behind the chain"
            if newest
            else f"{path.name}: missing, so a chain that was cut at its end would go unnoticed"
        )
    return problems


def _heads(path: Path, problems: list[str], end: int) -> Iterator[list[tuple[int, str]]]:
    """The heads in the file, in parts; what is no head is added to ``problems``."""
    if not path.exists():
        return
    part: list[tuple[int, str]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            end -= len(line)
            if end < 0 or not line.endswith(b"\n"):  # later, being written, or torn by a crash
                break
            try:
                said = json.loads(line)
                part.append((int(said["seq"]), str(said["hash"])))
            except (ValueError, KeyError, TypeError):
                problems.append(f"{path.name}: line {number} is not a chain head")
            if len(part) == _PART:
                yield part
                part = []
    yield part
