"""Who is told "committed" may delete its originals: it is said only where it is true."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

import forked
from cli.command_line import command, environment
from diptych.config import load
from diptych.errors import ConfigError
from forward.archives import free_port, route
from forward.requesters import CommittingArchive, Modality, information, references
from running import Daemon, instance, send, series

UNREPORTED = "diptych_commitment_pending_requests"
FORGOTTEN = "SELECT payload FROM event WHERE kind = 'forget' ORDER BY seq"
MakeDaemon = Callable[..., Daemon]
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
OWN = {
    "DIPTYCH_COMMITMENT__MODE": "own",
    "DIPTYCH_SPOOL__KEEP_DAYS": "forever",
    # Were it not for ever, all would go at once.
    "DIPTYCH_SPOOL__PURGE_BELOW_FREE_BYTES": str(10**18),
    "DIPTYCH_JOBS__PURGE": "0.2",
}


def _owning(make_daemon: MakeDaemon, modality: Modality, **more: str) -> Daemon:
    return make_daemon(DIPTYCH_COMMITMENT__REQUESTER=modality.configured, **OWN, **more).start()


def _reported(daemon: Daemon, modality: Modality, transaction: str, seconds: float = 20) -> tuple:
    return daemon.wait_until(lambda: modality.reports.get(transaction), "reported", seconds)


def test_by_default_storage_commitment_is_not_offered(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    assert Modality(free_port()).ask(daemon.port, [(CT, "1.2.3")])[0] is None


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ('mode = "own"', 'set spool.keep_days = "forever"'),
        ('mode = "relay"', "set commit = true"),
    ],
)
def test_a_promise_that_could_not_be_kept_is_refused_at_the_start(
    tmp_path: Path, said: str, wanted: str
) -> None:
    peer = '[[commitment.requester]]\nae_title = "CT1"\nhost = "h"\nport = 104\n'
    (tmp_path / "d.toml").write_text(f"[commitment]\n{said}\n{peer}")
    with pytest.raises(ConfigError, match=wanted):
        load(tmp_path / "d.toml")
    (tmp_path / "d.toml").write_text(f"[commitment]\n{said}\n")
    with pytest.raises(ConfigError, match="requester: at least one"):
        load(tmp_path / "d.toml")


@pytest.mark.both
def test_every_instance_is_answered_for_by_what_lies_on_disk(make_daemon: MakeDaemon) -> None:
    modality = Modality(free_port())
    sources = '[{"name":"ct","ae_titles":["CT1"]},{"name":"other-one","ae_titles":["X"]}]'
    daemon = _owning(make_daemon, modality, DIPTYCH_SOURCE=sources)
    good, bad, foreign = series(4, seed=1), instance(seed=2), instance(seed=3)
    assert send(daemon.port, [*good, bad], calling="CT1") == [0x0000] * 5
    assert send(daemon.port, [foreign], calling="X") == [0x0000]
    _spoil(daemon, bad)
    wanted = {
        good[3].SOPInstanceUID: 0x0119,
        "1.2.3.4": 0x0112,
        bad.SOPInstanceUID: 0x0110,
        foreign.SOPInstanceUID: 0x0112,
        "1.2.3.5": 0x0122,
    }
    asked = [*references(good[:3]), (MR, good[3].SOPInstanceUID), (CT, "1.2.3.4")]
    asked += [(CT, bad.SOPInstanceUID), (CT, foreign.SOPInstanceUID), ("1.2.3.9", "1.2.3.5")]
    with modality.listening():
        status, transaction = modality.ask(daemon.port, asked)
        assert status == 0x0000
        kept = {d.SOPInstanceUID for d in good[:3]}
        assert _reported(daemon, modality, transaction) == (2, kept, wanted)
        status, transaction = modality.ask(daemon.port, references(good))
        assert _reported(daemon, modality, transaction)[:2] == (
            1,
            {d.SOPInstanceUID for d in good},
        )
    assert daemon.metric('diptych_commitments_total{outcome="committed"}') == 7
    assert daemon.metric('diptych_commitments_total{outcome="failed"}') == 5


def test_a_transaction_uid_that_is_used_again_fails_with_its_reason(
    make_daemon: MakeDaemon,
) -> None:
    modality = Modality(free_port())
    daemon = _owning(make_daemon, modality)
    slices = series(2, seed=4)
    assert send(daemon.port, slices) == [0x0000] * 2
    # Asked twice because the answer was lost: one request.
    _, transaction = modality.ask(daemon.port, references(slices))
    assert modality.ask(daemon.port, references(slices), transaction)[0] == 0x0000
    assert daemon.value("SELECT count(*) FROM commitment") == 1
    with modality.listening():
        assert _reported(daemon, modality, transaction, 30)[0] == 1
        modality.reports.clear()
        assert modality.ask(daemon.port, references(slices[:1]), transaction)[0] == 0x0000
        failed = {slices[0].SOPInstanceUID: 0x0131}
        assert _reported(daemon, modality, transaction) == (2, set(), failed)


def test_what_is_no_request_is_refused_with_its_status(make_daemon: MakeDaemon) -> None:
    modality = Modality(free_port())
    daemon = _owning(make_daemon, modality)
    good = information("1.2.3", [(CT, "1.2.4")])
    nothing = information("1.2.3", [])
    no_uid = information("1.2.3", [(CT, "1.2.4")])
    no_uid.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = ""
    assert modality.ask_with(daemon.port, good, action=2) == 0x0123
    assert modality.ask_with(daemon.port, good, instance="1.2.840.10008.1.20.1.9") == 0x0112
    assert modality.ask_with(daemon.port, nothing) == 0x0115
    assert modality.ask_with(daemon.port, no_uid) == 0x0115
    assert Modality(1, "NOBODY").ask_with(daemon.port, good) == 0x0110
    assert "[[commitment.requester]]" in daemon.log()
    assert daemon.value("SELECT count(*) FROM commitment") == 0


def test_a_report_that_could_not_be_delivered_is_delivered_after_a_restart(
    make_daemon: MakeDaemon,
) -> None:
    modality = Modality(free_port())
    daemon = _owning(make_daemon, modality)
    slices = series(3, seed=5)
    assert send(daemon.port, slices) == [0x0000] * 3
    _, transaction = modality.ask(daemon.port, references(slices))
    daemon.wait_until(
        lambda: daemon.value("SELECT max(attempts) FROM commitment WHERE status = 'decided'"),
        "tried",
        20,
    )
    assert daemon.metric("diptych_commitment_pending_requests") == 1
    daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM verdict") == 1, "judged", 30)
    assert len(daemon.kept_files()) == 3
    daemon.kill()
    with modality.listening():
        daemon.start()
        assert _reported(daemon, modality, transaction, 40)[:2] == (
            1,
            {d.SOPInstanceUID for d in slices},
        )
        daemon.wait_until(
            lambda: daemon.metric("diptych_commitment_pending_requests") == 0, "done", 10
        )


def test_what_was_promised_for_good_is_not_purged_under_another_configuration(
    make_daemon: MakeDaemon,
) -> None:
    modality = Modality(free_port())
    daemon = _owning(make_daemon, modality)
    promised, other = series(2, seed=6), series(2, seed=7)
    assert send(daemon.port, [*promised, *other]) == [0x0000] * 4
    with modality.listening():
        _, transaction = modality.ask(daemon.port, references(promised))
        _reported(daemon, modality, transaction)
    daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM verdict") == 2, "judged", 30)
    assert daemon.stop() == 0
    daemon.environment.pop("DIPTYCH_COMMITMENT__MODE")
    daemon.environment["DIPTYCH_SPOOL__KEEP_DAYS"] = "0"
    daemon.environment["DIPTYCH_JOBS__PURGE"] = "0.2"
    daemon.start()
    daemon.wait_until(lambda: len(daemon.kept_files()) == 2, "purged", 20)
    with pytest.raises(AssertionError, match="not purged"):
        daemon.wait_until(lambda: len(daemon.kept_files()) < 2, "purged", 1)


def test_relayed_an_instance_is_committed_after_the_archive_has_committed_it(
    make_daemon: MakeDaemon,
) -> None:
    modality, port = Modality(free_port()), free_port()
    daemon = make_daemon(
        DIPTYCH_COMMITMENT__MODE="relay",
        DIPTYCH_COMMITMENT__REQUESTER=modality.configured,
        DIPTYCH_FORWARD=route(port, commit=True),
        DIPTYCH_SPOOL__KEEP_DAYS="0",
        DIPTYCH_JOBS__PURGE="0.2",
        # The archive is no source: it may report all the same.
        DIPTYCH_SOURCE='[{"name":"ct","ae_titles":["CT1"]}]',
    ).start()
    slices = series(3, seed=8)
    assert send(daemon.port, slices, calling="CT1") == [0x0000] * 3
    with modality.listening():
        _, transaction = modality.ask(daemon.port, references(slices))
        onward = CommittingArchive(port, daemon.port)
        onward.silent = True
        sent = 'diptych_forward_sent_total{destination="archive"}'
        daemon.wait_until(lambda: daemon.metric(sent) == 3, "sent on", 20)
        asked = "SELECT count(asked_at) FROM forward"
        daemon.wait_until(lambda: daemon.value(asked) == 3, "asked", 30)
        # Sent on and judged, and yet neither committed nor purged.
        daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM verdict") == 1, "judged", 30)
        assert modality.reports == {}
        assert len(daemon.kept_files()) == 3
        assert send(daemon.port, series(1, seed=9), calling="ARCHIVE") == [0x0124]
        onward.silent = False
        # It never reported: it is asked again, in an hour; here at once.
        _execute(daemon, "UPDATE forward SET asked_at = 0")
        kept = {d.SOPInstanceUID for d in slices}
        assert _reported(daemon, modality, transaction, 60)[:2] == (1, kept)
        daemon.wait_until(lambda: not daemon.kept_files(), "purged", 20)
    onward.close()


def test_what_the_archive_does_not_hold_is_sent_to_it_again_and_not_committed(
    make_daemon: MakeDaemon,
) -> None:
    modality, port = Modality(free_port()), free_port()
    daemon = make_daemon(
        DIPTYCH_COMMITMENT__MODE="relay",
        DIPTYCH_COMMITMENT__RELAY_HOURS=str(15 / 3600),
        DIPTYCH_COMMITMENT__REQUESTER=modality.configured,
        DIPTYCH_FORWARD=route(port, commit=True),
    ).start()
    onward = CommittingArchive(port, daemon.port)
    slices = series(3, seed=10)
    onward.refusing = {slices[1].SOPInstanceUID}
    assert send(daemon.port, slices) == [0x0000] * 3
    failed = 'diptych_forward_failures_total{destination="archive",reason="uncommitted"}'
    daemon.wait_until(lambda: daemon.metric(failed) == 1, "said", 30)
    waits = daemon.rows(
        "SELECT i.sop_instance_uid FROM forward f JOIN instance i "
        "ON i.id = f.instance_id WHERE f.status = 'waiting'"
    )
    assert [row[0] for row in waits] == [slices[1].SOPInstanceUID]
    with modality.listening():
        _, transaction = modality.ask(daemon.port, references(slices))
        kept = {slices[0].SOPInstanceUID, slices[2].SOPInstanceUID}
        wanted = (2, kept, {slices[1].SOPInstanceUID: 0x0110})
        assert _reported(daemon, modality, transaction, 60) == wanted
    onward.close()


def test_what_was_committed_is_not_forgotten_unless_that_is_said(make_daemon: MakeDaemon) -> None:
    modality = Modality(free_port())
    daemon = _owning(make_daemon, modality)
    promised, other = series(2, seed=11), series(2, seed=12)
    assert send(daemon.port, [*promised, *other]) == [0x0000] * 4
    daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM verdict") == 2, "judged", 30)
    with modality.listening():
        _, transaction = modality.ask(daemon.port, [*references(promised), (CT, "1.2.3.4")])
        assert _reported(daemon, modality, transaction)[0] == 2
    daemon.wait_until(lambda: daemon.metric(UNREPORTED) == 0, "written down", 10)
    assert _forget(daemon, other).returncode == 0
    refused = _forget(daemon, promised)
    assert refused.returncode == 2
    assert "2 of its instances were committed to CT1 (storage commitment)" in refused.stderr
    assert "--committed forgets them all the same" in refused.stderr
    assert len(daemon.kept_files()) == 2
    done = _forget(daemon, promised, "--committed")
    assert done.returncode == 0, done.stderr
    assert daemon.kept_files() == []
    assert daemon.value("SELECT count(*) FROM commitment_item") == 0
    said = [json.loads(row[0]) for row in daemon.rows(FORGOTTEN)]
    assert [one.get("promised") for one in said] == [None, 2]
    assert _diptych("audit", "verify", "--data", daemon.data).returncode == 0


@pytest.mark.parametrize("decided", [False, True])
def test_what_is_forgotten_before_its_report_is_reported_as_not_here(
    make_daemon: MakeDaemon, decided: bool
) -> None:
    modality = Modality(free_port())
    daemon = _owning(make_daemon, modality)
    slices = series(2, seed=13)
    assert send(daemon.port, slices) == [0x0000] * 2
    daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM verdict") == 1, "judged", 30)
    _, transaction = modality.ask(daemon.port, references(slices))
    tried = "SELECT count(*) FROM commitment WHERE status = 'decided' AND attempts > 0"
    daemon.wait_until(lambda: daemon.value(tried), "tried", 20)
    assert daemon.stop() == 0
    if not decided:
        _execute(daemon, "UPDATE commitment SET status = 'open'")
    assert _forget(daemon, slices).returncode == 2
    assert _forget(daemon, slices, "--committed").returncode == 0
    with modality.listening():
        daemon.start()
        reported = _reported(daemon, modality, transaction, 40)
        assert reported == (2, set(), {d.SOPInstanceUID: 0x0112 for d in slices})
        daemon.wait_until(lambda: daemon.metric(UNREPORTED) == 0, "written down", 10)
    assert daemon.value("SELECT count(*) FROM commitment_item") == 0


def test_the_promise_made_to_one_source_outlives_what_another_sent_under_the_same_uids(
    make_daemon: MakeDaemon,
) -> None:
    modality = Modality(free_port())
    sources = '[{"name":"ct","ae_titles":["CT1"]},{"name":"other-one","ae_titles":["X"]}]'
    daemon = _owning(make_daemon, modality, DIPTYCH_SOURCE=sources)
    slices = series(2, seed=14)
    assert send(daemon.port, slices, calling="CT1") == [0x0000] * 2
    assert send(daemon.port, slices, calling="X") == [0x0000] * 2
    daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM verdict") == 2, "judged", 30)
    with modality.listening():
        _, transaction = modality.ask(daemon.port, references(slices))
        assert _reported(daemon, modality, transaction)[0] == 1
    case = "SELECT v.case_id FROM verdict v JOIN series s ON s.id = v.series_id WHERE s.source = ?"
    forgotten = daemon.value(case, "other-one")
    assert _diptych("forget", forgotten, "--data", daemon.data).returncode == 0
    assert daemon.value("SELECT count(*) FROM commitment_item") == 2
    kept = daemon.value(case, "ct")
    assert _diptych("forget", kept, "--data", daemon.data).returncode == 2


def _forget(
    daemon: Daemon, instances: list[Dataset], *options: str
) -> subprocess.CompletedProcess[str]:
    uid = str(instances[0].SeriesInstanceUID)
    case = daemon.value("SELECT case_id FROM verdict WHERE series_instance_uid = ?", uid)
    return _diptych("forget", case, *options, "--data", daemon.data)


def _diptych(*arguments: object) -> subprocess.CompletedProcess[str]:
    return forked.run(
        command(*arguments), env=environment(), capture_output=True, text=True, check=False
    )


def _spoil(daemon: Daemon, data_set: Dataset) -> None:
    """Flip one bit of an instance on disk."""
    locator = daemon.value(
        "SELECT b.locator FROM instance i JOIN blob b ON b.id = i.blob_id "
        "WHERE i.sop_instance_uid = ?",
        data_set.SOPInstanceUID,
    )
    path = daemon.data / "spool" / locator
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _execute(daemon: Daemon, statement: str) -> None:
    with closing(sqlite3.connect(daemon.data / "diptych.sqlite3", timeout=30)) as connection:
        connection.execute(statement)
        connection.commit()
