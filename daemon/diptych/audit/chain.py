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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select

from diptych.audit.schema import event
from diptych.audit.store import now

GENESIS = "0" * 64


def canonical(value: Mapping[str, Any]) -> str:
    """Canonical JSON: sorted keys, no spaces, plain ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def commitment(salt: bytes, value: Mapping[str, Any]) -> str:
    """A salted hash that binds ``value`` without revealing it."""
    return hashlib.sha256(salt + canonical(value).encode()).hexdigest()


def append(connection: Connection, kind: str, payload: Mapping[str, Any]) -> int:
    """Append one event inside a write transaction; returns its seq (from 1, without gaps)."""
    last = connection.execute(
        select(event.c.seq, event.c.hash).order_by(event.c.seq.desc()).limit(1)
    ).one_or_none()
    seq, previous = (last.seq + 1, last.hash) if last else (1, GENESIS)
    at, text = now(), canonical(payload)
    connection.execute(
        insert(event).values(
            seq=seq,
            at=at,
            kind=kind,
            payload=text,
            previous_hash=previous,
            hash=link(previous, seq, at, kind, text),
        )
    )
    return seq


def link(previous: str, seq: int, at: int, kind: str, payload: str) -> str:
    """The hash of one event."""
    return hashlib.sha256(f"{previous}\n{seq}\n{at}\n{kind}\n{payload}".encode()).hexdigest()


def walk(connection: Connection) -> tuple[list[str], int, str]:
    """Every break in the chain in words, the number of events, and the hash of the last."""
    problems: list[str] = []
    expected, previous = 1, GENESIS
    for row in connection.execute(select(event).order_by(event.c.seq)):
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
    """Write the head beside the database, after the commit: never ahead of it."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(canonical({"hash": hash_, "seq": seq}) + "\n", "ascii")
    temporary.replace(path)


def check_head(connection: Connection, path: Path) -> list[str]:
    """Whether the head written outside is still part of the chain, in words."""
    if not path.exists():
        return []
    try:
        said = json.loads(path.read_text("ascii"))
        seq, hash_ = int(said["seq"]), str(said["hash"])
    except (ValueError, KeyError, TypeError):
        return [f"{path.name}: not a chain head"]
    if seq == 0:
        return []
    row = connection.execute(select(event.c.hash).where(event.c.seq == seq)).one_or_none()
    if row is None:
        return [f"{path.name}: names event {seq}, which is gone: the chain was cut"]
    return [] if row.hash == hash_ else [f"{path.name}: event {seq} was rewritten"]
