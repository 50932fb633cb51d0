"""``diptych selftest crash``: SIGKILL at random and at named points, under real senders.

A life of the daemon begins with a rule for each named point that has not been met in this round:
the process that comes there first dies, or the whole daemon with it. Then an acceptor or the worker
is killed at random moments, and the life ends with the supervisor or the whole group. With more
kills than named points every point is met.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diptych import faults
from diptych.audit import migrate, work
from diptych.audit.store import Store
from diptych.config import load
from diptych.errors import StoreError
from diptych.receive.spool import Spool
from diptych.selftest.account import Account, take
from diptych.selftest.daemon import Daemon, SelftestError
from diptych.selftest.senders import Ledger, Sender

# Seconds between two kills at random, and for which a life waits for its named points.
PAUSE_SECONDS = (0.05, 1.0)
POINTS_SECONDS = 6.0
# A child that dies at once is started again after a second; fewer kills would be none.
KILLS_IN_A_LIFE = 6
WHOLE_DAEMON = 0.3
# Without an acknowledgement or a verdict for so long something is stuck.
STUCK_SECONDS = 180.0
IN_A_NAMED_POINT = "at named points"


@dataclass(frozen=True)
class Crashed:
    """``kills``: by victim; ``points``: how often a process died at each named point."""

    account: Account
    kills: dict[str, int]
    points: dict[str, int]
    starts: int
    seconds: float

    @property
    def good(self) -> bool:
        return self.account.good and self.account.acknowledged > 0

    def as_json(self) -> dict[str, Any]:
        return {"good": self.good, **asdict(self)}


def run(
    folder: Path,
    kills: int,
    senders: int,
    seed: int,
    progress: Callable[[int], object],
    database: str = "",
) -> Crashed:
    """Kill a daemon in the empty folder ``folder`` ``kills`` times and take account.

    ``progress`` hears the number of kills so far; ``database``: the URL of an empty one, else
    SQLite. Raises SelftestError when it is not empty, the daemon does not start again, or nothing
    moves any more.
    """
    began = time.monotonic()
    # The path of a configuration: what a URL may be is said there.
    config = load(overrides={"data": str(folder / "data"), "database": {"url": database}})
    store = Store(config.database_url)
    if database:
        if migrate.current_revision(store) is not None:
            raise SelftestError("the database is not empty: give the self-test one of its own")
        migrate.upgrade(store)
    daemon = Daemon(config.data, config.database.url)
    ledger = Ledger()
    threads = [Sender(n, seed, lambda: daemon.port, ledger) for n in range(senders)]
    rounds = _Rounds(daemon, folder / "met", random.Random(seed), kills, progress)  # noqa: S311
    try:
        for thread in threads:
            thread.start()
        while rounds.done < kills:
            rounds.life()
        daemon.spawn()
        if not daemon.wait_ready():
            raise SelftestError(f"the daemon does not start any more\n{daemon.log()}")
        for thread in threads:
            thread.enough.set()
        _wait(threads, ledger, daemon)
        spool = Spool(config.spool_folder, config.source_names())
        _wait_judged(store, daemon)
        account = take(store, spool, daemon.data / "audit-heads.jsonl", ledger.acknowledged)
        store.close()
    finally:
        daemon.end()
    return Crashed(
        account,
        dict(rounds.kills),
        dict(rounds.points),
        rounds.starts + 1,
        time.monotonic() - began,
    )


class _Rounds:
    """The lives of one daemon and the deaths in them."""

    def __init__(
        self,
        daemon: Daemon,
        met: Path,
        rng: random.Random,
        wanted: int,
        progress: Callable[[int], object],
    ) -> None:
        self._daemon, self._met, self._rng = daemon, met, rng
        self._wanted, self._progress = wanted, progress
        self.kills: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        self.starts = 0
        met.mkdir()

    @property
    def done(self) -> int:
        return self.kills.total()

    @property
    def _to_spare(self) -> int:
        """Kills that may be at random: each named point is met once before all are used up."""
        first = len(faults.POINTS) - len(self.points) if self._wanted > len(faults.POINTS) else 0
        return self._wanted - self.done - first

    def life(self) -> None:
        """From a start to the death of the whole daemon; never more kills than wanted."""
        self._daemon.spawn(
            DIPTYCH_FAULT=";".join(self._rules()), DIPTYCH_FAULT_ONCE=str(self._met / "point")
        )
        self.starts += 1
        if self._daemon.wait_ready():
            self._meet_points()
            for _ in range(self._rng.randrange(KILLS_IN_A_LIFE)):
                time.sleep(self._rng.uniform(*PAUSE_SECONDS))
                self._count_points()
                if self._daemon.alive() and self._to_spare > 1:
                    self._kill_child()
            time.sleep(self._rng.uniform(*PAUSE_SECONDS))
            self._count_points()
            if self._daemon.alive() and self._to_spare > 0:
                victim = self._rng.choice(["supervisor", "group"])
                getattr(self._daemon, f"kill_{victim}")()
                self._count(victim)
        if self._daemon.alive():  # the last kill was a child's, or the rest is for named points
            self._daemon.kill_group()
        self._daemon.wait_gone()
        self._count_points()

    def _rules(self) -> list[str]:
        """One for each point that nobody has died at in this round, most for one process only."""
        left = [p for p in faults.POINTS if not (self._met / f"point.{p}").exists()]
        if not left:
            for marker in self._met.iterdir():
                marker.unlink()
            left = list(faults.POINTS)
        allowed = max(0, self._wanted - self.done)
        self._rng.shuffle(left)
        self._hoped = set(left[:allowed])
        return [
            f"{p}:{'kill-daemon' if self._rng.random() < WHOLE_DAEMON else 'kill'}"
            f"@{self._rng.randint(1, 3)}"
            for p in left[:allowed]
        ]

    def _meet_points(self) -> None:
        deadline = time.monotonic() + POINTS_SECONDS
        while self._daemon.alive() and time.monotonic() < deadline:
            self._count_points()
            if not self._hoped:
                return
            time.sleep(0.05)

    def _count_points(self) -> None:
        """The deaths at named points since the last look."""
        for point in list(self._hoped):
            if (self._met / f"point.{point}").exists():
                self._hoped.discard(point)
                self.points[point] += 1
                self._count(IN_A_NAMED_POINT)

    def _kill_child(self) -> None:
        kind = self._rng.choice(["acceptor", "worker"])
        for pid in self._daemon.children(kind)[:1]:
            if self._daemon.kill_child(pid):
                self._count(kind)

    def _count(self, victim: str) -> None:
        self.kills[victim] += 1
        self._progress(self.done)


def _wait(threads: list[Sender], ledger: Ledger, daemon: Daemon) -> None:
    """Until every sender has all it sent acknowledged."""
    said, at = ledger.answers, time.monotonic()
    while any(thread.is_alive() for thread in threads):
        if ledger.answers != said:
            said, at = ledger.answers, time.monotonic()
        if time.monotonic() - at > STUCK_SECONDS or not daemon.alive():
            raise SelftestError(f"nothing is acknowledged any more\n{daemon.log()}")
        time.sleep(0.05)


def _wait_judged(store: Store, daemon: Daemon) -> None:
    """Until nothing is pending and the daemon is ready."""
    said, at = -1, time.monotonic()
    while True:
        try:
            with store.read() as connection:
                pending, _ = work.pending(connection)
        except StoreError:  # busy for longer than its timeout
            continue
        if pending == 0 and daemon.ready():
            return
        if pending != said:
            said, at = pending, time.monotonic()
        if time.monotonic() - at > STUCK_SECONDS or not daemon.alive():
            raise SelftestError(f"{pending} series are not judged\n{daemon.log()}")
        time.sleep(0.1)
