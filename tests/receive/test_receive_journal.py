"""The journal: what it holds survives files that a power cut took, and nothing else comes back."""

from __future__ import annotations

import hashlib
import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diptych.audit import blobs, migrate, receipts
from diptych.audit.store import Store
from diptych.errors import StoreError
from diptych.receive import journal
from diptych.receive.journal import Entry, Journal, NoRoom
from diptych.receive.keeper import Arrival, Keeper
from diptych.receive.spool import Spool

OFFSET = 300


class Room:
    """A spool, its database and one journal, in this process."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(f"sqlite:///{folder / 'diptych.sqlite3'}")
        migrate.upgrade(self.store)
        self.spool = Spool(folder / "spool", ("default",))
        self.spool.prepare()
        self.journal = Journal(self.spool, "a" * 32)
        self.keeper = Keeper(self.store, self.spool, self.journal)

    def keep(self, content: bytes) -> str:
        locator = self.spool.locator("default")
        sha256 = hashlib.sha256(content[OFFSET:]).hexdigest()
        uid = f"2.25.{int(sha256[:24], 16)}"
        identity = receipts.Identity("1.2.840.10008.5.1.4.1.1.2", uid, "1.2", "1.3")
        stored = receipts.Stored(sha256, "1.2.840.10008.1.2.1", len(content) - OFFSET, locator)
        arrival = receipts.Arrival("default", None, identity, stored)
        aside = self.spool.write_aside("a" * 32, content)
        self.keeper.keep(Arrival(arrival, OFFSET, content, aside))
        return locator

    def crash(self) -> None:
        """The acceptor is gone, and did not tidy up."""
        self.journal._stopped = True
        for segment in self.journal._segments:
            segment.entries.clear()
            segment.dirty = 0
        self.journal._thread.join()

    def segments(self) -> list[Path]:
        return sorted(self.spool.journal.iterdir())


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    # Nothing is synced or overwritten but where a test asks for it.
    monkeypatch.setattr(journal, "_IDLE_SECONDS", 3600.0)
    monkeypatch.setattr(journal, "_SYNC_SECONDS", 3600.0)
    made = Room(tmp_path)
    yield made
    if not made.journal._stopped:
        made.journal.close()
    made.store.close()


def contents(count: int, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.randint(OFFSET, 20_000)) for _ in range(count)]


@pytest.mark.parametrize("damage", ["gone", "empty", "torn", "zeros"])
def test_a_file_that_the_power_cut_took_is_written_from_the_journal(
    room: Room, damage: str
) -> None:
    wanted = {room.keep(content): content for content in contents(12)}
    room.crash()
    for locator, content in wanted.items():
        path = room.spool.path(locator)
        path.unlink()
        if damage != "gone":
            half = content[: len(content) // 2]
            path.write_bytes({"empty": b"", "torn": half, "zeros": bytes(len(content))}[damage])
    assert journal.recover(room.store, room.spool) == 12
    assert {locator: room.spool.path(locator).read_bytes() for locator in wanted} == wanted
    assert room.segments() == []
    assert journal.recover(room.store, room.spool) == 0


def test_what_was_never_acknowledged_purged_or_forgotten_does_not_come_back(room: Room) -> None:
    forgotten, purged, torn, whole = [room.keep(content) for content in contents(4)]
    room.crash()
    with room.store.write() as connection:
        for locator in (forgotten, torn, whole):
            connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
            for table in ("receipt", "instance"):
                connection.exec_driver_sql(
                    f"DELETE FROM {table} WHERE {'instance_id' if table == 'receipt' else 'id'} IN "
                    "(SELECT i.id FROM instance i JOIN blob b ON b.id = i.blob_id "
                    "WHERE b.locator = ?)",
                    (locator,),
                )
            connection.exec_driver_sql("DELETE FROM blob WHERE locator = ?", (locator,))
        connection.exec_driver_sql("UPDATE blob SET purged_at = 1 WHERE locator = ?", (purged,))
    for locator in (forgotten, purged):
        room.spool.path(locator).unlink()
    room.spool.path(torn).write_bytes(b"half of it")
    before = room.spool.path(whole).read_bytes()
    assert journal.recover(room.store, room.spool) == 0
    there = [room.spool.path(locator).exists() for locator in (forgotten, purged, torn, whole)]
    assert there == [False, False, False, True]
    assert room.spool.path(whole).read_bytes() == before


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_record_ends_the_journal_and_harms_none_before_it(room: Room, seed: int) -> None:
    rng = random.Random(seed)
    wanted = [(room.keep(content), content) for content in contents(10, seed)]
    ends = [0]
    for _, content in wanted:
        ends.append(ends[-1] + 4096 + -(-len(content) // 4096) * 4096)
    room.crash()
    [segment] = [path for path in room.segments() if path.stat().st_size]
    at = rng.randrange(ends[-1])
    with segment.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 0xFF]))
    record = max(n for n, begin in enumerate(ends) if begin <= at)
    for locator, _ in wanted:
        room.spool.path(locator).unlink()
    restored = journal.recover(room.store, room.spool)
    # A byte of the padding belongs to nobody.
    assert restored in (record, 10)
    for locator, content in wanted[:record]:
        assert room.spool.path(locator).read_bytes() == content


def test_records_of_an_older_generation_behind_the_last_one_are_not_read(room: Room) -> None:
    old = [room.keep(content) for content in contents(6, 1)]
    with room.journal._changed:
        room.journal._turn()
    _wait(lambda: not room.journal._segments[1].busy)
    with room.journal._changed:
        room.journal._turn()
    new = room.keep(contents(1, 2)[0])
    room.crash()
    for locator in (*old, new):
        room.spool.path(locator).unlink()
    assert journal.recover(room.store, room.spool) == 1
    assert room.spool.path(new).exists()


def test_files_are_synced_before_their_place_is_used_again(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SEGMENT_BYTES", 256 * 1024)
    synced: set[str] = set()
    sync_file = journal._sync_file

    def watched(path: Path) -> OSError | None:
        time.sleep(0.01)
        synced.add(path.name)
        return sync_file(path)

    monkeypatch.setattr(journal, "_sync_file", watched)
    kept: list[str] = []
    for content in contents(200):
        kept.append(Path(room.keep(content)).name)
        in_journal = {
            Path(locator).name for segment in room.journal._segments for locator in segment.entries
        }
        assert set(kept) - synced <= in_journal
    assert len(synced) > 100
    assert all(segment.stat().st_size <= 4 << 20 for segment in room.segments())


def test_a_file_that_cannot_be_synced_is_written_again(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {room.keep(content): content for content in contents(3)}
    broken = next(iter(wanted))
    room.spool.path(broken).write_bytes(b"what the disk made of it")
    sync_file = journal._sync_file
    monkeypatch.setattr(
        journal,
        "_sync_file",
        lambda path: OSError(5, "broken") if path.name in broken else sync_file(path),
    )
    room.journal.close()
    assert {locator: room.spool.path(locator).read_bytes() for locator in wanted} == wanted


def test_pixels_do_not_stay_in_the_journal_when_nothing_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_IDLE_SECONDS", 0.1)
    monkeypatch.setattr(journal, "_LOOK_SECONDS", 0.05)
    room = Room(tmp_path)
    room.keep(b"\0" * OFFSET + b"PIXELS OF A PATIENT" * 100)
    room.keep(b"\0" * OFFSET + b"PIXELS OF ANOTHER" * 100)
    _wait(lambda: not any(segment.dirty for segment in room.journal._segments))
    assert room.segments()
    assert all(b"PIXELS" not in path.read_bytes() for path in room.segments())
    room.journal.close()
    assert room.segments() == []
    room.store.close()


def test_pixels_of_a_burst_do_not_stay_behind_those_that_trickle_in_after_it(room: Room) -> None:
    burst = [b"\0" * OFFSET + b"PIXELS OF A BURST" * 500 + bytes([n]) for n in range(20)]
    for content in burst:
        room.keep(content)
    for content in contents(4):
        with room.journal._changed:
            room.journal._turn()
        _wait(lambda: not room.journal._segments[1].busy)
        room.keep(content)
    assert all(b"BURST" not in path.read_bytes() for path in room.segments())


def test_after_a_failed_sync_nothing_is_acknowledged_from_the_same_place(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = contents(3)
    room.keep(first)
    place = room.journal._segments[0].path
    fdatasync = os.fdatasync
    failures = [OSError(5, "Input/output error")]

    def once(descriptor: int) -> None:
        if failures:
            raise failures.pop()
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", once)
    with pytest.raises(StoreError, match="journal: Input/output error"):
        room.keep(second)
    locator = room.keep(third)
    assert room.journal._segments[0].path != place
    assert room.spool.path(locator).read_bytes() == third
    assert len(list(room.spool.kept())) == 2
    assert list(room.spool.orphans()) == []


def test_without_room_for_the_journal_files_are_synced_one_by_one(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_segment: object, _size: int) -> None:
        raise NoRoom("journal: No space left on device")

    monkeypatch.setattr(journal._Segment, "grow_to", full)
    content = contents(1)[0]
    assert room.spool.path(room.keep(content)).read_bytes() == content
    assert room.journal._segments[0].entries == {}
    assert list(room.spool.orphans()) == []


def test_instances_that_come_together_are_kept_together(room: Room) -> None:

    sync, syncs = os.fdatasync, []

    def slow(descriptor: int) -> None:
        syncs.append(descriptor)
        time.sleep(0.05)
        sync(descriptor)

    os.fdatasync = slow
    try:
        threads = [threading.Thread(target=room.keep, args=(content,)) for content in contents(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.fdatasync = sync
    assert len(list(room.spool.kept())) == 16
    assert len(syncs) < 8


def test_an_entry_is_what_was_appended(room: Room) -> None:
    content = contents(1)[0]
    locator = room.keep(content)
    sha256 = hashlib.sha256(content[OFFSET:]).hexdigest()
    [(found, _)] = list(room.journal._segments[0].read())
    assert found == Entry(locator, OFFSET, sha256, content)


def test_a_turn_between_a_record_and_its_file_syncs_the_file(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    sync_file, place = journal._sync_file, room.spool.place

    def watched(path: Path) -> OSError | None:
        if path.exists():
            synced.add(path.name)
        return sync_file(path)

    def turn() -> None:
        with room.journal._changed:
            room.journal._turn()

    turning = threading.Thread(target=turn)

    def late(aside: Path, locator: str) -> None:
        turning.start()
        time.sleep(0.3)
        place(aside, locator)

    monkeypatch.setattr(journal, "_sync_file", watched)
    monkeypatch.setattr(room.spool, "place", late)
    locator = room.keep(contents(1)[0])
    turning.join()
    _wait(lambda: not room.journal._segments[1].busy)
    assert synced == {Path(locator).name}


def test_what_is_forgotten_while_a_dead_acceptors_journal_is_read_does_not_come_back(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    locator = room.keep(contents(1)[0])
    room.crash()
    kept, asked = blobs.kept, []

    def forgotten_after(store: Store, locators: list[str]) -> set[str]:
        found = kept(store, locators)
        if not asked:
            with store.write() as connection:
                connection.exec_driver_sql("UPDATE blob SET sha256 = NULL, purged_at = 1")
            room.spool.remove(locator)
        asked.append(locators)
        return found

    monkeypatch.setattr(blobs, "kept", forgotten_after)
    assert journal.recover(room.store, room.spool) == 0
    assert list(room.spool.kept()) == []


def test_a_file_that_the_disk_cannot_read_is_written_from_the_journal(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = contents(1)[0]
    path = room.spool.path(room.keep(content))
    room.crash()
    read = Path.read_bytes

    def broken(this: Path) -> bytes:
        if this == path:
            raise OSError(5, "Input/output error")
        return read(this)

    monkeypatch.setattr(Path, "read_bytes", broken)
    assert journal.recover(room.store, room.spool) == 1
    assert read(path) == content


def test_a_turn_is_tried_again_whatever_was_in_its_way(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_RETRY_SECONDS", 0.05)
    room.keep(contents(1)[0])
    sync_files, failures = journal._sync_files, [RuntimeError("can't start new thread")]

    def once(*arguments: object) -> None:
        if failures:
            raise failures.pop()
        sync_files(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(journal, "_sync_files", once)
    with room.journal._changed:
        room.journal._turn()
    _wait(lambda: not room.journal._segments[1].busy)


def test_nothing_is_appended_after_the_end(room: Room) -> None:
    room.journal.close()
    with pytest.raises(StoreError, match="journal: closed"):
        room.keep(contents(1)[0])
    assert list(room.spool.kept()) == []


def test_a_file_that_was_not_written_whole_does_not_stay_though_the_database_is_away(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short(io.FileIO):
        def write(self, data: bytes) -> int:  # type: ignore[override]
            return super().write(data[:100])

    def away(_store: Store, _locators: list[str]) -> set[str]:
        raise StoreError("audit database: away")

    monkeypatch.setattr(blobs, "kept", away)
    monkeypatch.setattr(Path, "open", lambda path, mode, **_: Short(path, mode.rstrip("b")))
    with pytest.raises(OSError, match="No space left"):
        room.keep(contents(1)[0])
    assert list(room.spool.kept()) == list(room.spool.orphans()) == []


def test_everybody_hears_of_a_failure_also_where_tidying_up_fails(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> set[str]:
        time.sleep(0.05)
        raise RuntimeError

    monkeypatch.setattr(receipts, "record", broken)
    monkeypatch.setattr(blobs, "kept", broken)
    heard: list[str] = []

    def send(content: bytes) -> None:
        try:
            room.keep(content)
        except StoreError as error:
            heard.append(str(error))

    threads = [
        threading.Thread(target=send, args=(content,), daemon=True) for content in contents(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert heard == ["internal: RuntimeError"] * 6


def _wait(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
