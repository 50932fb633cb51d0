"""What a stop leaves and a restart finds in the spool; counters that a SIGKILL does not bend."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from diptych import metrics
from diptych.receive.spool import content_sha256, data_set_offset
from receive.peers import Peer, associate_request, deliver, encoded, lone_acceptor
from receive.sockets import A_ASSOCIATE_AC, connector, type_of_answer
from running import Daemon, instance, series

RECEIPTS = 'diptych_receipts_total{source="default"}'
BYTES = 'diptych_received_bytes_total{source="default"}'


@pytest.mark.both
def test_after_a_sigkill_counters_are_exact_and_spool_and_database_agree(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon().start()
    _every_child_is_zero(daemon)
    slices = series(5, seed=81)
    size = sum(len(encoded(data_set)) for data_set in slices)
    assert deliver(daemon.port, slices) == [0x0000] * 5
    half = Peer(daemon.port)
    data_set = instance()
    data_set.DataSetTrailingPadding = bytes(1_100_000)  # more than is received in memory
    half.begin(b"1.2.3", encoded(data_set))
    incoming = daemon.data / "spool" / "incoming"
    daemon.wait_until(lambda: list(incoming.glob("*.part")), "receiving half an instance")
    spool = daemon.data / "spool"
    # As long as it holds their bytes, a file that is gone comes back.
    daemon.wait_until(
        lambda: not any(path.read_bytes().strip(b"\0") for path in (spool / "journal").iterdir()),
        "an empty journal",
    )
    daemon.kill()

    shard = spool / "instances" / "default" / "ab"
    unknown = instance()
    unknown.save_as(shard / f"ab{0:030x}.dcm", enforce_file_format=True)
    kept, lost = [path for path in daemon.kept_files() if path.parent != shard][:2]
    copied = shard / f"ab{1:030x}.dcm"  # its bytes are known under another name
    copied.write_bytes(kept.read_bytes())
    lost.unlink()
    foreign = {
        shard / f"ab{2:030x}.dcm": b"no DICOM at all",
        shard / f"ab{3:030x}.dcm": bytes(128) + b"DICM" + b"\xff" * 200,
        shard / "IM0001.dcm": b"a name that we do not give",
        spool / "instances" / "notes.txt": b"an operator's notes",
    }
    for path, content in foreign.items():
        path.write_bytes(content)
    (shard / f"ab{4:030x}.dcm").mkdir()
    (spool / "incoming" / "folder").mkdir()
    (spool / "incoming" / "orphan.part").write_bytes(b"half an instance")

    daemon.start()
    # What was acknowledged, a whole instance without a row, and a copy of a known one.
    size += len(encoded(unknown)) + content_sha256(kept, data_set_offset(kept))[1]
    assert daemon.metric(RECEIPTS) == daemon.value("SELECT count(*) FROM receipt") == 5 + 2
    assert daemon.metric(BYTES) == size
    assert "spool-reconciled registered=2 orphans=2 lost=1 strangers=4" in daemon.log()
    registered = daemon.rows(
        "SELECT r.association_id FROM receipt r JOIN instance i ON i.id = r.instance_id "
        "WHERE i.sop_instance_uid = ?",
        unknown.SOPInstanceUID,
    )
    assert [row["association_id"] for row in registered] == [None]
    assert not list((spool / "incoming").glob("*.part"))
    for path, content in foreign.items():
        assert path.read_bytes() == content
        assert str(path.relative_to(spool)) in daemon.log()
    assert kept.exists()
    assert not copied.exists()
    assert deliver(daemon.port, [instance()]) == [0x0000]


def _every_child_is_zero(daemon: Daemon) -> None:
    """Every labelled counter of this room is there before anything happened."""
    body = daemon.get("/metrics")[1].splitlines()
    wanted = {
        "diptych_receipts_total": ("default", "other"),
        "diptych_received_bytes_total": ("default", "other"),
        "diptych_resends_total": ("default", "other"),
        "diptych_store_failures_total": metrics.STORE_FAILURES,
        "diptych_associations_rejected_total": metrics.REJECTIONS,
    }
    for name, values in wanted.items():
        label = "reason" if set(values) - {"default", "other"} else "source"
        for value in values:
            assert f'{name}{{{label}="{value}"}} 0.0' in body


def test_many_open_associations_do_not_keep_an_acceptor_from_stopping_in_time(
    tmp_path: Path,
) -> None:
    with lone_acceptor(tmp_path / "data") as acceptor, ExitStack() as stack:
        connect = connector(stack, acceptor.port)
        for _ in range(60):
            assert type_of_answer(connect(associate_request(b"IDLE"))) == A_ASSOCIATE_AC
        os.kill(acceptor.pid, signal.SIGTERM)
        # The supervisor kills it after 8; one after the other they took 15.
        acceptor.wait(12)
