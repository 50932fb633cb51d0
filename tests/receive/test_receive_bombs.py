"""Objects that lie about their size, sent to a daemon: refused or not screenable, and it lives."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from receive.peers import Peer, acceptor_pids, encoded
from running import Daemon, instance

NOT_SCREENABLE = "not-screenable"
BLACK = (NOT_SCREENABLE, "no-informative-slice")
TOO_LARGE = (NOT_SCREENABLE, "too-large")
# On a machine with little else to do each takes seconds.
SLOW = ((NOT_SCREENABLE, "decoder-timeout"), (NOT_SCREENABLE, "decoder-crashed"), TOO_LARGE)
SECONDS = 400.0
WORKER_GROWTH = 1 << 30
MEBI = 1 << 20
SIDE = 4096
INFLATED = 1200 * MEBI
DEPTH = 10_000
# (0040,A730) with an item, neither of which ends.
NESTED = b"\x40\0\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
PIXEL_DATA = b"\xe0\x7f\x10\0"


def test_bombs_are_not_screenable_and_the_daemon_lives(plain: Daemon) -> None:
    before = _children(plain)
    acceptors = acceptor_pids(plain)
    peak = {pid: _peak(pid) for pid in before}
    deep = instance()
    # Behind the series, so that it is acknowledged.
    pixels = encoded(deep).index(PIXEL_DATA)
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
    nested = whole[:pixels] + NESTED * DEPTH + whole[pixels:]
    assert peer.store_bytes(deep.SOPInstanceUID.encode(), nested) == 0x0000
    peer.release()
    wanted[str(deep.SeriesInstanceUID)] = (NOT_SCREENABLE, "unreadable")

    assert _verdicts(plain, set(wanted)) == wanted
    # Decoders may come and go; acceptor and worker are who they were, and did not grow.
    assert acceptor_pids(plain) == acceptors
    assert set(before) <= set(_children(plain))
    for pid in before:
        assert _peak(pid) - peak[pid] < WORKER_GROWTH


def test_what_expands_a_thousandfold_ends_in_a_verdict_or_a_reason(configured: Daemon) -> None:
    before = _children(configured)
    peak = {pid: _peak(pid) for pid in before}
    wanted: dict[str, set[tuple[str, str | None]]] = {}

    def send(data_set: Dataset, syntax: str, data: bytes, *may: tuple[str, str | None]) -> None:
        assert len(data) < 10 * MEBI
        peer = Peer(configured.port, syntax=syntax, calling="NORTH")
        assert peer.store_bytes(data_set.SOPInstanceUID.encode(), data) == 0x0000
        peer.release()
        wanted[str(data_set.SeriesInstanceUID)] = set(may)

    # 140 bytes and 0.5 MB that are black images of 32 MiB.
    for syntax, frame in ((JPEG2000Lossless, _black_j2k(SIDE)), (RLELossless, _black_rle(SIDE))):
        black = _with(Rows=SIDE, Columns=SIDE)
        black.PixelData = encapsulate([frame])
        black["PixelData"].VR = "OB"
        black["PixelData"].is_undefined_length = True
        send(black, syntax, encoded(black, syntax), BLACK, *SLOW)
    # More than a deflated data set may become; and 8 MB of elements without a value.
    value = struct.pack("<HH2sHI", 0x3001, 0x1001, b"OB", 0, INFLATED) + bytes(INFLATED)
    empty = b"".join(
        struct.pack("<HH2sH", 0x3001 + 2 * (number >> 15), 0x1000 + (number & 0x7FFF), b"LO", 0)
        for number in range(MEBI)
    )
    for more, verdicts in ((value, [TOO_LARGE]), (empty, [("unique", None), *SLOW])):
        data_set = instance()
        data = encoded(data_set)
        at = data.index(PIXEL_DATA)
        deflater = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
        data = deflater.compress(data[:at] + more + data[at:]) + deflater.flush()
        send(data_set, DeflatedExplicitVRLittleEndian, data, *verdicts)
    del value, more
    verdicts = _verdicts(configured, set(wanted))
    assert all(verdicts[uid] in wanted[uid] for uid in wanted), list(verdicts.values())
    assert set(before) <= set(_children(configured))
    for pid in before:
        assert _peak(pid) - peak[pid] < WORKER_GROWTH


def _verdicts(daemon: Daemon, series_uids: set[str]) -> dict[str, tuple[str, str | None]]:
    """Relation and reason by SeriesInstanceUID, when all are judged."""

    def found() -> dict[str, tuple[str, str | None]]:
        rows = daemon.rows(
            "SELECT s.series_instance_uid, v.relation, v.reason FROM verdict v "
            "JOIN revision r ON r.id = v.revision_id JOIN series s ON s.id = r.series_id"
        )
        return {uid: (relation, reason) for uid, relation, reason in rows if uid in series_uids}

    daemon.wait_until(lambda: len(found()) == len(series_uids), "judged", SECONDS)
    return found()


def _with(**elements: int) -> Dataset:
    data_set = instance()
    for keyword, value in elements.items():
        setattr(data_set, keyword, value)
    return data_set


def _codestream(side: int) -> bytes:
    """SOC and SIZ of a JPEG 2000 codestream (ISO/IEC 15444-1 annex A.5.1) of so many pixels."""
    size = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, side, side, 0, 0, 1) + b"\x0b\1\1"
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 2) + size + bytes(100)


def _black_j2k(side: int) -> bytes:
    """A whole codestream: SIZ, COD (5 levels, reversible), QCD, one tile of empty packets
    (ISO/IEC 15444-1 annex A)."""
    levels, style = 5, bytes([0, 0, 0, 1, 0, 5, 4, 4, 0, 1])
    size = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, side, side, 0, 0, 1) + b"\x0b\1\1"
    steps = b"\x20" + bytes([12 << 3]) * (3 * levels + 1)
    parts = [(b"\xff\x51", size), (b"\xff\x52", style), (b"\xff\x5c", steps)]
    parts.append((b"\xff\x90", struct.pack(">HIBB", 0, 0, 0, 1)))
    head = b"".join(marker + struct.pack(">H", len(body) + 2) + body for marker, body in parts)
    return b"\xff\x4f" + head + b"\xff\x93" + bytes(64) + b"\xff\xd9"


def _black_rle(side: int) -> bytes:
    """Two segments of runs of 128 zeros (PS3.5 annex G)."""
    segment = b"\x81\0" * (side * side // 128)
    return struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13) + segment * 2


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
