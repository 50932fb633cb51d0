"""Nodes of the index: a vector for every prepared slice that differs, owned by its first case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, insert, update

from diptych.audit import archive
from diptych.audit.schema import embedding, fingerprint, node


@dataclass(frozen=True)
class Nodes:
    """The informative slices of a case in the index, in slice order.

    Either ``reused``: the nodes of a case with the same digest; or ``digests`` (n,) of the
    prepared slices and ``vectors``, float32 (n, d): those without a node yet get one.
    """

    reused: Sequence[int] = ()
    digests: Sequence[bytes] = ()
    vectors: NDArray[np.float32] | None = None


def add_nodes(
    connection: Connection, case_id: int, revision_id: int, nodes: Nodes, fingerprint_id: int
) -> tuple[list[int], NDArray[np.float32] | None]:
    """Store the vectors of a case inside the caller's transaction.

    Returns the keys and the vectors (m, d) of its new nodes: slices whose digest has a node share
    it.
    """
    keys: list[int] = list(nodes.reused)
    rows: list[int] = []
    if nodes.vectors is not None:
        known = archive.nodes_by_digest(connection, fingerprint_id, nodes.digests)
        first = archive.next_key(connection, fingerprint_id)
        for row, value in enumerate(nodes.digests):
            if value not in known:
                known[value] = first + len(rows)
                rows.append(row)
        keys = [known[value] for value in nodes.digests]
        _insert_nodes(connection, case_id, nodes, rows, first, fingerprint_id)
    new_keys = [keys[row] for row in rows]
    connection.execute(
        insert(embedding).values(
            fingerprint_id=fingerprint_id,
            case_id=case_id,
            revision_id=revision_id,
            slice_keys=np.array(keys, "<u8").tobytes(),
            shared=not set(keys) <= set(new_keys),
        )
    )
    return new_keys, nodes.vectors[rows] if nodes.vectors is not None else None


def _insert_nodes(
    connection: Connection,
    case_id: int,
    nodes: Nodes,
    rows: Sequence[int],
    first: int,
    fingerprint_id: int,
) -> None:
    if not rows:
        return
    assert nodes.vectors is not None
    connection.execute(
        update(fingerprint)
        .where(fingerprint.c.id == fingerprint_id)
        .values(next_key=first + len(rows))
    )
    connection.execute(
        insert(node),
        [
            {
                "fingerprint_id": fingerprint_id,
                "key": first + offset,
                "prepared_digest": nodes.digests[row],
                "case_id": case_id,
                "vector": nodes.vectors[row].astype("<f2").tobytes(),
            }
            for offset, row in enumerate(rows)
        ],
    )
