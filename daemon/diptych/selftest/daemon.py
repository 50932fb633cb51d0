"""``diptych serve`` in a process group of its own: start it, find its processes, kill them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from diptych.errors import DiptychError

START_SECONDS = 180.0
# The kernel takes the children of a killed supervisor along; a loaded machine gets plenty.
GONE_SECONDS = 30.0

# As ps shows them: service.py names its children so.
COMMANDS = {"acceptor": "diptych-accept", "worker": "diptych-worker"}

ENVIRONMENT = {
    "DIPTYCH_SERIES__QUIET_SECONDS": "0.5",
    "DIPTYCH_SERIES__ASSOCIATION_SECONDS": "5",
    "DIPTYCH_JOBS__SEAL": "0.1",
    "DIPTYCH_JOBS__SNAPSHOT": "0.3",
    # A series whose worker is killed again and again is our doing, not its own.
    "DIPTYCH_DECODE__ATTEMPTS": "1000000",
}
"""A series is complete soon and the index is written often: more happens between two kills."""


class SelftestError(DiptychError):
    """The self-test itself cannot go on: a daemon that does not start, a sender that gives up."""


class Daemon:
    """One daemon on the folder ``data``; its log is ``log.txt`` beside that folder. ``database``:
    the URL of one of its own, empty: SQLite."""

    def __init__(self, data: Path, database: str = "") -> None:
        self.data, self._database = data, database
        self.log_file = data.parent / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self, *under: str, **environment: str) -> None:
        """Start it, ``under`` another program perhaps, without waiting for it."""
        (self.data / "ports.json").unlink(missing_ok=True)
        own = {k: v for k, v in os.environ.items() if not k.upper().startswith("DIPTYCH_")}
        if self._database:
            own["DIPTYCH_DATABASE__URL"] = self._database
        command = [sys.executable, "-m", "diptych", "serve", "--data", str(self.data)]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [*under, *command, "--dicom-port", "0", "--http-port", "0"],
                env={**own, **ENVIRONMENT, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> bool:
        """Whether it became ready; False: it died before. Raises SelftestError when neither."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._ports():
                return True
            if not self.alive():
                return False
            time.sleep(0.02)
        raise SelftestError(f"the daemon did not become ready\n{self.log()}")

    def alive(self) -> bool:
        """Whether the process we started is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def port(self) -> int | None:
        """The DICOM port; None while it is down or starting."""
        return self._ports().get("dicom")

    @property
    def supervisor(self) -> int | None:
        """Its process, also where it runs under another program."""
        return self._ports().get("pid")

    def children(self, kind: str) -> list[int]:
        """Processes of ``kind`` (a key of COMMANDS) that are there now."""
        parent = self.supervisor
        found = []
        with suppress(OSError):
            listed = Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii")
            for child in map(int, listed.split()):
                with suppress(OSError):
                    if Path(f"/proc/{child}/comm").read_text("utf-8").strip() == COMMANDS[kind]:
                        found.append(child)
        return found

    def ready(self) -> bool:
        """What /readyz says; False when it does not answer."""
        port = self._ports().get("http")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill_child(self, pid: int) -> bool:
        """SIGKILL to one of ``children``; whether it was still there."""
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def kill_supervisor(self) -> None:
        """SIGKILL to the supervisor alone; its children must follow by themselves."""
        with suppress(ProcessLookupError):
            os.kill(self.supervisor or self._started().pid, signal.SIGKILL)

    def kill_group(self) -> None:
        """SIGKILL to all of its processes at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._started().pid, signal.SIGKILL)

    def wait_gone(self) -> None:
        """Wait until none of its processes is left. Raises SelftestError: one goes on without the
        supervisor, and an acceptor would go on acknowledging."""
        self._started().wait()
        deadline = time.monotonic() + GONE_SECONDS
        while time.monotonic() < deadline:
            try:
                os.killpg(self._started().pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.02)
        raise SelftestError("processes of a killed daemon are still there")

    def end(self) -> None:
        """Whatever state it is in: no process of it stays behind."""
        if self._process is not None:
            self.kill_group()
            self._process.wait()

    def log(self) -> str:
        """The last lines of what it wrote."""
        text = self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else "(no log)"
        return "\n".join(text.splitlines()[-30:])

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _ports(self) -> dict[str, int]:
        try:
            said: dict[str, int] = json.loads((self.data / "ports.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return said
