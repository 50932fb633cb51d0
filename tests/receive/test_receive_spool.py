"""A transfer in flight, whatever becomes of its association meanwhile."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom.dsutils import encode

from diptych.audit import migrate, receipts
from diptych.audit.store import Store
from diptych.config import Config
from diptych.errors import StoreError
from diptych.receive import encoded
from diptych.receive.journal import Journal
from diptych.receive.keeper import Arrival, Keeper
from diptych.receive.listener import Listener, _Peer
from diptych.receive.spool import Spool


def test_what_was_discarded_while_it_was_being_stored_is_not_taken_for_empty(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path / "spool", ("default",))
    spool.prepare()
    part = spool.part("a" * 32, "b" * 32)
    part.write(b"what the sender sent")
    assert part.head(4) == b"what"
    # The association is aborted while its thread waits for the database.
    part.discard()
    with pytest.raises(StoreError, match="the association ended"):
        part.content()


def test_what_one_acceptor_left_unfinished_is_told_from_what_another_is_writing(
    tmp_path: Path,
) -> None:
    spool = Spool(tmp_path, ("default",))
    spool.prepare()
    dead, alive = "d" * 32, "a" * 32
    left = []
    for acceptor in (dead, alive):
        part = spool.part("b" * 32, acceptor)
        part.write(b"half")
        part.sync()
        left.append({part.path, spool.write_aside(acceptor, b"whole")})
    assert set(spool.orphans(dead)) == left[0]
    assert set(spool.orphans()) == left[0] | left[1]
    # A file that only waits for its name is no transfer that may still come to its end.
    assert set(spool.in_flight()) == {"b" * 32}


def test_an_association_that_ends_while_its_first_instance_is_kept_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(data=tmp_path)
    store = Store(config.database_url)
    migrate.upgrade(store)
    spool = Spool(config.spool_folder, config.source_names())
    spool.prepare()
    keeping = Journal(spool, "a" * 32)
    keeper = Keeper(store, spool, keeping)
    listener = Listener(config, store, spool, keeper, "a" * 32)
    listener._gate = SimpleNamespace(take_dropped=dict)
    listener._storage = {CTImageStorage}
    association, peer = Mock(is_alive=lambda: False), _Peer("default", "CT", "::1")
    listener._associations[association] = peer
    keep = keeper.keep

    def late(arrival: Arrival) -> receipts.Recorded:
        listener._sweep()
        return keep(arrival)

    monkeypatch.setattr(keeper, "keep", late)
    part = spool.part(peer.name, "a" * 32)
    uids = (CTImageStorage, "1.2.3", ExplicitVRLittleEndian)
    part.write(b"\0" * 128 + b"DICM")
    part.begin(encoded.file_meta(*uids))
    part.write(encode(slice_of(*uids[:2]), False, True))
    request = SimpleNamespace(AffectedSOPClassUID=uids[0], AffectedSOPInstanceUID=uids[1])
    event = SimpleNamespace(request=request, context=SimpleNamespace(transfer_syntax=uids[2]))
    assert listener._store_instance(event, part, peer, 0.0) == 0x0000
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT closed_at IS NOT NULL FROM association").all()
    assert rows == [(1,)]
    keeping.close()
    store.close()


def slice_of(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    data_set = Dataset()
    data_set.SOPClassUID, data_set.SOPInstanceUID = sop_class_uid, sop_instance_uid
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "1.2", "1.2.1"
    return data_set
