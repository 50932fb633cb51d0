"""What the tests of the commands share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from running import Daemon

COMMAND_SECONDS = 60

Diptych = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Archive:
    """A running daemon and what it was sent, in this order."""

    daemon: Daemon
    original: list[Dataset]
    copy: list[Dataset]
    stranger: list[Dataset]
    report: Dataset
    document: Dataset
    without_pixels: Dataset

    @property
    def data(self) -> Path:
        return self.daemon.data


def environment(**more: str) -> dict[str, str]:
    """Ours without any setting of Diptych, and ``more``."""
    ours = {k: v for k, v in os.environ.items() if not k.upper().startswith("DIPTYCH_")}
    return {**ours, **more}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "diptych", *map(str, arguments)]


def judged(daemon: Daemon, verdicts: int) -> None:
    """Wait until so many verdicts are recorded."""
    daemon.wait_until(
        lambda: daemon.value("SELECT count(*) FROM verdict") >= verdicts, f"{verdicts} verdicts"
    )


def renamed(instances: list[Dataset]) -> list[Dataset]:
    """The same slices under new UIDs."""
    series_uid, study_uid = generate_uid(), generate_uid()
    made = deepcopy(instances)
    for data_set in made:
        data_set.SeriesInstanceUID, data_set.StudyInstanceUID = series_uid, study_uid
        data_set.SOPInstanceUID = generate_uid()
    return made
