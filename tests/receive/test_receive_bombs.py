"""Objects that lie about their size, sent to a daemon: refused or not screenable, and it lives."""

from __future__ import annotations

import struct
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from receive.peers import Peer, acceptor_pids, encoded
from running import Daemon, instance

NOT_SCREENABLE = "not-screenable"
SECONDS = 90.0
WORKER_GROWTH = 1 << 30
DEPTH = 10_000


def test_bombs_are_not_screenable_and_the_daemon_lives(plain: Daemon) -> None:
    before = _children(plain)
    acceptors = acceptor_pids(plain)
    peak = {pid: _peak(pid) for pid in before}
    deep = instance()
    # Behind the series, so that it is acknowledged: (0040,A730) in itself, without end.
    item = b"\x40\0\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * DEPTH
    pixels = encoded(deep).index(b"\xe0\x7f\x10\0")
    bombs = [
        (_with(Rows=65535, Columns=65535), ExplicitVRLittleEndian, None, "too-large"),
        (_with(NumberOfFrames=2**31 - 1), ExplicitVRLittleEndian, None, "too-large"),
        (_with(), JPEG2000Lossless, _codestream(60_000), "decode-failed"),
        (_with(Rows=60_000, Columns=60_000), RLELossless, bytes(200), "too-large"),
        (_with(Rows=8000, Columns=8000), RLELossless, bytes(200), "decode-failed"),
    ]
    wanted = {}
    for data_set, syntax, frame, reason in bombs:
        if frame is not None:
            data_set.PixelData = encapsulate([frame])
            data_set["PixelData"].VR = "OB"
            data_set["PixelData"].is_undefined_length = True
        peer = Peer(plain.port, syntax=syntax)
        data = encoded(data_set, syntax)
        assert peer.store_bytes(data_set.SOPInstanceUID.encode(), data) == 0x0000
        peer.release()
        wanted[str(data_set.SeriesInstanceUID)] = (NOT_SCREENABLE, reason)
    peer = Peer(plain.port)
    whole = encoded(deep)
    nested = whole[:pixels] + item + whole[pixels:]
    assert peer.store_bytes(deep.SOPInstanceUID.encode(), nested) == 0x0000
    peer.release()
    wanted[str(deep.SeriesInstanceUID)] = (NOT_SCREENABLE, "unreadable")

    def found() -> dict[str, tuple[str, str]]:
        rows = plain.rows(
            "SELECT s.series_instance_uid, v.relation, v.reason FROM verdict v "
            "JOIN revision r ON r.id = v.revision_id JOIN series s ON s.id = r.series_id"
        )
        return {uid: (relation, reason) for uid, relation, reason in rows if uid in wanted}

    plain.wait_until(lambda: len(found()) == len(wanted), "judged", SECONDS)
    assert found() == wanted
    # Decoders may come and go; acceptor and worker are who they were, and did not grow.
    assert acceptor_pids(plain) == acceptors
    assert set(before) <= set(_children(plain))
    for pid in before:
        assert _peak(pid) - peak[pid] < WORKER_GROWTH


def _with(**elements: int) -> Dataset:
    data_set = instance()
    for keyword, value in elements.items():
        setattr(data_set, keyword, value)
    return data_set


def _codestream(side: int) -> bytes:
    """SOC and SIZ of a JPEG 2000 codestream (ISO/IEC 15444-1 annex A.5.1) of so many pixels."""
    size = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, side, side, 0, 0, 1) + b"\x0b\1\1"
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 2) + size + bytes(100)


def _children(daemon: Daemon) -> list[int]:
    assert daemon.process is not None
    pid = daemon.process.pid
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sorted(int(c) for task in tasks for c in (task / "children").read_text().split())


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")
