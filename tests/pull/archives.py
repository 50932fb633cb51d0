"""DCMTK's archive, what it holds, and the command that fetches it."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.dataset import Dataset

import forked
from cli.command_line import command, environment
from running import Daemon, program, series

SETTINGS = """
NetworkTCPPort  = {port}
MaxPDUSize      = 16384
MaxAssociations = 16
HostTable BEGIN
diptych = (DIPTYCH, 127.0.0.1, {node})
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
ARCHIVE {folder} RW (200, 1024mb) ANY
AETable END
"""


@contextmanager
def dcmqrscp(folder: Path, port: int, node_port: int) -> Iterator[None]:
    (folder / "db").mkdir(parents=True, exist_ok=True)
    settings = SETTINGS.format(port=port, node=node_port, folder=folder / "db")
    (folder / "dcmqrscp.cfg").write_text(settings)
    with (folder / "log.txt").open("ab") as log:
        made = subprocess.Popen(
            [program("dcmqrscp"), "-c", folder / "dcmqrscp.cfg"], stdout=log, stderr=log
        )
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert time.monotonic() < deadline, (folder / "log.txt").read_text()
            time.sleep(0.05)
    try:
        yield
    finally:
        made.kill()
        made.wait()


def dated(day: str, modality: str, seed: int, slices: int = 3) -> list[Dataset]:
    made = series(slices, seed=seed)
    for data_set in made:
        data_set.StudyDate, data_set.Modality = day, modality
        data_set.StudyTime, data_set.AccessionNumber, data_set.StudyID = "120000", "", "1"
        data_set.SeriesNumber = 1
    return made


def pull(
    daemon: Daemon, port: int, *arguments: object, **more: str
) -> subprocess.CompletedProcess[str]:
    asked = ("pull", f"ARCHIVE@127.0.0.1:{port}", "--data", daemon.data, *arguments)
    return forked.run(
        command(*asked),
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def held(daemon: Daemon) -> set[str]:
    return {row[0] for row in daemon.rows("SELECT sop_instance_uid FROM instance")}
