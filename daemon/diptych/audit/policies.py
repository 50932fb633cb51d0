"""Policies are versioned rows; every verdict names the one it was made under.

The first row of a name and version is the policy as it was written down; later ones say the same
with the ``d_max`` of a model. The newest ``policy-use`` event of the chain names the policy in use;
without one it is the one that ships. Rows are never changed or removed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from diptych.audit import chain
from diptych.audit.schema import event, policy
from diptych.audit.store import now

ROW, USE = "policy", "policy-use"


@dataclass(frozen=True)
class Use:
    """A ``policy-use`` event. sha256: of the row's payload."""

    label: str
    sha256: str


@dataclass(frozen=True)
class Row:
    """A policy's row; payload: canonical JSON."""

    label: str
    sha256: str
    payload: str
    created_at: int


def register(connection: Connection, name: str, payload: str) -> None:
    """Write a policy down (canonical JSON) unless this very one is known."""
    sha256 = hashlib.sha256(payload.encode()).hexdigest()
    if connection.execute(select(policy.c.id).where(policy.c.sha256 == sha256)).first():
        return
    connection.execute(
        insert(policy).values(name=name, sha256=sha256, payload=payload, created_at=now())
    )
    chain.append(connection, ROW, {"name": name, "sha256": sha256})


def rows(connection: Connection) -> list[Row]:
    """Every policy, in the order they were written down."""
    return [
        Row(row.name, row.sha256, row.payload, row.created_at)
        for row in connection.execute(select(policy).order_by(policy.c.id))
    ]


def use(connection: Connection, label: str, sha256: str) -> None:
    """From the end of this transaction on the policy of this row is in use."""
    chain.append(connection, USE, {"policy": label, "sha256": sha256})


def read(payload: str) -> Use:
    """The payload of a ``policy-use``; ValueError, KeyError or TypeError when it is none."""
    said = json.loads(payload)
    return Use(str(said["policy"]), str(said["sha256"]))


def in_use(connection: Connection) -> Use | None:
    """The policy that was last put in use."""
    row = connection.execute(
        select(event.c.payload).where(event.c.kind == USE).order_by(event.c.seq.desc()).limit(1)
    ).scalar_one_or_none()
    return None if row is None else read(row)
