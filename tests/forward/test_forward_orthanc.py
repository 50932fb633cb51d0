"""Orthanc as the archive behind us, and as the one that asks for storage commitment."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

from pydicom import dcmread

from forward.archives import free_port, route
from forward.requesters import Modality, references
from orthanc import orthanc
from running import Daemon, program, send, series

MakeDaemon = Callable[..., Daemon]


def test_orthanc_gets_everything_commits_it_and_that_is_passed_on(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    program("Orthanc")
    port, modality = free_port(), Modality(free_port())
    daemon = make_daemon(
        DIPTYCH_FORWARD=route(port, commit=True),
        DIPTYCH_COMMITMENT__MODE="relay",
        DIPTYCH_COMMITMENT__REQUESTER=modality.configured,
    ).start()
    slices = series(5, seed=21)
    assert send(daemon.port, slices) == [0x0000] * 5
    with modality.listening(), orthanc(tmp_path / "o", port, free_port(), daemon.port) as archive:
        _, transaction = modality.ask(daemon.port, references(slices))
        said = daemon.wait_until(lambda: modality.reports.get(transaction), "reported", 60)
        files = [archive.file(one) for one in archive.get("/instances")]
    assert said[:2] == (1, {d.SOPInstanceUID for d in slices})
    found = {d.SOPInstanceUID: d for d in (dcmread(io.BytesIO(file)) for file in files)}
    assert found == {d.SOPInstanceUID: d for d in slices}


def test_orthanc_asks_for_storage_commitment_and_gets_its_report(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    program("Orthanc")
    modality = Modality(free_port(), "ARCHIVE")
    daemon = make_daemon(
        DIPTYCH_COMMITMENT__MODE="own",
        DIPTYCH_SPOOL__KEEP_DAYS="forever",
        DIPTYCH_COMMITMENT__REQUESTER=modality.configured,
    ).start()
    slices = series(3, seed=22)
    assert send(daemon.port, slices) == [0x0000] * 3
    with orthanc(tmp_path / "o", modality.port, free_port(), daemon.port) as asking:
        asked = [*references(slices), ("1.2.840.10008.5.1.4.1.1.2", "1.2.3.4")]
        path = asking.post("/modalities/diptych/storage-commitment", {"DicomInstances": asked})
        said = daemon.wait_until(
            lambda: (
                asking.get(path["Path"])
                if asking.get(path["Path"])["Status"] != "Pending"
                else None
            ),
            "reported",
            40,
        )
    assert {one["SOPInstanceUID"] for one in said["Success"]} == {d.SOPInstanceUID for d in slices}
    assert [(f["SOPInstanceUID"], f["FailureReason"]) for f in said["Failures"]] == [
        ("1.2.3.4", 0x0112)
    ]
