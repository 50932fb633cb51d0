"""What systemd is told of the daemon, as sd_notify(3) describes: one datagram to $NOTIFY_SOCKET.

Without that variable (not started by systemd, or not Type=notify) nothing is said.
"""

from __future__ import annotations

import math
import os
import socket
import time
from contextlib import suppress


def say(**fields: str | int) -> None:
    """Send the fields in upper case, such as ``say(ready=1, status="receiving")``.

    A service manager that does not listen is no reason to stop receiving: errors are dropped.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    # "@" stands for the NUL of an abstract socket.
    path = "\0" + address[1:] if address[0] == "@" else address
    message = "\n".join(f"{name.upper()}={value}" for name, value in fields.items())
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.setblocking(False)
        sending.sendto(message.encode(), path)


class Manager:
    """What is said again and again, no more often than there is need."""

    def __init__(self) -> None:
        self._every, self._alive_at, self._status = _watchdog_seconds(), -math.inf, ""

    def alive(self) -> None:
        if self._every is not None and time.monotonic() - self._alive_at >= self._every:
            self._alive_at = time.monotonic()
            say(watchdog=1)

    def status(self, words: str) -> None:
        """One line for ``systemctl status``."""
        if words != self._status:
            self._status = words
            say(status=words)


def _watchdog_seconds() -> float | None:
    """Half of what this process may be silent for (sd_watchdog_enabled(3)); None: for ever."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdigit() else None
