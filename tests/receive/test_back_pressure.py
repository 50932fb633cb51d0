"""Too much to judge or too little room: senders are told to wait before anything is harmed."""

from __future__ import annotations

from collections.abc import Callable

from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from receive.peers import Peer, deliver
from running import Daemon, instance, series

OUT_OF_RESOURCES = 0xA700
# A-ASSOCIATE-RJ, PS3.8 table 9-21: transient, service provider (presentation), congestion.
CONGESTED = (2, 3, 1)
CLEARS_SECONDS = 5


def test_past_the_limit_of_pending_series_associations_wait_and_come_back_afterwards(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon(
        DIPTYCH_DICOM__MAXIMUM_PENDING_SERIES="2", DIPTYCH_SERIES__QUIET_SECONDS="8"
    ).start()
    before = Peer(daemon.port)
    assert [before.store(one) for one in series(1, seed=1) + series(1, seed=2)] == [0, 0]
    daemon.wait_until(lambda: _ask(daemon, CTImageStorage) == CONGESTED, "rejecting", 5)
    assert _ask(daemon, Verification) is None
    status, said = daemon.get("/readyz")
    assert (status, "2 series are not judged yet, 2 may be" in said) == (503, True)
    assert daemon.metric("diptych_pending_series_limit") == 2
    rejected = 'diptych_associations_rejected_total{reason="backlog"}'
    daemon.wait_until(lambda: daemon.metric(rejected) >= 1, "counted", 5)
    # What is under way may finish, up to twice the limit.
    more = [series(1, seed=number)[0] for number in (3, 4)]
    assert [before.store(one) for one in more] == [0, 0]
    daemon.wait_until(lambda: before.store(instance()) == OUT_OF_RESOURCES, "refusing", 5)
    before.release()
    daemon.wait_until(
        lambda: daemon.metric('diptych_store_failures_total{reason="backlog"}') == 1, "counted", 5
    )
    daemon.wait_until(lambda: daemon.metric("diptych_pending_series") == 0, "judged", 60)
    daemon.wait_until(lambda: daemon.get("/readyz")[0] == 200, "ready", 10)
    assert deliver(daemon.port, [instance()]) == [0x0000]


def test_with_too_little_space_associations_are_rejected_as_congested(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon(DIPTYCH_SPOOL__MIN_FREE_BYTES=str(1 << 60)).start()
    assert _ask(daemon, CTImageStorage) == CONGESTED
    assert _ask(daemon, Verification) is None
    rejected = 'diptych_associations_rejected_total{reason="low-space"}'
    daemon.wait_until(lambda: daemon.metric(rejected) == 1, "counted", 5)
    assert daemon.get("/readyz")[0] == 503
    assert daemon.kept_files() == []


def _ask(daemon: Daemon, sop_class: str) -> tuple[int, int, int] | None:
    """Result, source and reason of the rejection of such an association; None: accepted."""
    said: list[tuple[int, int, int]] = []

    def rejected(event: evt.Event) -> None:
        answer = event.assoc.acceptor.primitive
        said.append((answer.result, answer.result_source, answer.diagnostic))

    ae = AE("SENDER")
    ae.add_requested_context(sop_class)
    handlers = [(evt.EVT_REJECTED, rejected)]
    association = ae.associate("127.0.0.1", daemon.port, evt_handlers=handlers)
    if association.is_established:
        association.release()
        return None
    return said[0]
