"""What lies between two runs: files, folders and other archives that are not what they were."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diptych import config
from diptych.audit import deliveries, duplicates, verdicts, verify
from diptych.audit.deliveries import Standing
from diptych.config import Config
from diptych.data_folder import open_store
from diptych.embed.manifest import ModelEntry
from diptych.errors import ConfigError, UsageError
from diptych.intake.catalogue import Catalogue
from diptych.screen import accepting, screening
from diptych.screen.screening import Wanted, screen
from screen.small import at, copy_of, said, scan, screened, settings, write


@pytest.fixture
def chosen(tmp_path: Path) -> Config:
    return settings(tmp_path / "data")


def test_files_with_another_time_are_no_copies_of_what_they_were(
    chosen: Config, tmp_path: Path
) -> None:
    folder = write(tmp_path / "in" / "a", scan(1))
    write(tmp_path / "in" / "b", scan(2))
    screened(chosen, "spring", tmp_path / "in")
    for path in folder.iterdir():
        os.utime(path, ns=(1, 1))
    found = screened(chosen, "spring", tmp_path / "in")
    assert [said(one)["delivery"] for one in found.series] == [("unique", None)] * 2


def test_what_is_in_it_no_more_is_matched_no_more_and_joins_nothing(
    chosen: Config, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "a", scan(1))
    write(tmp_path / "in" / "b", copy_of(scan(1), 3))
    screened(chosen, "spring", tmp_path / "in")
    shutil.rmtree(tmp_path / "in" / "a")
    (one,) = screened(chosen, "spring", tmp_path / "in").series
    assert said(one)["delivery"] == ("unique", None)
    assert accepting.accept(chosen, "spring", Standing.OWNED).series == 1


def test_equal_headers_of_other_values_are_other_series(chosen: Config, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        folder = tmp_path / "in" / name
        folder.mkdir(parents=True)
        values = np.stack([one.pixel_array for one in scan(seed)]).astype("<i2")
        values.tofile(folder / "image.raw")
        k, j, i = values.shape
        (folder / "image.mhd").write_text(
            f"ObjectType = Image\nNDims = 3\nDimSize = {i} {j} {k}\nElementSpacing = 2.5 2.5 5\n"
            "ElementType = MET_SHORT\nElementDataFile = image.raw\n"
        )
    found = screened(chosen, "spring", tmp_path / "in")
    assert [said(one)["delivery"] for one in found.series] == [("unique", None)] * 2


def test_other_series_of_the_same_uids_join_what_is_owned_too(
    chosen: Config, tmp_path: Path
) -> None:
    one, other = scan(1), scan(2)
    for mine, theirs in zip(one, other, strict=True):
        theirs.StudyInstanceUID = mine.StudyInstanceUID
        theirs.SeriesInstanceUID = mine.SeriesInstanceUID
    write(tmp_path / "in" / "a", one)
    write(tmp_path / "in" / "b", other)
    write(tmp_path / "in" / "c", one)  # of these files one is enough
    screened(chosen, "spring", tmp_path / "in")
    done = accepting.accept(chosen, "spring", Standing.OWNED)
    assert (done.series, done.before) == (2, 1)
    write(tmp_path / "late" / "x", copy_of(other, 5))
    found = screened(chosen, "late", tmp_path / "late")
    assert said(at(found, "x"))["owned"][0] == "exact"


def test_nothing_stays_of_a_forgotten_series_that_could_not_be_judged(
    chosen: Config, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "a", scan(1))
    damaged = scan(2)
    for path in write(tmp_path / "in" / "b", damaged).iterdir():
        path.write_bytes(path.read_bytes()[:-500])
    screened(chosen, "spring", tmp_path / "in")
    done = accepting.accept(chosen, "spring", Standing.OWNED)
    assert (done.series, done.before) == (1, 0)
    accepting.forget_delivery(chosen, "spring")
    name = str(damaged[0].StudyInstanceUID).encode()
    for path in filter(Path.is_file, chosen.data.rglob("*")):
        assert name not in path.read_bytes(), path


def test_another_delivery_of_the_same_name_is_another_one(chosen: Config, tmp_path: Path) -> None:
    write(tmp_path / "gold" / "a", scan(1))
    write(tmp_path / "other" / "a", scan(2))
    write(tmp_path / "in" / "a", copy_of(scan(1), 3))
    screened(chosen, "gold", tmp_path / "gold")
    accepting.accept(chosen, "gold", Standing.TEST_SET)
    (one,) = screened(chosen, "spring", tmp_path / "in").series
    assert said(one)["gold"][0] == "exact"
    accepting.forget_delivery(chosen, "gold")
    screened(chosen, "gold", tmp_path / "other")
    accepting.accept(chosen, "gold", Standing.TEST_SET)
    (one,) = screened(chosen, "spring", tmp_path / "in").series
    assert said(one)["gold"] == ("unique", None)


def test_a_test_set_whose_archive_is_gone_is_not_taken_for_an_empty_one(
    chosen: Config, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "a", scan(1))
    screened(chosen, "gold", tmp_path / "in")
    accepting.accept(chosen, "gold", Standing.TEST_SET)
    (chosen.data / "deliveries" / "gold" / "diptych.sqlite3").unlink()
    with pytest.raises(UsageError, match="forget --delivery gold"):
        screened(chosen, "spring", tmp_path / "in")
    shutil.rmtree(chosen.data / "deliveries" / "gold")  # as a restored backup has it
    with pytest.raises(UsageError, match="forget --delivery gold"):
        screened(chosen, "spring", tmp_path / "in")
    accepting.forget_delivery(chosen, "gold")
    assert screened(chosen, "spring", tmp_path / "in").complete


def test_what_joined_in_part_is_not_compared_with_itself(
    chosen: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / "a", scan(1))
    write(tmp_path / "in" / "b", scan(2))
    screened(chosen, "spring", tmp_path / "in")

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deliveries, "accept", cut_off)
        with pytest.raises(KeyboardInterrupt):
            accepting.accept(chosen, "spring", Standing.OWNED)
    with pytest.raises(UsageError, match="accept spring"):
        screened(chosen, "spring", tmp_path / "in")
    done = accepting.accept(chosen, "spring", Standing.OWNED)
    assert (done.series, done.before) == (0, 2)


def test_a_name_that_is_a_source_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a", scan(1))
    chosen = settings(tmp_path / "data")
    with pytest.raises(UsageError, match="a source"):
        screened(chosen, "default", tmp_path / "in")


def test_a_catalogue_whose_renewal_was_cut_off_is_not_read(
    chosen: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / "a", scan(1))
    write(tmp_path / "in" / "b", scan(2))
    screened(chosen, "spring", tmp_path / "in")
    shutil.rmtree(tmp_path / "in" / "a")

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("diptych.intake.take.relate", cut_off)
        with pytest.raises(KeyboardInterrupt):
            screened(chosen, "spring", tmp_path / "in")
    for ask in (
        lambda: screening.past(chosen, "spring"),
        lambda: accepting.accept(chosen, "spring", Standing.OWNED),
    ):
        with pytest.raises(UsageError, match="screen` again"):
            ask()
    assert len(screened(chosen, "spring", tmp_path / "in").series) == 1
    assert len(screening.past(chosen, "spring").series) == 1


def test_the_folder_of_a_delivery_is_its_owners_alone(chosen: Config, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a", scan(1))
    chosen.data.mkdir(mode=0o755)
    screened(chosen, "spring", tmp_path / "in")
    for folder in (chosen.data / "deliveries", chosen.data / "deliveries" / "spring"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_findings_so_far_are_read_only_for_who_asks_and_seldom(
    chosen: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(5):
        write(tmp_path / "in" / str(seed), scan(seed))
    monkeypatch.setattr("diptych.screen.screening._ASK_SECONDS", 0.0)
    read = []
    whole = screening.reading.screening

    def counted(of: screening.reading.Delivery) -> object:
        read.append(of)
        return whole(of)

    monkeypatch.setattr("diptych.screen.screening.reading.screening", counted)
    screened(chosen, "spring", tmp_path / "in")
    assert len(read) == 1
    read.clear()
    clock = iter(range(0, 100_000, 100))
    monkeypatch.setattr("diptych.screen.screening.monotonic", lambda: next(clock))
    with screen(chosen, Wanted("autumn", "", (str(tmp_path / "in"),)), enough=lambda _: False):
        # By this clock each reading takes as long as a judgement: asked once, then not for long.
        assert len(read) == 2


def test_a_full_disk_is_said_in_words(
    chosen: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / "a", scan(1))

    def full(self: Catalogue) -> None:
        self.db.execute("PRAGMA max_page_count = 1")
        self.db.execute("CREATE TABLE more AS SELECT randomblob(100000)")

    monkeypatch.setattr(Catalogue, "retry", full)
    with pytest.raises(ConfigError, match="full"):
        screened(chosen, "spring", tmp_path / "in")
    store = open_store(chosen)
    with store.read() as connection:
        assert verdicts.newest(connection) == 0
    store.close()


def test_what_was_accepted_is_no_new_series_of_the_duplicate_rate(
    chosen: Config, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "a", scan(1))
    screened(chosen, "spring", tmp_path / "in")
    accepting.accept(chosen, "spring", Standing.OWNED)
    store = open_store(chosen)
    with store.read() as connection:
        assert duplicates.since(connection, 0) == []
    store.close()


@pytest.mark.both
def test_a_delivery_is_accepted_and_forgotten_on_either_database(
    database: str, new_database: Callable[[], str], tmp_path: Path
) -> None:
    url = new_database()
    chosen = config.load(None, {"data": str(tmp_path / "data"), "database": {"url": url}})
    write(tmp_path / "in" / "a", scan(1))
    write(tmp_path / "late" / "x", copy_of(scan(1), 5))
    screened(chosen, "spring", tmp_path / "in")
    accepting.accept(chosen, "spring", Standing.OWNED)
    (one,) = screened(chosen, "late", tmp_path / "late").series
    assert said(one)["owned"][0] == "exact", database
    assert accepting.forget_delivery(chosen, "spring").cases == 1
    store = open_store(chosen)
    with store.read() as connection:
        assert verify.verify(connection, chosen.data / "audit-heads.jsonl").problems == ()
    store.close()


def test_what_another_model_judged_does_not_join_unseen_by_the_one_in_use(
    chosen: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / "a", scan(1))
    screened(chosen, "spring", tmp_path / "in")
    monkeypatch.setattr(ModelEntry, "fingerprint", property(lambda _: "f" * 64))
    for standing in (Standing.OWNED, Standing.TEST_SET):
        with pytest.raises(UsageError, match="another model"):
            accepting.accept(chosen, "spring", standing)


def test_a_second_try_to_forget_knows_that_something_had_joined(
    chosen: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its vectors are then to be taken out of the index's snapshot."""
    write(tmp_path / "in" / "a", scan(1))
    screened(chosen, "spring", tmp_path / "in")
    accepting.accept(chosen, "spring", Standing.OWNED)

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deliveries, "remove", cut_off)
        with pytest.raises(KeyboardInterrupt):
            accepting.forget_delivery(chosen, "spring")
    gone = accepting.forget_delivery(chosen, "spring")
    assert (gone.cases, gone.joined) == (0, True)
    screened(chosen, "spring", tmp_path / "in")
    assert not accepting.forget_delivery(chosen, "spring").joined


def test_who_runs_it_again_hears_what_joined_since_and_is_not_compared(
    chosen: Config, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "a", scan(1))
    write(tmp_path / "late" / "x", copy_of(scan(1), 5))
    screened(chosen, "late", tmp_path / "late")
    screened(chosen, "spring", tmp_path / "in")
    accepting.accept(chosen, "spring", Standing.OWNED)
    heard: list[str] = []
    wanted = Wanted("late", "", (str(tmp_path / "late"),))
    with screen(chosen, wanted, warn=heard.append):
        (words,) = heard
    assert words.startswith("1 case of owned joined it since")
    accepting.forget_delivery(chosen, "late")
    heard.clear()
    with screen(chosen, wanted, warn=heard.append) as done:
        assert said(done.screening.series[0])["owned"][0] == "exact"
    assert heard == []
