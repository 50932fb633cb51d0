"""The archive is embedded by another model beside the one in use; then the model changes at once.

    embed what is missing (the daemon judges on, under the old model)
      → hold judging → embed what came meanwhile → one transaction: nothing missing, nothing being
      judged → ``model-use`` event → judging goes on, under the new one

Every case is committed by itself, so whoever is interrupted resumes. Vectors under the old model
stay: to go back is to embed what came since.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from diptych import doctor
from diptych.active import model_in_use
from diptych.audit import archive, indexing, models
from diptych.audit.nodes import Nodes, add_nodes
from diptych.audit.store import Store
from diptych.config import Config
from diptych.embed.manifest import ModelEntry
from diptych.embed.mask import informative
from diptych.embed.prepare import digest_slices, prepare
from diptych.embed.session import Embedder
from diptych.errors import ConfigError, DiptychError, ModelError
from diptych.receive.spool import Spool
from diptych.registry import volumes
from diptych.volume.decoders import DecoderPool
from diptych.volume.orient import canonical_slices
from diptych.volume.value import Volume

POLL_SECONDS = 0.1
NAMED = 20
"""Cases named in a refusal; the number says how many there are."""

Progress = Callable[[str, int, int | None], None]


class LeftBehind(DiptychError):
    """Some cases cannot be embedded again, and the switch was not told to leave them behind."""


@dataclass
class Switched:
    """What was done. lost: case id → why it cannot be embedded again."""

    embedded: int = 0
    lost: dict[int, str] = field(default_factory=dict)


def switch(
    config: Config, store: Store, entry: ModelEntry, allow_missing: bool, progress: Progress
) -> Switched:
    """Embed the archive by ``entry`` and put it in use.

    Raises LeftBehind when cases would become invisible (unless ``allow_missing``), ConfigError when
    ``model.name`` of the configuration says otherwise: then all is embedded, and the configuration
    is to be changed. What was embedded until then is kept in either case.
    """
    embedding = _Embedding(config, store, entry, progress)
    before = _in_use(config, store)
    with embedding.decoders:
        embedding.catch_up()
        if embedding.done.lost and not allow_missing:
            raise LeftBehind(_refusal(entry, embedding.done.lost))
        if config.model.name:
            _configured(config, store, entry, embedding)
            return embedding.done
        # The next worker finds an index to load instead of building one before it judges.
        progress("building the index", 0, None)
        doctor.index_of(config, store, entry)
        try:
            embedding.hold()
            while not _change(store, entry, embedding.done, allow_missing):
                embedding.catch_up()
                embedding.hold()
                time.sleep(POLL_SECONDS)
        finally:
            models.hold(store, seconds=0)
    if before == entry.fingerprint and embedding.done.embedded:
        # The daemon judges on with an index that lacks what was added beside it.
        indexing.request_rebuild(store)
    return embedding.done


class _Embedding:
    """One model at work on what of the archive it has not embedded yet."""

    def __init__(self, config: Config, store: Store, entry: ModelEntry, progress: Progress) -> None:
        self._store, self._entry, self._progress = store, entry, progress
        self._embedder = Embedder(entry, config.model.threads)
        self._spool = Spool(config.spool_folder, config.source_names())
        self._fingerprint_id = archive.fingerprint_id(
            store, entry.fingerprint, entry.name, entry.dimension
        )
        decode = config.decode
        self.decoders = DecoderPool(
            children=decode.children,
            seconds_per_instance=decode.seconds_per_instance,
            memory_bytes=decode.memory_bytes,
        )
        self.done = Switched()
        self._holding = False

    def catch_up(self) -> None:
        """Until nothing is missing but what cannot be had; bounded by one series in memory."""
        while missing := self._missing():
            total = sum(map(len, missing.values()))
            done = 0
            for revision_id, cases in missing.items():
                self._progress("embedding cases", done, total)
                self._one(revision_id, cases)
                done += len(cases)

    def hold(self) -> None:
        """No series is claimed from now on, for a while."""
        self._holding = True
        models.hold(self._store)

    def _missing(self) -> dict[int, list[int]]:
        with self._store.read() as connection:
            found = models.missing(connection, self._entry.fingerprint)
        lost = self.done.lost
        left = {r: [c for c in cases if c not in lost] for r, cases in found.items()}
        return {revision_id: cases for revision_id, cases in left.items() if cases}

    def _one(self, revision_id: int, cases: list[int]) -> None:
        if self._holding:
            models.hold(self._store)
        with self._store.read() as connection:
            wanted = models.wanted(connection, revision_id, cases)
        try:
            found = volumes.of(wanted, self._spool.path, self.decoders)
        except volumes.Lost as error:
            self._give_up(cases, str(error))
            return
        self._give_up([case_id for case_id in cases if case_id not in found], "no digest")
        for case_id, volume in found.items():
            nodes = self._nodes(volume)
            with self._store.write() as connection:
                if archive.is_forgotten(connection, case_id):
                    continue
                add_nodes(connection, case_id, revision_id, nodes, self._fingerprint_id)
            self.done.embedded += 1

    def _give_up(self, cases: list[int], reason: str) -> None:
        with self._store.read() as connection:
            left = [c for c in cases if not archive.is_forgotten(connection, c)]
        self.done.lost |= dict.fromkeys(left, reason)

    def _nodes(self, volume: Volume) -> Nodes:
        """As the path makes them (:func:`diptych.ready.make_ready`), without its proxy."""
        oriented = canonical_slices(volume)
        prepared = prepare(oriented.array, self._entry.input_size, oriented.valid)
        prepared = prepared[informative(prepared)]
        return Nodes(digests=tuple(digest_slices(prepared)), vectors=self._embedder.embed(prepared))


def _change(store: Store, entry: ModelEntry, done: Switched, allow_missing: bool) -> bool:
    """The switch itself: False when something is being judged or came meanwhile."""
    with store.write() as connection:
        missing = {
            case_id
            for cases in models.missing(connection, entry.fingerprint).values()
            for case_id in cases
        }
        if missing and not allow_missing and missing <= set(done.lost):
            raise LeftBehind(_refusal(entry, {c: done.lost[c] for c in sorted(missing)}))
        if not missing <= set(done.lost) or models.being_judged(connection):
            return False
        chosen = models.in_use(connection)
        if chosen != models.Use(entry.name, entry.fingerprint, len(missing)):
            models.use(connection, entry.name, entry.fingerprint, len(missing))
    return True


def _in_use(config: Config, store: Store) -> str | None:
    """The fingerprint that is judged under; None when its model is gone."""
    try:
        return model_in_use(config, store).fingerprint
    except ModelError:
        return None


def _configured(config: Config, store: Store, entry: ModelEntry, embedding: _Embedding) -> None:
    if config.model.name != entry.name:
        raise ConfigError(
            f"the archive is embedded by {entry.name}, but model.name of the configuration is "
            f"{config.model.name!r} and decides: set it to {entry.name!r}, or remove it and run "
            f"`diptych model use {entry.name}` again; then restart the daemon"
        )
    if embedding.done.embedded:
        indexing.request_rebuild(store)


def _refusal(entry: ModelEntry, lost: dict[int, str]) -> str:
    reasons = ", ".join(f"{n} {why}" for why, n in Counter(lost.values()).most_common())
    named = ", ".join(map(str, sorted(lost)[:NAMED])) + (" …" if len(lost) > NAMED else "")
    return (
        f"{len(lost)} cases cannot be embedded by {entry.name} ({reasons}), and copies of them "
        f"would be found by equal pixels alone: cases {named}. Nothing was switched; "
        "--allow-missing leaves them behind"
    )
