"""SIGKILL at named points and at random: acknowledged = stored = judged, nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from diptych import faults
from postgres import Server

KILLS = 25


def test_killed_at_every_named_point_and_at_random_it_loses_and_repeats_nothing(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "diptych", "selftest", "crash", "--kills", str(KILLS)]
    more = ["--senders", "3", "--seed", "20231207", "--json", tmp_path / "crash.json"]
    done = subprocess.run(
        [*command, *more, "--keep", tmp_path / "kept"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "crash.json").read_text())
    assert sum(result["kills"].values()) == KILLS
    assert set(result["points"]) == set(faults.POINTS)
    account = result["account"]
    assert account["acknowledged"] == account["stored"] == account["judged"] >= 24
    assert (account["judged_twice"], account["orphans"], account["failed"]) == (0, 0, 0)
    assert account["chain"] == []
    assert f"acknowledged {account['acknowledged']}, stored" in done.stdout


def test_killed_at_random_on_postgresql_it_loses_and_repeats_nothing(
    tmp_path: Path, postgresql: Server
) -> None:
    """Few kills, of processes and of the whole: what is the database's is meant, not the points."""
    database = postgresql.url(postgresql.create())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "diptych", "selftest", "crash", "--database", database),
            *("--kills", "5", "--senders", "2", "--seed", "3"),
            *("--json", tmp_path / "crash.json", "--keep", tmp_path / "kept"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    account = json.loads((tmp_path / "crash.json").read_text())["account"]
    assert account["acknowledged"] == account["stored"] == account["judged"] >= 16
    assert not (tmp_path / "kept" / "data" / "diptych.sqlite3").exists()


def test_an_instance_that_is_gone_is_found_missing_by_the_account(tmp_path: Path) -> None:
    from diptych.audit import migrate, receipts
    from diptych.audit.receipts import Identity
    from diptych.audit.store import Store
    from diptych.config import Config
    from diptych.receive.spool import Spool
    from diptych.selftest.account import take

    config = Config(data=tmp_path)
    store = Store(config.database_url)
    migrate.upgrade(store)
    spool = Spool(config.spool_folder, config.source_names())
    spool.prepare()
    association = receipts.Opening("a", "b", "default", "AE", "127.0.0.1")
    identity = Identity("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2", "1.2.1")
    stored = receipts.Stored("0" * 64, "1.2.840.10008.1.2.1", 10, f"instances/default/ab/{1:032x}")
    receipts.record(store, [receipts.Arrival("default", association, identity, stored)])
    (spool.folder / "instances/default/ab/nobody.dcm").write_bytes(b"without a row")
    account = take(store, spool, tmp_path / "heads", {"1.2.3": "1.2.1", "1.2.4": "1.2.1"})
    store.close()
    found = account.acknowledged, account.stored, account.judged, account.orphans
    assert found == (2, 0, 0, 1)
    assert not account.good
