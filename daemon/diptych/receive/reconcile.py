"""After a crash: make spool and database agree before anything is accepted or judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diptych.audit import blobs, receipts
from diptych.audit.store import Store
from diptych.errors import StoreError
from diptych.log import get_logger, printable
from diptych.receive import header
from diptych.receive.spool import Spool, content_sha256, data_set_offset, transfer_syntax

log = get_logger(__name__)


@dataclass(frozen=True)
class Reconciled:
    """What was found: files filed again, temporary files removed, files gone, files not ours."""

    registered: int
    orphans: int
    lost: int
    strangers: int


def reconcile(
    store: Store,
    spool: Spool,
    header_limit: int,
    destinations_of: Callable[[str], tuple[str, ...]] = lambda _: (),
) -> Reconciled:
    """Register kept files without a row, remove orphan temporary files, count lost files.

    A file without a row was never acknowledged (the receipt commits first), but it is a whole
    instance: it is filed rather than thrown away. Its sender sends it again, and that becomes a
    known content. Runs while no acceptor does. ``destinations_of``: to whom what a source
    sent is sent on.
    """
    orphans = 0
    for path in spool.orphans():
        path.unlink(missing_ok=True)
        orphans += 1
    known = blobs.known_locators(store)
    registered = strangers = 0
    for source, locator in spool.kept():
        if known.pop(locator, None) is not None:
            continue
        if blobs.was_purged(store, locator):
            spool.remove(locator)
            continue
        try:
            if source is None:
                raise StoreError("spool: not a file of ours: another name than we give")
            register(store, spool, source, locator, header_limit, destinations_of(source))
            registered += 1
        except (header.Mismatch, header.Unparsable, StoreError, OSError) as error:
            if "database" in str(error):
                raise
            said = error.strerror if isinstance(error, OSError) else str(error)
            log.error("spool-stranger", path=printable(locator, 200), error=said)
            strangers += 1
    if known:
        log.error("spool-files-lost", files=len(known))
        # Whoever sends one of them again must bring the bytes back; the file itself may, too.
        blobs.mark_lost(store, list(known))
    return Reconciled(registered, orphans, len(known), strangers)


def register(
    store: Store,
    spool: Spool,
    source: str,
    locator: str,
    header_limit: int = 1 << 20,
    destinations: tuple[str, ...] = (),
) -> None:
    """File what lies at ``locator`` as if ``source`` had sent it. Raises header.Mismatch,
    header.Unparsable, StoreError or OSError."""
    path = spool.path(locator)
    offset = data_set_offset(path)
    syntax = transfer_syntax(path)
    with path.open("rb") as file:
        file.seek(offset)
        head = file.read(header_limit + 1)
    identity = header.identify(head, header_limit, syntax, locator, None)
    sha256, size = content_sha256(path, offset)
    stored = receipts.Stored(sha256, syntax, size, locator)
    arrival = receipts.Arrival(source, None, identity, stored, destinations)
    [recorded] = receipts.record(store, [arrival], lambda other: spool.path(other).exists())
    if recorded.bytes_known:
        spool.remove(locator)
