"""A delivery is judged in an archive of its own: by the one path, whole, and only once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from diptych.audit import deliveries, verdicts, verify
from diptych.audit.deliveries import Standing
from diptych.audit.schema import event
from diptych.audit.store import Store
from diptych.config import Config
from diptych.data_folder import open_store
from diptych.errors import UsageError
from diptych.intake import materialise as materialising
from diptych.intake.materialise import At
from diptych.screen import accepting, run
from diptych.screen.findings import Screening
from diptych.screen.screening import Wanted, screen
from running import Daemon, send
from screen.small import at, copy_of, processed, said, scan, screened, settings, write, zipped


@pytest.fixture
def chosen(tmp_path: Path) -> Config:
    return settings(tmp_path / "data")


@pytest.fixture
def delivered(tmp_path: Path) -> Path:
    """Three bodies; of the first a copy with new UIDs, the same files again, a processed copy."""
    folder = tmp_path / "delivered"
    one = scan(1)
    write(folder / "a", one)
    write(folder / "b", copy_of(one, 7))
    write(folder / "c", one)
    write(folder / "d", processed(one, 9))
    write(folder / "e", scan(2))
    write(folder / "f", scan(3))
    return folder


def test_copies_inside_are_found_whatever_their_uids(chosen: Config, delivered: Path) -> None:
    found = screened(chosen, "spring", delivered)
    assert found.complete
    assert [said(one)["delivery"] for one in found.series] == [
        ("unique", None),
        ("exact", 1),
        ("exact", 1),
        ("near-duplicate", 1),
        ("unique", None),
        ("unique", None),
    ]
    assert found.entries == sum(outcome.count for outcome in found.outcomes) == 6 * 16


def test_what_lies_in_archives_is_judged_like_what_does_not(
    chosen: Config, delivered: Path, tmp_path: Path
) -> None:
    plain = screened(chosen, "plain", delivered)
    packed = screened(chosen, "packed", zipped(delivered))
    assert [said(one) for one in packed.series] == [said(one) for one in plain.series]
    assert list((tmp_path / "data" / "deliveries" / "packed").glob("scratch/*")) == []


def test_an_accepted_delivery_is_owned_and_one_that_is_not_is_nowhere(
    chosen: Config, delivered: Path, tmp_path: Path
) -> None:
    write(tmp_path / "late" / "x", copy_of(scan(2), 70))
    write(tmp_path / "late" / "y", scan(5))
    screened(chosen, "spring", delivered)
    before = screened(chosen, "before", tmp_path / "late")
    assert said(at(before, "x"))["owned"] == ("unique", None)
    accepting.accept(chosen, "spring", Standing.OWNED)
    after = screened(chosen, "after", tmp_path / "late")
    relation, case = said(at(after, "x"))["owned"]
    assert relation == "exact"
    assert said(at(after, "y"))["owned"] == ("unique", None)
    store = open_store(chosen)
    with store.read() as connection:
        (row,) = [one for one in verdicts.current(connection) if one.case_id == case]
        assert (
            row.series_instance_uid == at(after, "x").principal.matches[1].other.series_instance_uid
        )  # type: ignore[union-attr]
        assert verify.verify(connection, chosen.data / "audit-heads.jsonl").problems == ()
    store.close()


def test_the_headers_of_the_other_side_are_said_wherever_they_are_still_kept(
    make_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = make_daemon().start()
    chosen = settings(daemon.data)
    assert set(send(daemon.port, scan(1))) == {0x0000}
    daemon.wait_until(lambda: daemon.value("SELECT count(*) FROM verdict"), "judged")
    for name, body, standing in (
        ("spring", 2, Standing.OWNED),
        ("gold", 3, Standing.TEST_SET),
    ):
        screened(chosen, name, write(tmp_path / name / "a", scan(body)))
        accepting.accept(chosen, name, standing)
    for body in (1, 2, 3):
        write(tmp_path / "late" / str(body), copy_of(scan(body), 70))
    found = screened(chosen, "late", tmp_path / "late")
    for body, collection in ((1, "owned"), (2, "owned"), (3, "gold")):
        series = at(found, str(body))
        assert series.principal is not None
        (match,) = [one for one in series.principal.matches if one.collection == collection]
        assert match.other is not None
        assert series.facts["Manufacturer"]
        assert match.other.facts == series.facts
    # What was purged is known by its identifiers alone.
    shutil.rmtree(chosen.spool_folder / "instances")
    series = at(screened(chosen, "later", tmp_path / "late" / "1"), "1")
    assert series.principal is not None
    (match,) = [one for one in series.principal.matches if one.collection == "owned"]
    assert match.other is not None
    assert match.other.facts == {}


def test_a_daemon_finds_what_was_accepted_while_it_ran(
    make_daemon: Callable[..., Daemon], delivered: Path
) -> None:
    daemon = make_daemon().start()
    chosen = settings(daemon.data)
    screened(chosen, "spring", delivered)
    accepting.accept(chosen, "spring", Standing.OWNED)
    assert set(send(daemon.port, copy_of(scan(3), 44))) == {0x0000}
    daemon.wait_until(
        lambda: daemon.value("SELECT count(*) FROM verdict WHERE source = 'default'"), "judged"
    )
    assert daemon.rows("SELECT relation FROM verdict WHERE source = 'default'")[0][0] == "exact"
    # Nothing was received of the delivery: alerts must not hear of it.
    assert 'source="spring"' not in daemon.get("/metrics")[1]


def test_a_test_set_is_kept_apart_and_leaks_into_it_are_found(
    chosen: Config, delivered: Path, tmp_path: Path
) -> None:
    screened(chosen, "gold", delivered)
    accepting.accept(chosen, "gold", Standing.TEST_SET)
    write(tmp_path / "late" / "x", processed(scan(2), 70))
    found = screened(chosen, "late", tmp_path / "late")
    (one,) = found.series
    relation, _ = said(one)["gold"]
    assert relation == "near-duplicate"
    assert said(one)["owned"] == ("unique", None)
    assert said(one)["delivery"] == ("unique", None)


def test_a_forgotten_delivery_leaves_chained_events_and_nothing_else(
    chosen: Config, delivered: Path
) -> None:
    screened(chosen, "spring", delivered)
    accepting.accept(chosen, "spring", Standing.OWNED)
    accepting.forget_delivery(chosen, "spring")
    assert not (chosen.data / "deliveries" / "spring").exists()
    store = open_store(chosen)
    with store.read() as connection:
        assert deliveries.everything(connection) == []
        assert verify.verify(connection, chosen.data / "audit-heads.jsonl").problems == ()
        said = list(
            connection.execute(select(event.c.payload).where(event.c.kind == "delivery")).scalars()
        )
    assert [text.split('"act":"')[1].split('"')[0] for text in said] == [
        "screened",
        "accepted",
        "forgotten",
    ]
    store.close()
    names = {str(one.StudyInstanceUID) for one in scan(1)}
    for path in chosen.data.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(name.encode() in content for name in names), path


def test_a_screening_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(
    chosen: Config, delivered: Path
) -> None:
    whole = screened(chosen, "whole", delivered)
    code = (
        "import sys; from pathlib import Path; from screen.small import screened, settings\n"
        "if __name__ == '__main__':\n"
        "    screened(settings(Path(sys.argv[1])), 'broken', Path(sys.argv[2]))"
    )
    points = ("judge.begin:kill@2", "judge.inside-transaction:kill@2", "judge.after-commit:kill@1")
    for fault in points:
        process = subprocess.run(
            [sys.executable, "-c", code, chosen.data, delivered],
            env={**os.environ, "DIPTYCH_FAULT": fault, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=False,
        )
        assert process.returncode == -signal.SIGKILL, process.stderr
    assert _but_for_times(screened(chosen, "broken", delivered)) == _but_for_times(whole)


def test_a_second_run_judges_nothing_again(chosen: Config, delivered: Path) -> None:
    first = screened(chosen, "spring", delivered)
    store = Store(f"sqlite:///{chosen.data / 'deliveries/spring/diptych.sqlite3'}")
    with store.read() as connection:
        newest = verdicts.newest(connection)
    assert _but_for_times(screened(chosen, "spring", delivered)) == _but_for_times(first)
    with store.read() as connection:
        assert verdicts.newest(connection) == newest
    store.close()


def test_more_of_a_delivery_is_judged_beside_what_was(chosen: Config, tmp_path: Path) -> None:
    one = scan(1)
    write(tmp_path / "in" / "b", one)
    screened(chosen, "spring", tmp_path / "in")
    write(tmp_path / "in" / "a", copy_of(one, 3))
    found = screened(chosen, "spring", tmp_path / "in")
    assert said(at(found, "a"))["delivery"] == ("exact", at(found, "b").number)


def test_findings_so_far_can_end_it(
    chosen: Config, delivered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diptych.screen.screening._ASK_SECONDS", 0.0)
    monkeypatch.setattr("diptych.screen.screening._ASK_TIMES", 0)

    def enough(so_far: Screening) -> bool:
        return sum(one.judged for one in so_far.series) >= 2

    wanted = Wanted("spring", "", (str(delivered),))
    with screen(chosen, wanted, enough=enough) as done:
        assert sum(one.judged for one in done.screening.series) == 2
        assert not done.screening.complete
        assert done.screening.stopped
    with pytest.raises(UsageError, match="4 series are left"):
        accepting.accept(chosen, "spring", Standing.OWNED)


def test_what_cannot_be_decoded_is_named_and_counted(chosen: Config, tmp_path: Path) -> None:
    folder = write(tmp_path / "in" / "a", scan(1))
    damaged = folder / "IM0003"
    damaged.write_bytes(damaged.read_bytes()[:-500])
    (one,) = screened(chosen, "spring", tmp_path / "in").series
    assert [reason for _, reason in one.refused] == ["truncated-pixel-data"]
    assert one.principal is not None
    assert "incomplete" in one.principal.flags


@pytest.mark.parametrize("name", ["", "Spring", "a/b", "..", "owned", "x" * 29])
def test_what_cannot_be_a_name_is_refused(chosen: Config, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a delivery"):
        screened(chosen, name, tmp_path)


def test_collections_that_are_not_there_are_refused(chosen: Config, delivered: Path) -> None:
    with pytest.raises(UsageError, match="there is no test set"):
        screened(chosen, "spring", delivered, against=("test-set",))
    with pytest.raises(UsageError, match="--against nowhere"):
        screened(chosen, "spring", delivered, against=("owned", "nowhere"))


def test_who_accepts_hears_what_the_delivery_was_not_compared_with(
    chosen: Config, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        screened(chosen, name, write(tmp_path / name / "a", copy_of(scan(1), len(name))))
    assert accepting.accept(chosen, "first", Standing.OWNED).since == 0
    assert accepting.accept(chosen, "second", Standing.OWNED).since == 1


def test_an_accepted_delivery_is_not_screened_again(chosen: Config, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a", scan(1))
    screened(chosen, "spring", tmp_path / "in")
    accepting.accept(chosen, "spring", Standing.TEST_SET)
    with pytest.raises(UsageError, match="accepted as test-set"):
        screened(chosen, "spring", tmp_path / "in")


def _but_for_times(found: Screening) -> Screening:
    return replace(found, delivery="", began=0, ended=0, seconds=0)


def test_series_that_lie_in_one_archive_are_taken_out_of_it_together(
    chosen: Config, delivered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = Path(shutil.make_archive(str(delivered), "gztar", delivered.parent, delivered.name))
    taken: list[int] = []
    of_archive = materialising._take_out

    def counted(where: bytes, targets: dict[At, Path], *rest: Any) -> None:
        taken.append(len(targets))
        of_archive(where, targets, *rest)

    monkeypatch.setattr(materialising, "_take_out", counted)
    found = screened(chosen, "packed", packed)
    assert taken == [6 * 16]
    assert [said(one)["delivery"][0] for one in found.series].count("exact") == 2
    assert list((chosen.data / "deliveries" / "packed").glob("scratch/*")) == []
    # What does not fit at once comes in turns.
    monkeypatch.setattr(run, "_LAID_BYTES", 3 * found.series[0].bytes - 1)
    assert screened(chosen, "turns", packed).series == found.series
    assert sum(taken[1:]) == 6 * 16
    assert len(taken[1:]) == 3


def test_copies_inside_a_delivery_are_copies_of_each_other_when_it_is_owned(
    chosen: Config, delivered: Path
) -> None:
    screened(chosen, "spring", delivered)
    accepting.accept(chosen, "spring", Standing.OWNED)
    store = open_store(chosen)
    with store.read() as connection:
        rows = verdicts.current(connection)
        original = rows[0].case_id
        # c is a and again: the same files under the same UIDs join once.
        assert [(row.relation, row.matched_case_id) for row in rows] == [
            ("unique", None),
            ("exact", original),
            ("near-duplicate", original),
            ("unique", None),
            ("unique", None),
        ]
        assert verify.verify(connection, chosen.data / "audit-heads.jsonl").problems == ()
    store.close()
    done = subprocess.run(
        [sys.executable, "-m", "diptych", "reverdict", "--since", "1d", "--dry-run", "--json"],
        env={**os.environ, "DIPTYCH_DATA": str(chosen.data)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Their evidence speaks of the cases by the numbers that they have here.
    again = json.loads(done.stdout)
    assert (again["judged"], again["changed"]) == (5, [])


def test_the_body_part_of_both_sides_is_said(chosen: Config, delivered: Path) -> None:
    found = screened(chosen, "spring", delivered)
    for name in ("a", "b"):
        stack = at(found, name).principal
        assert stack is not None
        assert stack.body_part == scan(1)[0].BodyPartExamined
    other = at(found, "b").principal.matches[0].other  # type: ignore[union-attr]
    assert other is not None
    assert other.body_part == scan(1)[0].BodyPartExamined
