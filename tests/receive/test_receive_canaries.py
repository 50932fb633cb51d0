"""A canary in every text of a header: none in logs, metrics, answers or what commands print."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

import forked
from receive.peers import Peer, encoded
from running import Daemon, instance

# pydicom warns, in this process, about what the tests send.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

CANARY = "ZEBRA77"
# Dates and numbers too: a header says what it likes.
TEXTS = {
    "AE",
    "AS",
    "CS",
    "DA",
    "DS",
    "DT",
    "IS",
    "LO",
    "LT",
    "PN",
    "SH",
    "ST",
    "TM",
    "UC",
    "UR",
    "UT",
}
# What files the instance and what makes it an image.
KEPT = (0x0008, 0x0028)
KEPT_TAGS = (0x00080008, 0x00080060, 0x00200032, 0x00200037, 0x00280030, 0x00281052, 0x00281053)


@pytest.mark.parametrize("form", ["console", "json"])
def test_canaries_in_every_text_attribute_appear_nowhere(
    make_daemon: Callable[..., Daemon], form: str
) -> None:
    plain = make_daemon(
        DIPTYCH_SERIES__ASSOCIATION_SECONDS="2",
        DIPTYCH_LOG__FORMAT=form,
        DIPTYCH_LOG__LEVEL="DEBUG",
    ).start()
    good, unread = _instance(), _instance()
    uid = good.SOPInstanceUID
    peer = Peer(plain.port, calling="CANARIES")
    assert peer.store(good) == 0x0000
    assert peer.store_bytes(b"1.2.77777.1", encoded(good)) == 0xA900
    cut = encoded(unread)[:120] + CANARY.encode() * 30
    assert peer.store_bytes(unread.SOPInstanceUID.encode(), cut) == 0xC000
    peer.release()
    judged = (
        "SELECT v.relation FROM verdict v JOIN revision r ON r.id = v.revision_id "
        "JOIN series s ON s.id = r.series_id WHERE s.series_instance_uid = ?"
    )
    plain.wait_until(lambda: plain.rows(judged, good.SeriesInstanceUID), "judged", 60)
    said = plain.log() + "".join(plain.get(path)[1] for path in ("/metrics", "/readyz", "/healthz"))
    for arguments in (
        ("verdicts",),
        ("verdicts", "--format", "json"),
        ("verdicts", "--format", "csv"),
        ("audit", "verify"),
        ("index", "verify"),
        ("config", "show"),
    ):
        command = [sys.executable, "-m", "diptych", *arguments, "--data", str(plain.data)]
        done = forked.run(command, check=False, capture_output=True, text=True, timeout=120)
        assert "Traceback" not in done.stderr
        said += done.stdout + done.stderr
    said += "".join(peer.comments)
    assert len(peer.comments) == 2
    for event in ("store-refused", "association-ended", "series-sealed", "verdict"):
        assert event in plain.log()
    for secret in (CANARY.lower(), "1.2.77777", uid):
        assert secret not in said.lower(), secret


def _instance() -> Dataset:
    data_set = instance()
    present = {int(tag) for tag in data_set.keys()}  # noqa: SIM118
    for tag, (vr, *_) in DicomDictionary.items():
        group = tag >> 16
        if group in (0x0000, 0x0002) or vr not in TEXTS or tag in KEPT_TAGS:
            continue
        if tag in present and group in KEPT:
            continue
        _put(data_set, tag, vr, CANARY)
    item = Dataset()
    _put(item, 0x00100010, "PN", CANARY)
    _put(item, 0x00100020, "LO", CANARY)
    data_set.OtherPatientIDsSequence = [item]
    data_set.add_new(0x00090010, "LO", CANARY)
    data_set.add_new(0x00091001, "LO", CANARY)
    data_set.FrameOfReferenceUID = "1.2.77777.2"
    return data_set


def _put(data_set: Dataset, number: int, vr: str, value: str) -> None:
    tag, data = Tag(number), value.encode() + b" " * (len(value) % 2)
    data_set[tag] = RawDataElement(tag, vr, len(data), data, 0, False, True)
