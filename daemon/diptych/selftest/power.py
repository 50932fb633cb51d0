"""``diptych selftest power``: what is left when the power goes, which a SIGKILL cannot show.

The page cache survives a SIGKILL, so a missing fsync goes unnoticed. Here two lives of a daemon
under real senders are recorded by strace with every byte they write. Then, for many moments of
that record, a folder is made of what the disk owed by then (``disk``), opened as a start opens it,
and asked for every instance acknowledged before that moment.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from diptych.audit import work
from diptych.audit.store import Store
from diptych.audit.verify import verify
from diptych.config import Config
from diptych.data_folder import open_store
from diptych.errors import DiptychError, StoreError
from diptych.selftest import trace
from diptych.selftest.account import stored
from diptych.selftest.daemon import Daemon, SelftestError
from diptych.selftest.disk import Disk, Mode
from diptych.selftest.senders import Ledger, Sender
from diptych.service import open_folder

LIFE_SECONDS = 3.0
JUDGED_SECONDS = 180.0
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 1 << 28  # noqa: S108 - by a name of our own
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Cut:
    """``at``: events before it. ``lost``: acknowledged instances that are not there; ``wrong``: in
    words what else does not hold."""

    at: int
    mode: Mode
    acknowledged: int
    lost: int
    wrong: tuple[str, ...]

    @property
    def good(self) -> bool:
        return not self.lost and not self.wrong


@dataclass(frozen=True)
class PowerCut:
    """``started``: how many of the cuts a whole daemon was started on, until all was judged."""

    events: int
    acknowledged: int
    cuts: tuple[Cut, ...]
    started: int
    seconds: float

    @property
    def good(self) -> bool:
        return self.acknowledged > 0 and all(cut.good for cut in self.cuts)

    def as_json(self) -> dict[str, Any]:
        return {"good": self.good, **asdict(self)}


@dataclass(frozen=True)
class Recorded:
    """The lives of a daemon below ``root``; ``acknowledged``: SOP → Series Instance UID."""

    root: Path
    events: list[trace.Event]
    acknowledged: dict[str, str]


def run(
    folder: Path,
    cuts: int,
    starts: int,
    senders: int,
    seed: int,
    progress: Callable[[int], object],
) -> PowerCut:
    """Record a run in the empty folder ``folder``, then cut its power ``cuts`` times.

    ``starts``: of these, so many are started for real. ``progress`` hears the cuts done. Raises
    SelftestError without strace, or when a daemon does not start.
    """
    began = time.monotonic()
    recorded = record(folder, senders, seed)
    results = replay(recorded, folder / "cuts", cuts, starts, seed, progress)
    return PowerCut(
        len(recorded.events),
        len(recorded.acknowledged),
        tuple(results),
        min(starts, cuts),
        time.monotonic() - began,
    )


def record(folder: Path, senders: int, seed: int) -> Recorded:
    """Two lives of a daemon: the first ends by SIGKILL, so that the second finds work."""
    root = folder / "disk"
    root.mkdir()
    daemon, ledger = Daemon(root / "data"), Ledger()
    daemon.log_file = folder / "log.txt"
    events: list[trace.Event] = []
    for life in range(2):
        file = folder / f"trace.{life}"
        threads = [
            Sender(senders * life + n, seed, lambda: daemon.port, ledger) for n in range(senders)
        ]
        try:
            daemon.spawn(*trace.recorder(file))
            if not daemon.wait_ready():
                raise SelftestError(f"the daemon does not start under strace\n{daemon.log()}")
            for thread in threads:
                thread.start()
            time.sleep(LIFE_SECONDS)
            for thread in threads:
                thread.enough.set()
            for thread in threads:
                thread.join()
            time.sleep(1)
            daemon.kill_supervisor()  # strace ends with the last of them, and its file is whole
            daemon.wait_gone()
        finally:
            daemon.end()
        events += trace.read(file, root)
    return Recorded(root, events, ledger.acknowledged)


def replay(
    recorded: Recorded,
    folder: Path,
    cuts: int,
    starts: int,
    seed: int,
    progress: Callable[[int], object] = lambda _: None,
    modes: Sequence[Mode] = MODES,
) -> list[Cut]:
    """Cut the power at ``cuts`` random moments between the first and the last event."""
    folder.mkdir()
    looked_at = Path(tempfile.mkdtemp(prefix="cuts-", dir=_fast(folder)))
    rng = random.Random(seed)  # noqa: S311 - a test's chance
    moments = sorted(rng.randint(1, len(recorded.events)) for _ in range(cuts))
    started = set(rng.sample(range(cuts), min(starts, cuts)))
    disk, done, results = Disk(recorded.root), 0, []
    for number, moment in enumerate(moments):
        for event in recorded.events[done:moment]:
            disk.apply(event)
        done = moment
        into = looked_at / str(number)
        mode = modes[number % len(modes)]
        disk.cut(into, mode, rng)
        answered = {uid: recorded.acknowledged[uid] for uid in disk.acknowledged}
        lost, wrong = _look(into / "data", answered, for_real=number in started)
        results.append(Cut(moment, mode, len(answered), lost, wrong))
        if results[-1].good:
            shutil.rmtree(into)
        else:
            shutil.move(into, folder)
        progress(number + 1)
    looked_at.rmdir()
    return results


def _fast(folder: Path) -> Path:
    """Where a cut is looked at: what survives it is decided, so memory is as good as a disk."""
    with suppress(OSError):
        if shutil.disk_usage(MEMORY).free > MEMORY_BYTES and os.access(MEMORY, os.W_OK):
            return MEMORY
    return folder


def _look(data: Path, answered: dict[str, str], for_real: bool) -> tuple[int, tuple[str, ...]]:
    """How many of ``answered`` are not there, and what else is wrong."""
    config = Config(data=data)
    wrong: list[str] = []
    data.mkdir(exist_ok=True)
    try:
        if for_real:
            _start(data)
        # Closed whatever comes: SQLite removes its log when the last connection goes.
        with closing(open_store(config)) as store:
            spool, found = open_folder(config, store)
            if found.lost or found.strangers:
                wrong.append(f"{found.lost} files lost, {found.strangers} not to be read")
            there = stored(store, spool, answered)
            with store.read() as connection:
                wrong += verify(connection, data / "audit-heads.jsonl").problems
    except (DiptychError, OSError) as error:
        return len(answered), (f"does not open: {error}",)
    return len(answered.keys() - there), tuple(wrong)


def _start(data: Path) -> None:
    """Start the daemon and wait until all it finds is judged."""
    daemon = Daemon(data)
    daemon.log_file = data.with_suffix(".log")
    try:
        daemon.spawn()
        if not daemon.wait_ready():
            raise SelftestError(f"the daemon does not start\n{daemon.log()}")
        deadline = time.monotonic() + JUDGED_SECONDS
        with closing(Store(Config(data=data).database_url)) as store:
            while True:
                try:
                    with store.read() as connection:
                        pending, _ = work.pending(connection)
                except StoreError:  # busy
                    pending = 1
                if not pending:
                    break
                if time.monotonic() > deadline:
                    raise SelftestError(f"{pending} series are not judged\n{daemon.log()}")
                time.sleep(0.1)
    finally:
        daemon.end()
