"""Real senders: each instance is sent until it is acknowledged, and every answer is written down.

Every series is noise drawn for it alone, so that an exact match means that it was judged twice.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

SLICES = 8
ROWS = 32
# One slice of every other series is more than is received in memory, by DataSetTrailingPadding
# (FFFC,FFFC).
PADDING_BYTES = 1_100_000
# A killed peer never answers; what was not answered is sent again.
ANSWER_SECONDS = 5.0
RETRY_SECONDS = 0.1
# No longer than this between two instances, so that kills meet every moment of a series.
PAUSE_SECONDS = 0.05
SUCCESS = 0x0000


class Ledger:
    """What was acknowledged: SOP Instance UID → Series Instance UID, once each."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, str] = {}
        self.answers = 0
        self._lock = threading.Lock()

    def write(self, instance: Dataset) -> None:
        """The daemon has answered 0x0000."""
        with self._lock:
            self.answers += 1
            self.acknowledged[str(instance.SOPInstanceUID)] = str(instance.SeriesInstanceUID)

    def misses(self, instance: Dataset) -> bool:
        with self._lock:
            return str(instance.SOPInstanceUID) not in self.acknowledged


class Sender(threading.Thread):
    """Sends one series after the other until ``enough``, and finishes the one it has begun."""

    def __init__(
        self, number: int, seed: int, port: Callable[[], int | None], ledger: Ledger
    ) -> None:
        super().__init__(daemon=True)
        self._seeds = np.random.SeedSequence([seed, number])
        self._rng = random.Random(f"{seed}/{number}")  # noqa: S311 - a test's chance
        self._port, self._ledger = port, ledger
        self.enough = threading.Event()
        self.series = 0

    def run(self) -> None:
        while not self.enough.is_set():
            (entropy,) = self._seeds.spawn(1)
            wanted = noise_series(np.random.default_rng(entropy))
            if self.series % 2 == 0:
                wanted[-1].DataSetTrailingPadding = bytes(PADDING_BYTES)
            self.series += 1
            while pending := [instance for instance in wanted if self._ledger.misses(instance)]:
                self._send(pending)
                time.sleep(RETRY_SECONDS)

    def _send(self, instances: list[Dataset]) -> None:
        """One association, as far as it goes."""
        port = self._port()
        if port is None:
            return
        ae = AE("SELFTEST")
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ANSWER_SECONDS
        association = ae.associate("127.0.0.1", port, ae_title="DIPTYCH")
        for instance in instances:
            if not association.is_established:
                break
            try:
                answer = association.send_c_store(instance)
            except RuntimeError:  # it ended between the two lines
                break
            if "Status" in answer and answer.Status == SUCCESS:
                self._ledger.write(instance)
            time.sleep(self._rng.uniform(0, PAUSE_SECONDS))
        if association.is_established:
            association.release()


def noise_series(rng: np.random.Generator, slices: int = SLICES) -> list[Dataset]:
    """CT slices of 12-bit noise, ``ROWS`` × ``ROWS``, 1 mm apart."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    return [_slice(rng, study, series, frame, number + 1) for number in range(slices)]


def _slice(rng: np.random.Generator, study: str, series: str, frame: str, number: int) -> Dataset:
    instance = Dataset()
    instance.file_meta = FileMetaDataset()
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    instance.SOPClassUID, instance.SOPInstanceUID = CTImageStorage, generate_uid()
    instance.StudyInstanceUID, instance.SeriesInstanceUID = study, series
    instance.FrameOfReferenceUID = frame
    instance.PatientName, instance.PatientID = "Selftest", "SELFTEST"
    instance.Modality, instance.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    instance.InstanceNumber = number
    instance.ImagePositionPatient = [0.0, 0.0, float(number)]
    instance.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    instance.PixelSpacing, instance.SliceThickness = [1, 1], 1
    instance.Rows = instance.Columns = ROWS
    instance.SamplesPerPixel, instance.PhotometricInterpretation = 1, "MONOCHROME2"
    instance.BitsAllocated, instance.BitsStored, instance.HighBit = 16, 12, 11
    instance.PixelRepresentation = 0
    instance.RescaleIntercept, instance.RescaleSlope = -1024, 1
    instance.PixelData = rng.integers(0, 4096, (ROWS, ROWS), dtype=np.uint16).tobytes()
    return instance
