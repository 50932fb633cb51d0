"""Policies are versioned rows; every verdict names the one it was made under."""

from __future__ import annotations

import hashlib

from sqlalchemy import Connection, insert, select

from diptych.audit import chain
from diptych.audit.schema import policy
from diptych.audit.store import now


def register(connection: Connection, name: str, payload: str) -> None:
    """Write a policy down (canonical JSON) unless this very one is known."""
    sha256 = hashlib.sha256(payload.encode()).hexdigest()
    if connection.execute(select(policy.c.id).where(policy.c.sha256 == sha256)).first():
        return
    connection.execute(
        insert(policy).values(name=name, sha256=sha256, payload=payload, created_at=now())
    )
    chain.append(connection, "policy", {"name": name, "sha256": sha256})
