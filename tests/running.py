"""A real daemon in a process of its own, and real senders for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from forked import Popen
from support import missing

START_SECONDS = 60.0
_ANY_PORTS = ("--dicom-port", "0", "--http-port", "0")


class Daemon:
    """``diptych serve`` on a data folder, on ports the system chooses."""

    def __init__(self, data: Path, **environment: str) -> None:
        self.data = data
        self.environment = {
            "DIPTYCH_SERIES__QUIET_SECONDS": "0.5",
            "DIPTYCH_SERIES__ASSOCIATION_SECONDS": "5",
            "DIPTYCH_JOBS__SEAL": "0.1",
            "DIPTYCH_SPOOL__MIN_FREE_BYTES": "0",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self, *under: str | Path, **environment: str) -> None:
        """Start the process, ``under`` another program perhaps, without waiting for it."""
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "ports.json").unlink(missing_ok=True)
        log = (self.data / "log.txt").open("ab")
        self.process = Popen(
            [*under, sys.executable, "-m", "diptych", "serve", "--data", self.data, *_ANY_PORTS],
            env={**os.environ, **self.environment, **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()

    def start(self, *under: str | Path, **environment: str) -> Daemon:
        """Start and wait until it is ready."""
        self.spawn(*under, **environment)
        self.wait_until(lambda: self._ports() is not None, "ready")
        return self

    @property
    def port(self) -> int:
        ports = self._ports()
        assert ports, self.log()
        return int(ports["dicom"])

    @property
    def http_port(self) -> int:
        ports = self._ports()
        assert ports, self.log()
        return int(ports["http"])

    def get(self, path: str, port: int | None = None, **headers: str) -> tuple[int, str]:
        """Status and body of an HTTP GET; ``port``: where one is known before it is ready."""
        url = f"http://127.0.0.1:{port or self.http_port}{path}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, sample: str) -> float:
        """The value of one sample, its labels as the exposition prints them."""
        for line in self.get("/metrics")[1].splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        raise AssertionError(f"no sample {sample}")

    def wait_until(
        self, condition: Callable[[], Any], what: str, seconds: float = START_SECONDS
    ) -> Any:
        """Poll until ``condition`` holds; fail with the log when it does not or the daemon dies."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            assert self.process is not None
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"not {what}: exit {self.process.poll()}\n{self.log()}")  # type: ignore[union-attr]

    def rows(self, query: str, *parameters: object) -> list[Any]:
        """Read the audit database beside the daemon: values by number and by name."""
        if url := self.environment.get("DIPTYCH_DATABASE__URL"):
            import postgres

            return list(postgres.rows(url, query, parameters))
        with closing(sqlite3.connect(self.data / "diptych.sqlite3", timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(query, parameters).fetchall()

    def value(self, query: str, *parameters: object) -> Any:
        return self.rows(query, *parameters)[0][0]

    def kept_files(self) -> list[Path]:
        return sorted((self.data / "spool" / "instances").glob("*/*/*.dcm"))

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=15)

    def kill(self) -> None:
        """SIGKILL the supervisor; its children must follow by themselves."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def died(self, seconds: float = 30) -> bool:
        assert self.process is not None
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self) -> None:
        """Whatever state it is in: no process of it stays behind."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def log(self) -> str:
        path = self.data / "log.txt"
        return path.read_text() if path.exists() else "(no log)"

    def _ports(self) -> dict[str, int] | None:
        try:
            said: dict[str, int] = json.loads((self.data / "ports.json").read_text())
        except OSError:
            return None
        return said


def instance(
    series_uid: str | None = None,
    study_uid: str | None = None,
    number: int = 1,
    pixels: np.ndarray | None = None,
    seed: int | None = None,
) -> Dataset:
    """A small CT slice that a foreign peer would accept."""
    if pixels is None:
        pixels = _grain(seed)
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.SOPClassUID = CTImageStorage
    data_set.SOPInstanceUID = generate_uid()
    data_set.StudyInstanceUID = study_uid or generate_uid()
    data_set.SeriesInstanceUID = series_uid or generate_uid()
    data_set.PatientName, data_set.PatientID = "Canary^Test", "CANARY-1"
    data_set.Modality = "CT"
    data_set.InstanceNumber = number
    data_set.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data_set.ImagePositionPatient = [0, 0, float(number)]
    data_set.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data_set.PixelSpacing = [1, 1]
    data_set.SliceThickness = 1
    data_set.FrameOfReferenceUID = generate_uid(entropy_srcs=[data_set.StudyInstanceUID])
    data_set.Rows, data_set.Columns = pixels.shape
    data_set.SamplesPerPixel, data_set.PhotometricInterpretation = 1, "MONOCHROME2"
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = 16, 12, 11
    data_set.PixelRepresentation = 0
    data_set.RescaleIntercept, data_set.RescaleSlope = -1024, 1
    data_set.PixelData = pixels.astype("<u2").tobytes()
    return data_set


def _grain(seed: int | None) -> np.ndarray:
    """Noise on patches of noise: of noise alone one slice in forty would be told to be just that,
    and be masked."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 3072, (8, 8), dtype=np.uint16).repeat(4, 0).repeat(4, 1)
    return patches + rng.integers(0, 1024, patches.shape, dtype=np.uint16)


def series(slices: int = 4, seed: int = 0) -> list[Dataset]:
    """One series of noise slices."""
    series_uid, study_uid = generate_uid(), generate_uid()
    return [
        instance(series_uid, study_uid, number + 1, seed=seed * 1000 + number)
        for number in range(slices)
    ]


def send(
    port: int,
    instances: Iterable[Dataset],
    calling: str = "SENDER",
    called: str = "DIPTYCH",
    patience: float = 20,
) -> list[int]:
    """Send over one association; returns the statuses (-1: no answer), fewer if it was lost."""
    wanted = list(instances)
    ae = AE(calling)
    for sop_class, syntax in {
        (str(d.SOPClassUID), str(d.file_meta.TransferSyntaxUID)) for d in wanted
    }:
        ae.add_requested_context(sop_class, syntax)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = patience
    association = ae.associate("127.0.0.1", port, ae_title=called)
    statuses = []
    for data_set in wanted:
        if not association.is_established:
            break
        try:
            answer = association.send_c_store(data_set)
        except RuntimeError:
            break
        statuses.append(int(answer.Status) if "Status" in answer else -1)
    if association.is_established:
        association.release()
    return statuses


def program(name: str) -> str:
    """A Debian program, or a loud skip. In an active virtual environment pynetdicom's own
    ``storescu`` and others of DCMTK's names would come first."""
    own = Path(sys.prefix, "bin") if sys.prefix != sys.base_prefix else None
    others = [p for p in os.get_exec_path() if Path(p) != own]
    found = shutil.which(name, path=os.pathsep.join(others))
    return found or missing(f"the program {name} (a Debian package)")
