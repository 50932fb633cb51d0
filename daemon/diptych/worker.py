"""The worker process: it owns the index, and judges sealed series one after the other."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from diptych import jobs, policies
from diptych.active import model_in_use
from diptych.audit import archive, counters, indexing, models, work
from diptych.audit import layouts as stored_layouts
from diptych.audit.store import Refused, Store
from diptych.config import Config
from diptych.embed.session import Embedder
from diptych.errors import DiptychError, IndexCorrupt, StoreError
from diptych.judge.definition import Definition
from diptych.judge.layout import DIMENSION as LAYOUT_DIMENSION
from diptych.judge.layout import VERSION as LAYOUT_VERSION
from diptych.judge.layout import Layout, layout, smoothed
from diptych.judge.policy import Policy
from diptych.log import get_logger
from diptych.lookup import Indexes, read_proxy
from diptych.pipeline import Pipeline
from diptych.receive.spool import Spool
from diptych.search import snapshot
from diptych.search.archive import SearchIndex
from diptych.search.layouts import Layouts
from diptych.volume.decoders import DecoderPool

log = get_logger(__name__)

IDLE_SECONDS = 0.1
# A claim lapses after this long without a heartbeat, and then belongs to whoever asks.
LEASE_SECONDS = 60.0
# After an error that may pass (database away), and between attempts on one revision.
RETRY_SECONDS = 1.0
# How soon a command's note is heeded.
NOTES_SECONDS = 1.0
# Read into memory together; each is a megabyte at most.
PROXIES_AT_ONCE = 50


def main(config: Config, name: str, started: Connection) -> None:
    """Run until SIGTERM, or until another model is in use: the next worker begins with that one.

    ``started`` hears True when judging can begin, or in words why never.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    store = Store(config.database_url)
    try:
        embedder = Embedder(model_in_use(config, store), threads=_threads(config))
        fingerprint_id = archive.fingerprint_id(
            store, embedder.fingerprint, embedder.model.name, embedder.dimension
        )
        # Read before the index is built: what is forgotten meanwhile is heeded afterwards.
        notes = _Notes(
            store,
            lambda: Indexes(
                rebuild(config, store, embedder, fingerprint_id), open_layouts(config, store)
            ),
            config.index_folder,
            embedder.model.d_max,
        )
        make_layouts(store)
        indexes = Indexes(
            open_index(config, store, embedder, fingerprint_id), open_layouts(config, store)
        )
    except StoreError as error:
        # It may pass: the supervisor starts this process again.
        log.error("judging-cannot-begin", error=str(error))
        sys.exit(1)
    except DiptychError as error:
        started.send(str(error))
        return
    with store.write() as connection:
        said = f"{embedder.model.name} {embedder.fingerprint} {embedder.provider}"
        counters.set_gauge(connection, "model_info", 1, said)
        counters.set_gauge(connection, "diptych_provider_fallback", float(embedder.fell_back))
        counters.set_gauge(connection, "diptych_index_vectors", len(indexes.slices))
        left = models.coverage(connection, embedder.fingerprint).missing
    if left:
        log.error(
            "cases-not-embedded",
            cases=left,
            model=embedder.model.name,
            advice="they are found by their pixels alone: "
            f"`diptych model use {embedder.model.name}` embeds them",
        )
    spool = Spool(config.spool_folder, config.source_names())
    decode = config.decode
    with DecoderPool(
        children=decode.children,
        seconds_per_instance=decode.seconds_per_instance,
        memory_bytes=decode.memory_bytes,
    ) as decoders:
        pipeline = Pipeline(
            store,
            decoders,
            embedder,
            indexes,
            fingerprint_id,
            notes.policy,
            spool.path,
            config.data / "audit-heads.jsonl",
        )
        scheduler = jobs.start(config, store, spool, lambda: pipeline.indexes.slices)
        jobs.every(scheduler, LEASE_SECONDS / 4, lambda: work.renew(store, name, LEASE_SECONDS))
        started.send(True)
        started.close()
        # The configuration's word is the last one: then no switch is heeded.
        only = None if config.model.name else embedder.fingerprint
        _judge_until(stop, store, pipeline, notes, name, decode.attempts, only)
        scheduler.shutdown(wait=True)
    jobs.save_snapshot(store, pipeline.indexes.slices, config.index_folder)
    store.close()


def open_index(
    config: Config, store: Store, embedder: Embedder, fingerprint_id: int
) -> SearchIndex:
    """The last snapshot brought up to date from SQL; without a usable one, all of it from SQL."""
    with store.read() as connection:
        newest = archive.next_key(connection, fingerprint_id) - 1
        wanted = archive.node_keys(connection, fingerprint_id)
    hnsw, watermark = None, 0
    try:
        loaded = snapshot.load(
            snapshot.folder(config.index_folder, embedder.fingerprint),
            fingerprint=embedder.fingerprint,
            dimension=embedder.dimension,
            newest_key=newest,
        )
        if loaded is not None:
            hnsw, watermark = loaded[0], loaded[1].watermark
    except IndexCorrupt as error:
        log.error("index-snapshot-refused", error=str(error))
    index = SearchIndex(
        embedder.dimension,
        embedder.fingerprint,
        mode=config.search.mode,
        exact_below=config.search.exact_below,
        hnsw=hnsw,
    )
    held = index.keys()
    index.remove(held[[int(key) not in wanted for key in held]] if len(held) else held)
    for keys, vectors in archive.all_nodes(
        store, fingerprint_id, embedder.dimension, from_key=watermark + 1
    ):
        index.add(keys, vectors)
    if len(index) != len(wanted):  # a snapshot that lost vectors below its watermark
        log.error("index-incomplete", vectors=len(index), wanted=len(wanted))
        return rebuild(config, store, embedder, fingerprint_id)
    return index


def rebuild(config: Config, store: Store, embedder: Embedder, fingerprint_id: int) -> SearchIndex:
    """Every vector from SQL, in key order."""
    index = SearchIndex(
        embedder.dimension,
        embedder.fingerprint,
        mode=config.search.mode,
        exact_below=config.search.exact_below,
    )
    for keys, vectors in archive.all_nodes(store, fingerprint_id, embedder.dimension):
        index.add(keys, vectors)
    return index


def make_layouts(store: Store) -> None:
    """Those of cases that an earlier version left without one, from their proxies."""
    after = made = 0
    while True:
        with store.read() as connection:
            rows = stored_layouts.missing(connection, LAYOUT_VERSION, after, PROXIES_AT_ONCE)
        if not rows:
            break
        after = rows[-1][0]
        found = [(key, _layout(content)) for key, content in rows]
        with store.write() as connection:
            stored_layouts.drop_others(connection, LAYOUT_VERSION)
            for key, vector in found:
                if vector is not None:
                    stored_layouts.add(connection, key, LAYOUT_VERSION, vector)
                    made += 1
    if made:
        log.info("layouts-made", cases=made)


def open_layouts(config: Config, store: Store) -> Layouts:
    """The coarse layout of every case, from SQL."""
    layouts = Layouts(LAYOUT_DIMENSION, mode=config.search.mode)
    for keys, vectors in stored_layouts.everything(store, LAYOUT_VERSION):
        layouts.add(keys, vectors)
    return layouts


def _layout(content: bytes) -> Layout | None:
    proxy = read_proxy(content)
    found = None if proxy is None else layout(proxy)
    return None if found is None else smoothed(found)


def _threads(config: Config) -> int:
    """One core stays free for receiving unless the configuration says otherwise."""
    return config.model.threads or max(1, (os.cpu_count() or 1) - 1)


class _Notes:
    """What commands asked of the worker: a rebuild, to let go of forgotten vectors, or another
    policy to judge by.

    Looked at between two series, by the thread that judges and adds to the index.
    """

    def __init__(
        self, store: Store, build: Callable[[], Indexes], folder: Path, d_max: float
    ) -> None:
        self._store, self._build, self._folder, self._d_max = store, build, folder, d_max
        self._seen = self._read()
        self._read_at = time.monotonic()
        self._chosen = self._read_policy()
        self.policy = self._resolve(self._chosen)

    def heed(self, pipeline: Pipeline) -> None:
        if time.monotonic() - self._read_at < NOTES_SECONDS:
            return
        self._read_at = time.monotonic()
        chosen = self._read_policy()
        if chosen != self._chosen:
            self.policy = pipeline.policy = self._resolve(chosen)
            self._chosen = chosen
        seen = self._read()
        if seen != self._seen:
            # Forgetting is rare: a fresh build also gives the memory of removed vectors back.
            pipeline.indexes = self._build()
            slices = pipeline.indexes.slices
            log.info("index-built-anew", vectors=len(slices))
            # The snapshot on disk would keep the forgotten vectors.
            jobs.save_snapshot(self._store, slices, self._folder)
            snapshot.discard_others(self._folder, slices.fingerprint)
            self._seen = seen

    def switched(self, fingerprint: str) -> bool:
        """Whether another model than that of this fingerprint is in use."""
        with self._store.read() as connection:
            chosen = models.in_use(connection)
        return chosen is not None and chosen.fingerprint != fingerprint

    def _read_policy(self) -> Definition:
        with self._store.read() as connection:
            return policies.in_use(connection)

    def _resolve(self, chosen: Definition) -> Policy:
        policy = policies.resolve(self._store, chosen, self._d_max)
        log.info("policy-in-use", policy=policy.label, d_max=round(policy.d_max, 4))
        if policy.d_max != self._d_max:
            log.warning("policy-has-own-d-max", policy=policy.label, of_model=round(self._d_max, 4))
        return policy

    def _read(self) -> tuple[int, int]:
        with self._store.read() as connection:
            return indexing.rebuild_requested(connection), indexing.last_forgotten(connection)


def _judge_until(
    stop: threading.Event,
    store: Store,
    pipeline: Pipeline,
    notes: _Notes,
    name: str,
    attempts: int,
    only: str | None,
) -> None:
    """``only``: the fingerprint to judge under, for as long as its model is in use."""
    while not stop.is_set():
        try:
            notes.heed(pipeline)
            claimed = work.claim(store, name, LEASE_SECONDS, only)
            if claimed is None:
                if only and notes.switched(only):
                    log.info("model-switched")
                    return
                stop.wait(IDLE_SECONDS)
                continue
            _judge_one(store, pipeline, claimed, name, attempts)
        except StoreError as error:
            log.error("judging-waits", error=str(error))
            stop.wait(RETRY_SECONDS)


def _judge_one(
    store: Store, pipeline: Pipeline, claimed: work.Work, name: str, attempts: int
) -> None:
    try:
        if claimed.attempts > attempts:
            log.error("series-given-up", series=claimed.series_id, attempts=attempts)
            pipeline.give_up(claimed, f"{attempts} attempts ended without a verdict")
            return
        pipeline.judge(claimed)
    except StoreError as error:
        # A database that is away is not the series' fault; a row it refuses is.
        work.release(store, name, forgive=not isinstance(error, Refused))
        raise
    except Exception:
        # A bug of ours must not stop the queue: the attempt counts, the log says where.
        log.exception("judging-failed", series=claimed.series_id, attempt=claimed.attempts)
        work.release(store, name, forgive=False)
        time.sleep(RETRY_SECONDS if claimed.attempts < attempts else 0)
