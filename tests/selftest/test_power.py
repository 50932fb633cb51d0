"""The power-cut simulation: nothing acknowledged is lost, and a forgotten fsync is seen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diptych.selftest import power
from diptych.selftest.disk import without_syncs
from running import program

CUTS = 45


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> power.Recorded:
    """Two lives of a daemon under two senders, as strace saw them."""
    program("strace")
    return power.record(tmp_path_factory.mktemp("power"), senders=2, seed=7)


def test_what_was_acknowledged_before_a_power_cut_is_there_after_it(
    recorded: power.Recorded, tmp_path: Path
) -> None:
    cuts = power.replay(recorded, tmp_path / "cuts", CUTS, starts=1, seed=7)
    assert len(recorded.acknowledged) >= 16
    assert max(cut.acknowledged for cut in cuts) > min(cut.acknowledged for cut in cuts)
    assert [cut for cut in cuts if not cut.good] == []


@pytest.mark.parametrize(
    "forgotten",
    [
        r"/journal/[0-9a-f]{32}\.[01]",
        r"/journal",
        r"/incoming/.*\.part",
        r"/instances/default/[0-9a-f]{2}",
        r"/instances/default/[0-9a-f]{2}/[0-9a-f]{32}\.dcm",
        r"/diptych\.sqlite3-wal",
        r"/instances",
        r"/disk/data",
        r"/disk",
    ],
)
def test_a_forgotten_fsync_loses_what_was_acknowledged(
    recorded: power.Recorded, tmp_path: Path, forgotten: str
) -> None:
    events = without_syncs(recorded.events, lambda path: bool(re.search(f"{forgotten}$", path)))
    assert len(events) < len(recorded.events)
    worse = power.Recorded(recorded.root, events, recorded.acknowledged)
    cuts = power.replay(worse, tmp_path / "cuts", 6, starts=0, seed=7, modes=("nothing",))
    assert sum(cut.lost for cut in cuts) > 0
