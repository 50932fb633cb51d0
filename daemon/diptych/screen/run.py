"""The catalogue's series → verdicts, each in one transaction: a second run goes on where the first
one stopped.

    materialise → sha256 → register → the one path (diptych.pipeline), beside it the look-ups in
    what is owned and in the test sets

While one series is embedded the next is decoded, and the one after that is laid down.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from diptych.audit import archive, deliveries, receipts, work
from diptych.audit.receipts import Arrival, Identity, Stored
from diptych.audit.store import Refused as RowRefused
from diptych.audit.store import Store
from diptych.beside import Beside
from diptych.embed.session import Embedder
from diptych.errors import StoreError
from diptych.intake.catalogue import Catalogue
from diptych.intake.limits import Refused
from diptych.intake.materialise import materialise_all
from diptych.judge.policy import Policy
from diptych.log import get_logger
from diptych.lookup import Indexes
from diptych.pipeline import Pipeline
from diptych.receive.header import UID_BYTES, made_up
from diptych.screen.delivery import Folder
from diptych.screen.findings import COPIES
from diptych.volume.decoders import DecoderPool
from diptych.worker import open_index, open_layouts

log = get_logger(__name__)

_OWNER = "screen"
# Nobody else can claim anything here.
_LEASE_SECONDS = 86_400.0
_PIECE = 1 << 20
_AT_ONCE = 500
# Of one archive, taken out at a time.
_LAID_BYTES = 2**30
_COMPLETE = work.Quiet(0, 0, 1)


@dataclass(frozen=True)
class Progress:
    """series, slices: judged, of so many. seconds: of this run; to_come: a guess from the rate so
    far, None at the beginning. copies: series of this run that are a copy of anything; newest: the
    number of the last one judged, and in which collections it is what copy."""

    series: int
    of_series: int
    slices: int
    of_slices: int
    seconds: float
    to_come: float | None
    copies: int
    newest: tuple[int, dict[str, str]] = (0, {})


@dataclass(frozen=True)
class Tools:
    """What judging needs. others: the collections it is compared with."""

    embedder: Embedder
    policy: Policy
    others: Sequence[Beside]


@dataclass(frozen=True)
class Row:
    """A series of the catalogue. key: names it in the archive, the same as long as its files and
    what belongs to them are the same. size: bytes of its files; packed: all of them in this
    archive, None: they are not."""

    number: int
    key: str
    planes: int
    size: int
    packed: bytes | None


@dataclass(frozen=True)
class _Laid:
    """A series whose files can be read now; closing ``hold`` removes what was laid down."""

    row: Row
    arrivals: list[Arrival]
    paths: dict[str, Path]
    hold: ExitStack
    refused: Refused | None = None


def rows(db: sqlite3.Connection) -> list[Row]:
    """All series of the catalogue, in its order."""
    found = []
    for number, kind, study, series, place, planes, size in db.execute(
        "SELECT id, kind, study, series, place, planes, bytes FROM series ORDER BY id"
    ):
        hashed = hashlib.sha256(repr((kind, study, series, place)).encode())
        files: set[bytes | None] = set()
        for *entry, at, where in db.execute(
            "SELECT whole, entry.size, stamp, at, where_ FROM series_entry "
            "JOIN entry USING (file, at) JOIN file ON file.id = entry.file "
            "WHERE series_entry.series = ? ORDER BY whole, at",
            (number,),
        ):
            hashed.update(repr(entry).encode())
            files.add(where if at else None)
        for part in db.execute(
            "SELECT whole, entry.size, stamp FROM series_entry AS of JOIN part "
            "ON part.of_file = of.file AND part.of_at = of.at "
            "JOIN entry ON entry.file = part.file AND entry.at = part.at "
            "JOIN file ON file.id = part.file "
            "WHERE of.series = ? AND role IN ('detached-data', 'sidecar') ORDER BY whole, part.at",
            (number,),
        ):
            hashed.update(repr(part).encode())
        packed = files.pop() if len(files) == 1 else None
        found.append(Row(number, hashed.hexdigest()[:32], planes, size, packed))
    return found


def judge(
    folder: Folder,
    catalogue: Catalogue,
    everything: Sequence[Row],
    store: Store,
    tools: Tools,
    tell: Callable[[Progress], None] = lambda _: None,
    enough: Callable[[], bool] = lambda: False,
) -> bool:
    """Judge what of ``everything`` in the catalogue is not judged yet; False when ``enough`` ended
    it before. store: of the delivery's archive. Raises StoreError."""
    deliveries.discard_unjudged(store)
    catalogue.retry()
    known = deliveries.judged_sources(store)
    left = [row for row in everything if row.key not in known]
    config, embedder = folder.config, tools.embedder
    fingerprint_id = archive.fingerprint_id(
        store, embedder.fingerprint, embedder.model.name, embedder.dimension
    )
    indexes = Indexes(
        open_index(config, store, embedder, fingerprint_id), open_layouts(config, store)
    )
    held: list[_Laid] = []

    def path_of(locator: str) -> Path:
        return next(laid.paths[locator] for laid in held if locator in laid.paths)

    with (
        DecoderPool(
            children=os.cpu_count() or 1,
            seconds_per_instance=config.decode.seconds_per_instance,
            memory_bytes=config.decode.memory_bytes,
        ) as decoders,
        closing(_Laying(catalogue)) as laying,
    ):
        pipeline = Pipeline(
            store,
            decoders,
            embedder,
            indexes,
            fingerprint_id,
            tools.policy,
            path_of,
            folder.head_file,
            tools.others,
        )
        said = _Said(everything, left, tell)
        for laid in laying.ahead(left):
            # The one before is judged when this one is known, so that it is decoded meanwhile.
            if laid.refused is not None:
                catalogue.leave_unjudged(laid.row.key, laid.refused.reason, str(laid.refused))
                said.done(laid.row, {})
                continue
            _register(store, laid)
            held.append(laid)
            if len(held) < 2:
                continue
            said.done(held[0].row, _judge_one(store, pipeline, config.decode.attempts))
            held.pop(0).hold.close()
            if enough():
                held.pop().hold.close()
                return False
        while held:
            said.done(held[0].row, _judge_one(store, pipeline, config.decode.attempts))
            held.pop(0).hold.close()
    return True


def _register(store: Store, laid: _Laid) -> None:
    """Receipts and a sealed revision, as if it had been received."""
    for start in range(0, len(laid.arrivals), _AT_ONCE):
        receipts.record(store, laid.arrivals[start : start + _AT_ONCE])
    work.seal_complete(store, _COMPLETE, {})


def _judge_one(store: Store, pipeline: Pipeline, attempts: int) -> dict[str, str]:
    """Judge the oldest claimable revision; in which collections it is what copy."""
    while True:
        claimed = work.claim(store, _OWNER, _LEASE_SECONDS)
        assert claimed is not None, "it was sealed just now"
        try:
            if claimed.attempts > attempts:
                pipeline.give_up(claimed, f"{attempts} attempts ended without a verdict")
                return {}
            cases = pipeline.judge(claimed)
        except StoreError as error:
            work.release(store, _OWNER, forgive=not isinstance(error, RowRefused))
            if not isinstance(error, RowRefused):
                raise
            continue
        except Exception:
            log.exception("judging-failed", series=claimed.series_id, attempt=claimed.attempts)
            work.release(store, _OWNER, forgive=False)
            continue
        except BaseException:  # Ctrl-C is not the series' fault
            work.release(store, _OWNER, forgive=True)
            raise
        main = next(case for case in cases if case.principal)
        beside = (main.evidence or {}).get("beside", {})
        relations = {"delivery": main.relation}
        relations |= {name: str(one["relation"]) for name, one in beside.items()}
        return {name: relation for name, relation in relations.items() if relation in COPIES}


class _Laying:
    """Lays series down and hashes them in a thread of its own, one ahead of who asks; those that
    follow each other in one archive together, for it is read from its beginning each time."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._path, self._scratch = catalogue.path, catalogue.scratch
        self._executor = ThreadPoolExecutor(1, "lay-down")

    def ahead(self, left: Sequence[Row]) -> Iterator[_Laid]:
        following: Future[list[_Laid]] | None = None
        for some in _batches(left):
            now, following = following, self._executor.submit(self._lay, some)
            yield from now.result() if now else ()
        yield from following.result() if following else ()

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _lay(self, some: Sequence[Row]) -> list[_Laid]:
        catalogue = sqlite3.connect(f"file:{quote(str(self._path))}?mode=ro", uri=True)
        with closing(catalogue) as db, ExitStack() as hold:
            try:
                numbers = [row.number for row in some]
                paths = hold.enter_context(materialise_all(db, numbers, self._scratch))
                hashed = [_hashed(db, row, paths[row.number]) for row in some]
            except (Refused, OSError) as error:
                if len(some) > 1:  # which of them it is
                    return [laid for row in some for laid in self._lay([row])]
                if isinstance(error, OSError):
                    error = Refused("cannot-be-read", error.strerror or type(error).__name__)
                return [_Laid(some[0], [], {}, ExitStack(), error)]
            return [
                _Laid(row, *one, release)
                for row, one, release in zip(
                    some, hashed, _shared(hold.pop_all(), len(some)), strict=True
                )
            ]


def _batches(left: Sequence[Row]) -> Iterator[list[Row]]:
    """Each alone, but for neighbours in one archive, as many as may lie on the disk at a time."""
    some: list[Row] = []
    for row in left:
        together = some and row.packed is not None and row.packed == some[-1].packed
        if some and not (together and sum(r.size for r in some) + row.size <= _LAID_BYTES):
            yield some
            some = []
        some.append(row)
    if some:
        yield some


def _shared(hold: ExitStack, count: int) -> list[ExitStack]:
    """That many; ``hold`` is closed with the last of them that is."""
    left = count

    def one_less() -> None:
        nonlocal left
        left -= 1
        if not left:
            hold.close()

    made = [ExitStack() for _ in range(count)]
    for one in made:
        one.callback(one_less)
    return made


def _hashed(
    db: sqlite3.Connection, row: Row, paths: Sequence[Path]
) -> tuple[list[Arrival], dict[str, Path]]:
    """What each file is, and where each content lies."""
    arrivals, found = [], {}
    entries = db.execute(
        "SELECT whole, entry.kind, study, entry.series, sop_class, sop_instance, transfer_syntax "
        "FROM series_entry JOIN entry USING (file, at) WHERE series_entry.series = ? "
        "ORDER BY whole, file, at",
        (row.number,),
    )
    for path, entry in zip(paths, entries, strict=True):
        sha256, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                sha256.update(piece)
                size += len(piece)
        if entry[1] != "dicom":
            # Its values or its sidecar may be another file: equal headers are not equal images.
            sha256.update(f" {row.key} {entry[0]}".encode())
        content = sha256.hexdigest()
        found[content] = path
        arrivals.append(_arrival(row, content, size, *entry))
    return arrivals, found


def _arrival(
    row: Row,
    content: str,
    size: int,
    whole: str,
    kind: str,
    study: str,
    series: str,
    sop_class: str,
    sop_instance: str,
    transfer_syntax: str,
) -> Arrival:
    # Without a UID nothing may look as if it shared one with anything else.
    identity = Identity(
        _uid(sop_class, kind),
        _uid(sop_instance, f"{row.key} {whole}"),
        _uid(study, f"{row.key} study"),
        _uid(series, f"{row.key} series"),
        not series,
    )
    stored = Stored(content, transfer_syntax or kind, size, content, "delivery")
    # A source of its own: the same series in two folders is in the delivery twice.
    return Arrival(row.key, None, identity, stored)


def _uid(said: str, otherwise: str) -> str:
    if said and len(said) <= UID_BYTES and said.isprintable():
        return said
    return made_up(otherwise)


class _Said:
    """Counts what is done and tells of it."""

    def __init__(
        self, everything: Sequence[Row], left: Sequence[Row], tell: Callable[[Progress], None]
    ) -> None:
        self._tell, self._begun = tell, time.monotonic()
        self._left = sum(row.planes for row in left)
        slices = sum(row.planes for row in everything)
        self._now = Progress(
            len(everything) - len(left), len(everything), slices - self._left, slices, 0.0, None, 0
        )
        self._done = 0
        tell(self._now)

    def done(self, row: Row, copies: dict[str, str]) -> None:
        self._done += row.planes
        seconds = time.monotonic() - self._begun
        self._now = replace(
            self._now,
            series=self._now.series + 1,
            slices=self._now.slices + row.planes,
            seconds=seconds,
            to_come=seconds / self._done * (self._left - self._done) if self._done else None,
            copies=self._now.copies + bool(copies),
            newest=(row.number, copies),
        )
        self._tell(self._now)
