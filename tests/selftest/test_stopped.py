"""What stops a self-test stops its daemon."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

SECONDS = 60


def _daemons(folder: Path) -> list[Path]:
    """Processes that serve a data folder below ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # gone meanwhile
            continue
        if b"serve" in words and any(word.startswith(bytes(folder)) for word in words):
            found.append(process)
    return found


def _served(folder: Path, wanted: bool) -> bool:
    """Whether there comes to be a daemon, or none."""
    deadline = time.monotonic() + SECONDS
    while bool(_daemons(folder)) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return bool(_daemons(folder)) == wanted


def test_sigterm_to_a_self_test_leaves_no_daemon_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diptych", "selftest", "crash", "--keep", str(tmp_path / "f")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert _served(tmp_path, True), "no daemon was started"
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 128 + signal.SIGTERM
        assert _served(tmp_path, False)
    finally:
        process.kill()
        process.wait()
