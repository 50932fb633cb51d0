"""The account at the end: acknowledged = stored = judged, nothing twice, nothing left over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from diptych.audit import schema
from diptych.audit.store import Store
from diptych.audit.verify import verify
from diptych.errors import Reason
from diptych.receive.spool import Spool, content_sha256, data_set_offset

_r, _i, _b, _s = schema.revision.c, schema.instance.c, schema.blob.c, schema.series.c


@dataclass(frozen=True)
class Account:
    """``stored``: acknowledged instances that have a receipt and their own bytes on disk.
    ``judged``: those of them that a judged revision covers. ``judged_twice``: revisions with more
    than one verdict, and series that match another exactly although all are different.
    ``orphans``: files in the spool that no row refers to. ``failed``: verdicts with a reason that
    lies with us. ``chain``: what audit verify finds."""

    acknowledged: int
    stored: int
    judged: int
    judged_twice: int
    orphans: int
    failed: int
    series: int
    receipts: int
    counted: int
    chain: tuple[str, ...]
    events: int

    @property
    def good(self) -> bool:
        return (
            self.acknowledged == self.stored == self.judged
            and not self.judged_twice
            and not self.orphans
            and not self.failed
            and self.receipts == self.counted
            and not self.chain
        )


def stored(store: Store, spool: Spool, acknowledged: Mapping[str, str]) -> set[str]:
    """The SOP Instance UIDs of ``acknowledged`` (→ Series Instance UID) that have a receipt and
    a file with the very bytes that its row names. A receipt that a start has made for a file it
    found without one names no association, and does not count."""
    with store.read() as connection:
        rows = connection.execute(
            select(_i.sop_instance_uid, _s.series_instance_uid, _b.locator, _b.sha256)
            .join_from(schema.receipt, schema.instance)
            .join(schema.blob, _b.id == _i.blob_id)
            .join(schema.series, _s.id == _i.series_id)
            .where(schema.receipt.c.association_id.is_not(None))
            .distinct()
        ).all()
    found = set()
    for uid, series_uid, locator, sha256 in rows:
        path = spool.path(locator)
        if (
            acknowledged.get(uid) == series_uid
            and path.exists()
            and content_sha256(path, data_set_offset(path))[0] == sha256
        ):
            found.add(uid)
    return found


def take(store: Store, spool: Spool, heads: Path, acknowledged: Mapping[str, str]) -> Account:
    """Read everything and compare; nothing may be received or judged meanwhile."""
    kept = stored(store, spool, acknowledged)
    with store.read() as connection:
        covered = connection.execute(
            select(_i.sop_instance_uid)
            .join(schema.revision, (_r.series_id == _i.series_id) & (_r.last_instance_id >= _i.id))
            .join(schema.verdict, schema.verdict.c.revision_id == _r.id)
            .where(_r.status == "judged")
            .distinct()
        ).scalars()
        judged = set(covered) & acknowledged.keys()
        per_revision = (
            select(func.count(schema.verdict.c.id).label("n"))
            .group_by(schema.verdict.c.revision_id)
            .subquery()
        )
        twice = connection.execute(
            select(func.count()).select_from(per_revision).where(per_revision.c.n > 1)
        ).scalar_one()
        relations = dict(
            connection.execute(
                select(schema.verdict.c.relation, func.count()).group_by(schema.verdict.c.relation)
            )
            .tuples()
            .all()
        )
        # A series cut off after its first slice may hold nothing to judge by; that is no failure.
        failed = connection.execute(
            select(func.count()).where(
                schema.verdict.c.relation == "not-screenable",
                schema.verdict.c.reason != Reason.NO_INFORMATIVE_SLICE,
            )
        ).scalar_one()
        locators = set(connection.execute(select(_b.locator)).scalars())
        series = connection.execute(select(func.count(_s.id))).scalar_one()
        receipts = connection.execute(select(func.count(schema.receipt.c.id))).scalar_one()
        counted = connection.execute(
            select(func.coalesce(func.sum(schema.counter.c.value), 0)).where(
                schema.counter.c.name == "diptych_receipts_total"
            )
        ).scalar_one()
        verified = verify(connection, heads)
    left_over = sum(locator not in locators for _, locator in spool.kept())
    return Account(
        acknowledged=len(acknowledged),
        stored=len(kept),
        judged=len(judged),
        judged_twice=twice + relations.get("exact", 0),
        orphans=left_over + sum(1 for _ in spool.orphans()),
        failed=failed,
        series=series,
        receipts=receipts,
        counted=int(counted),
        chain=verified.problems,
        events=verified.events,
    )
