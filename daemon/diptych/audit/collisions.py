"""SOP Instance UIDs known with other content, and which part of the content differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from diptych.audit.schema import instance
from diptych.audit.verdicts import InstanceOutcome

_LIST = 500


def parts(
    connection: Connection, ours: Mapping[int, tuple[str, InstanceOutcome]]
) -> dict[int, set[str]]:
    """Instance id → which parts differ from a known content of the same SOP Instance UID.

    ``ours``: instance id → (SOPInstanceUID, outcome) of the instances now judged for the first
    time. Known is what was judged before, whichever arrived first: of two contents the one judged
    later collides. A content that was only re-encoded differs in no part.
    """
    by_uid: dict[str, list[int]] = {}
    for instance_id, (uid, outcome) in ours.items():
        if outcome.pixel_hash is not None:
            by_uid.setdefault(uid, []).append(instance_id)
    found: dict[int, set[str]] = {}
    uids = sorted(by_uid)
    for start in range(0, len(uids), _LIST):
        rows = connection.execute(
            select(instance).where(
                instance.c.sop_instance_uid.in_(uids[start : start + _LIST]),
                instance.c.pixel_hash.is_not(None),
            )
        ).all()
        for row in rows:
            for instance_id in by_uid[row.sop_instance_uid]:
                if row.id not in ours:
                    differing = _differing(row, ours[instance_id][1])
                    found.setdefault(instance_id, set()).update(differing)
    # Two contents of one UID may also arrive in the same revision.
    for ids in by_uid.values():
        for later in sorted(ids)[1:]:
            differing = _differing(ours[min(ids)][1], ours[later][1])
            found.setdefault(later, set()).update(differing)
    return {instance_id: differing for instance_id, differing in found.items() if differing}


_PARTS: Sequence[tuple[str, str]] = (
    ("pixel_hash", "pixels"),
    ("identity_hash", "identity"),
    ("private_hash", "private"),
    ("rest_hash", "other"),
)


def _differing(theirs: object, ours: object) -> set[str]:
    return {part for name, part in _PARTS if getattr(theirs, name) != getattr(ours, name)}
