"""What SIGKILL cannot show, because the page cache survives it: read the system calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from running import Daemon, program, send, series

SMALL = {
    "file": r"openat\([^)]*/incoming/aside\.[^)]*\".*O_EXCL",
    "sync of the journal": r"f(data)?sync\(\d+<[^>]*/journal/[^>]*\.[01]>",
    "its name": r"rename(at2?)?\(.*/incoming/aside\..*/instances/default/[^)]*\.dcm\"",
    "database sync": r"f(data)?sync\(\d+<[^>]*diptych\.sqlite3-wal>",
}
LARGE = {
    "fsync of the file": r"f(data)?sync\(\d+<[^>]*/incoming/[^>]*\.part>",
    "rename": r"rename(at2?)?\(.*\.part\".*\.dcm\"",
    "fsync of the folder": r"f(data)?sync\(\d+<[^>]*/instances/default/[0-9a-f]{2}>",
    "database sync": r"f(data)?sync\(\d+<[^>]*diptych\.sqlite3-wal>",
}
# A P-DATA-TF PDU (PS3.8 section 9.3.5) on a socket: the C-STORE-RSP.
RESPONSE = r"(sendto|sendmsg|write)\(\d+<[^>]*(TCP|socket)[^>]*>.*\"\\4\\0"


@pytest.mark.parametrize(
    ("steps", "telling", "padding"), [(SMALL, "file", 0), (LARGE, "rename", 1_100_000)]
)
def test_every_byte_and_row_is_on_disk_before_the_response(
    make_daemon: Callable[..., Daemon], steps: dict[str, str], telling: str, padding: int
) -> None:
    daemon = make_daemon()
    trace = daemon.data / "trace.txt"
    calls = "trace=openat,rename,renameat,renameat2,fsync,fdatasync,sendto,sendmsg,write"
    daemon.start(program("strace"), "-f", "-y", "-qq", "-o", trace, "-e", calls)
    [data_set] = series(1)
    data_set.DataSetTrailingPadding = bytes(padding)
    assert send(daemon.port, [data_set]) == [0x0000]
    daemon.end()
    assert _steps_before_the_response(trace.read_text(), steps, telling) == list(steps)


def test_the_names_of_all_folders_above_the_data_are_on_disk_before_the_response(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon("one/two/three/data")
    trace = daemon.data / "trace.txt"
    calls = "trace=fsync,fdatasync,sendto,sendmsg,write"
    daemon.start(program("strace"), "-f", "-y", "-qq", "-o", trace, "-e", calls)
    assert send(daemon.port, series(1)) == [0x0000]
    daemon.end()
    before, response, _ = re.split(f"({RESPONSE})", trace.read_text(), maxsplit=1)[:3]
    assert response
    synced = set(re.findall(r"fsync\(\d+<([^>]*)>\) += 0", before))
    wanted = [daemon.data, *daemon.data.parents]
    assert {str(folder) for folder in wanted[: wanted.index(tmp_path) + 1]} <= synced


def _steps_before_the_response(trace: str, steps: dict[str, str], telling: str) -> list[str]:
    """The steps of the thread that made the file, in order, up to the response."""
    lines = trace.splitlines()
    storing = next(line.split()[0] for line in lines if re.search(steps[telling], line))
    last: dict[str, int] = {}
    for number, line in enumerate(lines):
        if re.search(RESPONSE, line):
            break
        for step, pattern in steps.items():
            # "<unfinished ...>" calls end on a later line; the next call of a thread begins after.
            if line.split()[0] == storing and re.search(pattern, line):
                last[step] = number
    else:
        raise AssertionError("no response in the trace")
    return sorted(last, key=lambda step: last[step])
