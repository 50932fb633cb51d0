"""Bad input: each kind has its status and its metric, and the association goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from receive.peers import PIECE, Peer, encoded, parts
from running import Daemon, instance

# pydicom warns, in this process, about what the tests send.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

UNPARSABLE, MISMATCH = 0xC000, 0xA900
MR = b"1.2.840.10008.5.1.4.1.1.4"
LONG = b"1." + b"2" * 63  # 65 bytes
HOSTILE = (
    "../../../../escaped",
    "/tmp/diptych-escaped",
    "1.2.3\\..\\..\\escaped",
    "1.2\0../../escaped",
    "1.2\r\nforged line",
    "\x1b[2J1.2",
    "$(touch escaped)",
    "%s%n{0}",
    "'; DROP TABLE receipt; --",
    "9" * 10240,
)


@pytest.mark.parametrize(
    "data",
    [
        b"this is no data set, whatever it says",
        b"\0" * 4096,
        encoded(instance())[:30],
        # (0008,0005) with a length far beyond the end
        b"\x08\0\x05\0CS\xf0\xff" + b"A" * 100,
    ],
    ids=["text", "zeros", "cut short", "length beyond the end"],
)
def test_an_unparsable_data_set_is_quarantined_and_the_association_goes_on(
    plain: Daemon, data: bytes
) -> None:
    with _refused(plain, "unparsable", 1):
        peer = Peer(plain.port)
        assert peer.store_bytes(b"1.2.3", data) == UNPARSABLE
        newest = max(_quarantine(plain), key=lambda path: path.stat().st_mtime_ns)
        assert newest.read_bytes().endswith(data)
        assert peer.store(instance()) == 0x0000
        peer.release()


def test_sequences_nested_too_deeply_are_unparsable(plain: Daemon) -> None:
    item = b"\x08\0\x06\0SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    with _refused(plain, "unparsable", 1):
        peer = Peer(plain.port)
        assert peer.store_bytes(b"1.2.3", item * 2000) == UNPARSABLE
        assert peer.store(instance()) == 0x0000
        peer.release()


def test_a_request_without_a_data_set_is_answered(plain: Daemon) -> None:
    with _refused(plain, "unparsable", 1):
        peer = Peer(plain.port)
        assert peer.store_nothing(b"1.2.3") == UNPARSABLE
        assert peer.store(instance()) == 0x0000
        peer.release()


def test_the_quarantine_is_bounded_in_files_and_bytes_and_keeps_the_newest(plain: Daemon) -> None:
    texts = [b"no data set, number %d" % number for number in range(6)]
    with _refused(plain, "unparsable", 8):
        peer = Peer(plain.port)
        assert [peer.store_bytes(b"1.2.3", text) for text in texts] == [UNPARSABLE] * 6
        kept = [path.read_bytes() for path in _quarantine(plain)]
        assert len(kept) == 3
        assert all(any(file.endswith(text) for file in kept) for text in texts[-3:])
        assert plain.metric("diptych_quarantine_files") == 3
        # Two of these are more than the 20,000 bytes that are allowed.
        for _ in range(2):
            assert peer.store_bytes(b"1.2.3", b"no data set " * 1000) == UNPARSABLE
        peer.release()
    assert 12_000 < sum(path.stat().st_size for path in _quarantine(plain)) <= 20_000


@pytest.mark.parametrize(
    ("command_class", "command_instance"),
    [
        (None, b"1.2.3.4.5"),
        (MR, None),
        (None, b""),
        (b"", None),
        (None, LONG),
        (LONG, None),
        (None, b"9" * 10240),
        (b"1.2.840.10008.1.1", None),
        (b"1.2.840.10008.5.1.4.1.2.2.1", None),
    ],
    ids=[
        "another instance",
        "another class",
        "empty instance",
        "empty class",
        "65 bytes of instance",
        "65 bytes of class",
        "10 kB of instance",
        "Verification",
        "Query/Retrieve",
    ],
)
def test_a_uid_of_the_command_that_is_not_the_data_sets_is_a_mismatch(
    plain: Daemon, command_class: bytes | None, command_instance: bytes | None
) -> None:
    data_set = instance()
    uid = data_set.SOPInstanceUID.encode()
    with _refused(plain, "mismatch", 1):
        peer = Peer(plain.port)
        named = uid if command_instance is None else command_instance
        assert peer.store_bytes(named, encoded(data_set), command_class) == MISMATCH
        assert peer.store(instance()) == 0x0000
        peer.release()
    assert plain.rows("SELECT 1 FROM instance WHERE sop_instance_uid = ?", uid.decode()) == []


def test_a_command_without_an_instance_uid_is_a_mismatch(plain: Daemon) -> None:
    with _refused(plain, "mismatch", 1):
        peer = Peer(plain.port)
        assert peer.store_bytes(None, encoded(instance())) == MISMATCH
        assert peer.store(instance()) == 0x0000
        peer.release()


@pytest.mark.parametrize("value", ["", "1." + "2" * 63], ids=["empty", "65 bytes"])
@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID"])
def test_a_uid_of_the_data_set_that_is_empty_or_too_long_is_a_mismatch(
    plain: Daemon, keyword: str, value: str
) -> None:
    data_set = instance()
    uid = data_set.SOPInstanceUID.encode()
    _put(data_set, keyword, value)
    with _refused(plain, "mismatch", 1):
        peer = Peer(plain.port)
        assert peer.store_bytes(uid, encoded(data_set)) == MISMATCH
        peer.release()


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_everywhere_are_stored_under_our_names_or_refused(
    plain: Daemon, text: str
) -> None:
    outside = _listing(plain.data.parent, below=plain.data)
    before = {path.name for path in plain.kept_files()}
    peer = Peer(plain.port)
    statuses = []
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        data_set = instance()
        for named in ("PatientName", "PatientID", "SeriesDescription", "Manufacturer"):
            _put(data_set, named, text)
        _put(data_set, keyword, text)
        command = text if keyword == "SOPInstanceUID" else data_set.SOPInstanceUID
        statuses.append(peer.store_bytes(command.encode(), encoded(data_set)))
    # Whatever the UIDs, hostile texts alone are no reason to refuse.
    harmless = instance()
    _put(harmless, "PatientName", text)
    assert peer.store(harmless) == 0x0000
    peer.release()
    assert set(statuses) <= {0x0000, MISMATCH}
    assert _listing(plain.data.parent, below=plain.data) == outside
    new = {path.name for path in plain.kept_files()} - before
    assert len(new) == statuses.count(0x0000) + 1
    assert all(len(name) == 36 and name.endswith(".dcm") for name in new)
    assert set(map(str, _listing(plain.data))) & {"escaped", "diptych-escaped"} == set()
    log = plain.log()
    assert [c for c in log if not c.isprintable() and c != "\n"] == []
    assert "forged line" not in log
    assert "escaped" not in log


def test_no_patient_reaches_the_log_or_the_metrics(plain: Daemon) -> None:
    data_set = instance()
    data_set.PatientName, data_set.PatientID = "Canary^Bird", "CANARY-77"
    peer = Peer(plain.port)
    uid = data_set.SOPInstanceUID
    assert peer.store(data_set) == 0x0000
    assert peer.store_bytes(b"1.2.3.4.5.6", encoded(data_set)) == MISMATCH
    assert peer.store_bytes(uid.encode(), b"Canary" + encoded(data_set)) == UNPARSABLE
    peer.release()
    query = "SELECT receiving FROM series WHERE series_instance_uid = ?"
    plain.wait_until(lambda: not plain.value(query, data_set.SeriesInstanceUID), "sealed", 10)
    said = plain.log() + plain.get("/metrics")[1] + plain.get("/readyz")[1]
    for secret in ("canary", uid, data_set.SeriesInstanceUID, "1.2.3.4.5.6"):
        assert secret not in said.lower()


def test_a_large_instance_in_many_fragments_leaves_no_temporary_file(plain: Daemon) -> None:
    data_set = instance()
    data_set.PixelData = bytes(64 * PIECE)
    peer = Peer(plain.port)
    assert peer.store(data_set) == 0x0000
    peer.release()
    assert parts(plain) == []


@contextmanager
def _refused(daemon: Daemon, reason: str, by: int) -> Iterator[None]:
    """The failure metric of this reason grows by exactly so much, no other does."""
    sample = 'diptych_store_failures_total{{reason="{}"}}'
    reasons = ("storage", "database", "mismatch", "unparsable", "not-authorised", "low-space")

    def read() -> dict[str, float]:
        return {name: daemon.metric(sample.format(name)) for name in reasons}

    before = read()
    yield
    wanted = {**before, reason: before[reason] + by}
    daemon.wait_until(lambda: read() == wanted, f"counted as {reason}", 5)


def _quarantine(daemon: Daemon) -> list[Path]:
    return list((daemon.data / "spool" / "quarantine").iterdir())


def _put(data_set: Dataset, keyword: str, value: str) -> None:
    """Set a value as raw bytes: pydicom would refuse to write it."""
    tag = Tag(keyword)
    data = value.encode() + b"\0" * (len(value) % 2)
    data_set[tag] = RawDataElement(tag, dictionary_VR(tag), len(data), data, 0, False, True)


def _listing(folder: Path, below: Path | None = None) -> set[Path]:
    """Everything below a folder except what lies below ``below``."""
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if below is None or not path.is_relative_to(below)
    }
