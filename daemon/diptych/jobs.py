"""What happens by the clock: sealing, index snapshots, the spool's purge, the checks of recall and
of the audit table.

APScheduler only triggers; every job is idempotent and may be missed.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from apscheduler.schedulers.background import BackgroundScheduler

from diptych import log as logs
from diptych.audit import blobs, counters, verify, work
from diptych.audit.store import Store, now
from diptych.config import Config
from diptych.errors import StoreError
from diptych.log import get_logger, shortened
from diptych.processes import child_main
from diptych.receive.spool import Spool
from diptych.search.archive import SearchIndex

log = get_logger(__name__)

# What a process of its own runs.
AUDIT = "diptych.jobs:audit_main"
# Files per transaction: keeps each write transaction short.
PURGE_BATCH = 100
# One snapshot at a time: the clock's, and the one after a rebuild.
_saving = threading.Lock()
# The first checks after a start, in seconds. Recall: a reading of an earlier run says nothing of
# this one's index.
FIRST_RECALL_SECONDS = 30
FIRST_AUDIT_SECONDS = 120
# Judging and receiving go first.
AUDIT_NICE = 10
SIZE_SECONDS = 15
RECALL_SAMPLE = 256


def start(
    config: Config, store: Store, spool: Spool, index: Callable[[], SearchIndex]
) -> BackgroundScheduler:
    """Start all jobs; ``shutdown()`` of what is returned ends them.

    ``index`` gives the index in use: a rebuild replaces it.
    """
    rule = work.Quiet(
        config.series.quiet_seconds,
        config.series.association_seconds,
        config.series.hard_limit_seconds,
    )
    scheduler = BackgroundScheduler(timezone="UTC")
    times = config.jobs
    every(scheduler, times.seal, lambda: seal(store, rule, spool.in_flight()))
    every(scheduler, times.snapshot, lambda: save_snapshot(store, index(), config.index_folder))
    every(scheduler, times.purge, lambda: purge(config, store, spool))
    soon = min(times.recall, FIRST_RECALL_SECONDS)
    every(scheduler, times.recall, lambda: check_recall(store, index()), soon)
    every(scheduler, times.audit, _Auditing(config), _until_audit(store, times.audit))
    every(scheduler, SIZE_SECONDS, lambda: write_size(store, index()))
    scheduler.start()
    return scheduler


def every(
    scheduler: BackgroundScheduler,
    seconds: float,
    job: Callable[[], object],
    first: float | None = None,
) -> None:
    """Run ``job`` at this interval, never beside itself; a missed run is not made up for.

    ``first``: seconds until the first run (None: the interval).
    """
    soon = datetime.now(UTC) + timedelta(seconds=seconds if first is None else first)
    scheduler.add_job(
        _guarded(job),
        "interval",
        seconds=seconds,
        next_run_time=soon,
        coalesce=True,
        max_instances=1,
    )


def seal(store: Store, rule: work.Quiet, in_flight: Mapping[str, int]) -> None:
    """Seal every complete series and say so. ``in_flight``: as ``seal_complete`` takes it."""
    for sealed in work.seal_complete(store, rule, in_flight):
        log.info(
            "series-resent" if sealed.revision is None else "series-sealed",
            source=sealed.source,
            associations=[shortened(name) for name in sealed.associations],
            series=sealed.series_id,
            revision=sealed.revision,
            study_instance_uid=sealed.study_instance_uid,
            series_instance_uid=sealed.series_instance_uid,
            instances=sealed.instances,
            seconds=round(sealed.seconds, 3),
        )


def save_snapshot(store: Store, index: SearchIndex, folder: Path) -> None:
    """Write the index to disk and its time and size into the database."""
    try:
        with _saving:
            index.save(folder)
    except OSError as error:
        log.error("index-snapshot-not-written", error=error.strerror)
        return
    with store.write() as connection:
        counters.set_gauge(connection, "index_snapshot", float(len(index)))
        counters.set_gauge(connection, "diptych_index_vectors", float(len(index)))


def purge(config: Config, store: Store, spool: Spool) -> int:
    """Remove judged pixels that are old, and older ones first while space is short."""
    if config.spool.keep_days == "forever":
        return 0
    removed = 0
    keep = int(config.spool.keep_days * 86_400 * work.MICROSECONDS)
    while chosen := blobs.purge(store, now() - keep, PURGE_BATCH):
        removed += _remove(spool, chosen)
    while spool.free_bytes() < config.spool.purge_below_free_bytes:
        chosen = blobs.purge(store, None, PURGE_BATCH)
        if not chosen:
            break
        removed += _remove(spool, chosen)
    if removed:
        log.info("spool-purged", files=removed)
    return removed


def check_recall(store: Store, index: SearchIndex) -> float:
    """Ask HNSW for stored vectors and compare with the exact scan."""
    recall = index.recall_at_1(RECALL_SAMPLE, np.random.default_rng())
    with store.write() as connection:
        counters.set_gauge(connection, "diptych_index_recall", recall)
    return recall


def check_audit(store: Store, head_file: Path) -> int:
    """Count what ``diptych audit verify`` finds."""
    with store.read() as connection:
        problems = len(verify.verify(connection, head_file).problems)
    with store.write() as connection:
        counters.set_gauge(connection, "diptych_audit_problems", float(problems))
    if problems:
        log.error("audit-problems", problems=problems, advice="`diptych audit verify` names them")
    return problems


def audit_main(config: Config) -> None:
    """The process of one audit check."""
    os.nice(AUDIT_NICE)
    store = Store(config.database_url)
    _guarded(lambda: check_audit(store, config.data / "audit-heads.jsonl"))()


def write_size(store: Store, index: SearchIndex) -> None:
    """Export how many vectors can be found."""
    with store.write() as connection:
        counters.set_gauge(connection, "diptych_index_vectors", float(len(index)))


def _until_audit(store: Store, interval: float) -> float:
    """Seconds: soon after a start if it is due or found something, since that may be repaired."""
    soon = min(interval, FIRST_AUDIT_SECONDS)
    with store.read() as connection:
        value, _, at = counters.read_gauges(connection).get("diptych_audit_problems", (1.0, "", 0))
    return soon if value else max(soon, interval - (now() - at) / 1e6)


class _Auditing:
    """One check at a time, in a process of its own: it takes long, and a stop need not wait."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._process: Any = None

    def __call__(self) -> None:
        if self._process is not None and self._process.is_alive():
            return
        settings = replace(logs.configured(), process="audit")
        self._process = multiprocessing.get_context("spawn").Process(
            target=child_main,
            args=(os.getpid(), "diptych-audit", settings, AUDIT, None, (self._config,)),
            daemon=True,
        )
        self._process.start()


def _remove(spool: Spool, locators: list[str]) -> int:
    for locator in locators:
        spool.remove(locator)
    return len(locators)


def _guarded(job: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        try:
            job()
        except StoreError as error:
            log.error("job-skipped", error=str(error))

    return run
