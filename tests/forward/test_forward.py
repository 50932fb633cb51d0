"""What was received reaches the next node: byte for byte, in order, whatever dies meanwhile."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

import forked
from forward.archives import archive, data_set_bytes, free_port, route, storescp
from receive.peers import Peer, encoded
from running import Daemon, instance, send, series

MakeDaemon = Callable[..., Daemon]
SENT = 'diptych_forward_sent_total{destination="archive"}'
PENDING = 'diptych_forward_pending_instances{destination="archive"}'


def test_storescp_gets_the_bytes_that_were_received_in_their_transfer_syntax(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    port = free_port()
    daemon = make_daemon(DIPTYCH_FORWARD=route(port)).start()
    compressed = [instance(seed=5), instance(seed=6)]
    for data_set, syntax in zip(compressed, (RLELossless, JPEG2000Lossless), strict=True):
        data_set.compress(syntax, generate_instance_uid=False)
    with storescp(tmp_path / "onward", port):
        wanted = [*series(6, seed=1), *compressed]
        assert send(daemon.port, wanted) == [0x0000] * 8
        daemon.wait_until(lambda: daemon.metric(SENT) == 8, "sent on", 20)
    received = sorted(data_set_bytes(path) for path in (tmp_path / "onward").iterdir())
    assert received == sorted(data_set_bytes(path) for path in daemon.kept_files())
    assert daemon.metric(PENDING) == 0


@pytest.mark.both
def test_a_destination_that_is_away_gets_everything_when_it_comes_back_in_order_per_series(
    make_daemon: MakeDaemon,
) -> None:
    port = free_port()
    daemon = make_daemon(DIPTYCH_FORWARD=route(port, maximum_associations=3)).start()
    wanted = [series(8, seed=number) for number in range(4)]
    for slices in wanted:
        assert send(daemon.port, slices) == [0x0000] * 8
    failed = 'diptych_forward_failures_total{destination="archive",reason="unreachable"}'
    daemon.wait_until(lambda: daemon.metric(failed) >= 2, "tried", 20)
    # The verdicts do not wait for it.
    daemon.wait_until(lambda: daemon.metric("diptych_pending_series") == 0, "judged", 30)
    assert daemon.metric(PENDING) == 32
    assert daemon.metric('diptych_forward_oldest_pending_seconds{destination="archive"}') > 0
    daemon.kill()
    daemon.start()
    with archive(port) as onward:
        daemon.wait_until(lambda: daemon.metric(PENDING) == 0, "sent on", 30)
    for slices in wanted:
        uids = [d.SOPInstanceUID for d in slices]
        assert [uid for uid in onward.uids if uid in uids] == uids


def test_killed_after_an_answer_it_sends_everything_at_least_once(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    port = free_port()
    daemon = make_daemon(DIPTYCH_FORWARD=route(port)).start(
        DIPTYCH_FAULT="forward.after-answer:kill-daemon@3"
    )
    wanted = series(6, seed=3)
    assert send(daemon.port, wanted) == [0x0000] * 6
    with archive(port) as onward:
        assert daemon.died(), daemon.log()
        assert len(onward.received) == 3
        # And the process alone, with the daemon going on.
        daemon.start(
            DIPTYCH_FAULT="forward.after-answer:kill@2",
            DIPTYCH_FAULT_ONCE=str(tmp_path / "killed"),
        )
        daemon.wait_until(lambda: daemon.metric(PENDING) == 0, "sent on", 30)
    assert "process-died child=forwarder" in daemon.log()
    assert set(onward.uids) == {d.SOPInstanceUID for d in wanted}
    assert len(onward.uids) > 6


def test_an_instance_that_is_refused_steps_aside_and_is_offered_again(
    make_daemon: MakeDaemon,
) -> None:
    port = free_port()
    patient = route(port, retry_seconds=5, longest_retry_seconds=5)
    daemon = make_daemon(DIPTYCH_FORWARD=patient).start()
    wanted = series(5, seed=4)
    bad = wanted[1].SOPInstanceUID
    with archive(port, answer=lambda uid, n: 0xA900 if uid == bad and n < 3 else 0) as onward:
        assert send(daemon.port, wanted) == [0x0000] * 5
        daemon.wait_until(lambda: daemon.metric(SENT) == 4, "the others sent", 20)
        said = _forward(daemon, "list")
        assert said.startswith("archive: 1 waiting")
        assert "1 refused before 0xA900; 0 lost; 4 sent" in said
        daemon.wait_until(lambda: daemon.metric(PENDING) == 0, "taken at last", 20)
    assert onward.uids.count(bad) == 3
    refused = 'diptych_forward_failures_total{destination="archive",reason="refused"}'
    assert daemon.metric(refused) == 2


def test_a_full_destination_gets_the_rest_after_the_one_it_could_not_keep(
    make_daemon: MakeDaemon,
) -> None:
    port = free_port()
    daemon = make_daemon(DIPTYCH_FORWARD=route(port)).start()
    wanted = series(4, seed=5)
    full = wanted[2].SOPInstanceUID
    with archive(port, answer=lambda uid, n: 0xA700 if uid == full and n < 3 else 0) as onward:
        assert send(daemon.port, wanted) == [0x0000] * 4
        daemon.wait_until(lambda: daemon.metric(PENDING) == 0, "sent on", 20)
    uids = [d.SOPInstanceUID for d in wanted]
    assert list(dict.fromkeys(onward.uids)) == uids
    assert onward.uids.count(full) == 3


def test_without_a_presentation_context_only_those_instances_wait(make_daemon: MakeDaemon) -> None:
    port = free_port()
    daemon = make_daemon(DIPTYCH_FORWARD=route(port)).start()
    wanted = series(2, seed=6)
    other = instance(seed=7)
    other.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    with archive(port) as onward:
        assert send(daemon.port, [other, *wanted]) == [0x0000] * 3
        daemon.wait_until(lambda: daemon.metric(SENT) == 2, "the others sent", 20)
        context = 'diptych_forward_failures_total{destination="archive",reason="context"}'
        daemon.wait_until(lambda: daemon.metric(context) >= 1, "counted", 20)
    assert other.SOPInstanceUID not in onward.uids
    assert _forward(daemon, "drop", "archive", "--refused").startswith("archive: 1 instances")
    assert daemon.metric(PENDING) == 0


def test_what_is_sent_again_is_sent_on_again_and_only_from_the_named_sources(
    make_daemon: MakeDaemon,
) -> None:
    port = free_port()
    sources = '[{"name":"ct","ae_titles":["CT"]},{"name":"mr","ae_titles":["MR"]}]'
    daemon = make_daemon(
        DIPTYCH_FORWARD=route(port, sources=["ct"]), DIPTYCH_SOURCE=sources
    ).start()
    wanted = series(2, seed=8)
    with archive(port) as onward:
        assert send(daemon.port, series(2, seed=9), calling="MR") == [0x0000] * 2
        assert send(daemon.port, wanted, calling="CT") == [0x0000] * 2
        daemon.wait_until(lambda: daemon.metric(SENT) == 2, "sent on", 20)
        assert send(daemon.port, deepcopy(wanted), calling="CT") == [0x0000] * 2
        daemon.wait_until(lambda: daemon.metric(SENT) == 4, "sent on again", 20)
    assert sorted(onward.uids) == sorted(2 * [d.SOPInstanceUID for d in wanted])


def test_a_destination_that_never_answers_stalls_neither_receiving_nor_judging_nor_the_stop(
    make_daemon: MakeDaemon,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        daemon = make_daemon(DIPTYCH_FORWARD=route(silent.getsockname()[1])).start()
        assert send(daemon.port, series(3, seed=10)) == [0x0000] * 3
        daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM verdict") == 1, "judged", 30)
        assert daemon.stop() == 0
    assert daemon.value("SELECT count(*) FROM forward WHERE status = 'waiting'") == 3


def test_pixels_are_purged_after_they_were_sent_on_and_not_before(
    make_daemon: MakeDaemon,
) -> None:
    port = free_port()
    daemon = make_daemon(
        DIPTYCH_FORWARD=route(port),
        DIPTYCH_SPOOL__KEEP_DAYS="0",
        DIPTYCH_JOBS__PURGE="0.2",
    ).start()
    assert send(daemon.port, series(3, seed=11)) == [0x0000] * 3
    daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM verdict") == 1, "judged", 30)
    with pytest.raises(AssertionError, match="not purged"):
        daemon.wait_until(lambda: not daemon.kept_files(), "purged", 1.5)
    with archive(port) as onward:
        daemon.wait_until(lambda: not daemon.kept_files(), "purged", 20)
    assert len(onward.received) == 3


def test_a_data_set_that_begins_like_file_meta_is_sent_as_it_is(
    make_daemon: MakeDaemon,
) -> None:
    port = free_port()
    daemon = make_daemon(DIPTYCH_FORWARD=route(port)).start()
    data_set = instance(seed=12)
    # (0002,0100) UI, a private information creator, where only the file meta may have one.
    data = b"\x02\x00\x00\x01UI\x06\x001.2.3\x00" + encoded(data_set)
    peer = Peer(daemon.port)
    assert peer.store_bytes(str(data_set.SOPInstanceUID).encode(), data) == 0x0000
    peer.release()
    with archive(port) as onward:
        daemon.wait_until(lambda: daemon.metric(SENT) == 1, "sent on", 20)
    assert onward.received[0][1] == data


def _forward(daemon: Daemon, *arguments: str) -> str:
    done = forked.run(
        [sys.executable, "-m", "diptych", "forward", *arguments, "--data", daemon.data],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
