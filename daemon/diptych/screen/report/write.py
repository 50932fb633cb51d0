"""A report is written: beside its place, sealed, and then put there as a whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from diptych.errors import UsageError
from diptych.screen.dismissals import Dismissed
from diptych.screen.findings import Screening
from diptych.screen.groups import Group
from diptych.screen.keep import Kept
from diptych.screen.limits import Decision
from diptych.screen.report import seal, tables
from diptych.screen.report.given import Pictures, Report
from diptych.screen.report.page import page
from diptych.screen.report.pairs import pairs
from diptych.screen.report.summary import SCHEMA, schema, summary
from diptych.screen.report.vendor import copy_for
from diptych.screen.since import Since

SUMMARY = "summary.json"


def write(
    screening: Screening,
    decision: Decision,
    groups: Sequence[Group],
    kept: Sequence[Kept],
    pictures: Pictures,
    folder: Path,
    key: Ed25519PrivateKey,
    vendor_copy: bool = False,
    since: Since | None = None,
    dismissed: Sequence[Dismissed] = (),
) -> None:
    """The report into ``folder``, which is made, or replaced if it is a report and nothing else.

    Of the same values come the same bytes, but for the times of the screening: they are in
    ``times`` of the summary and in one line of the page, and the seal covers them.
    vendor_copy: without what is the buyer's own (:mod:`diptych.screen.report.vendor`). since: what
    changed since an earlier delivery, where there was one. dismissed: copies that ``screening``
    does not count any more.

    UsageError: something else is in ``folder``.
    """
    folder = folder.absolute()
    refuse_other(folder)
    if vendor_copy:
        copy = copy_for(screening, decision, groups, kept, pictures, seal.secret_of(key))
        screening, decision = copy.screening, copy.decision
        groups, kept, pictures = copy.groups, copy.kept, copy.pictures
    new, old = (folder.with_name(f".{folder.name}.{what}") for what in ("new", "old"))
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)  # of a run that was killed
    new.mkdir(parents=True)
    report = Report(
        screening,
        decision,
        groups,
        kept,
        pictures,
        pairs(screening, {each.series for each in decision.excluded}),
        seal.fingerprint(key.public_key()),
        vendor_copy,
        since,
        dismissed,
    )
    _files(report, new)
    seal.seal(new, key)
    _sync(new)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    _sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def refuse_other(folder: Path) -> None:
    """UsageError: ``folder`` holds something that no report brought, and would be lost."""
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UsageError(f"{folder} is not a folder: name another one for the report")
    if others := seal.strangers(folder):
        raise UsageError(
            f"{folder} holds what no report brought ({others[0]}): move it, or name another folder"
        )


def _files(report: Report, folder: Path) -> None:
    series = tables.series_table(report.screening, report.kept)
    found = tables.pairs_table(report.pairs, report.screening)
    for table in (found, series):
        (folder / f"{table.name}.csv").write_bytes(table.csv())
        if tables.parquet_there():
            (folder / f"{table.name}.parquet").write_bytes(table.parquet())
    (folder / "clean_manifest.csv").write_bytes(tables.clean_manifest(series).csv())
    _json(folder / "groups.json", tables.groups_document(report.groups, report.screening))
    _json(
        folder / SUMMARY,
        summary(
            report.screening,
            report.decision,
            len(report.groups),
            len(report.pairs),
            report.vendor_copy,
            report.since,
            len(report.dismissed),
        ),
    )
    (folder / SCHEMA).write_bytes(schema())
    (folder / "index.html").write_bytes(page(report))


def _json(path: Path, document: Any) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", "utf-8")


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
