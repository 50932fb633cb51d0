"""``diptych demo``: the main job for real, in a daemon of its own, with expected verdicts.

A daemon process is started on its embedded defaults in a fresh data folder; series are sent to it
over DICOM associations; then copies of some of them and strangers. HNSW is forced, so that the
index of a large archive is what is shown.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from diptych import reports
from diptych.audit import verdicts, work
from diptych.audit.store import Store
from diptych.config import Config, load
from diptych.demo import copies, phantoms, shipped
from diptych.demo.series import phantom_series
from diptych.errors import ConfigError, DiptychError, StoreError

# The default of 10 s would only make a viewer wait; all that is sent here is complete.
QUIET_SECONDS = "2"
ANY_PORTS = ("--dicom-port", "0", "--http-port", "0")
START_SECONDS = 180.0
# How long an answer may take, and how many associations one instance may end.
ANSWER_SECONDS = 120.0
ASSOCIATIONS = 3
# A 200-slice CT takes a few seconds on two cores; a loaded machine gets plenty.
VERDICT_SECONDS = 900.0
# PS3.8 section 9.3.2.2: presentation context identifiers are odd numbers up to 255.
MAXIMUM_CONTEXTS = 128
# Copies made of the user's own series: enough to show each kind, few enough to wait for.
OWN_COPIES = 4
# A rotated copy of fewer or smaller slices leaves too little to recognise.
ROTATED_SLICES, ROTATED_PIXELS = 8, 64

RESEND, DEIDENTIFIED = "re-send", "new UIDs, de-identified, re-ordered"
LOSSLESS, ROTATED = "lossless JPEG 2000", "rotated 5° + noise"

STRANGERS = ("chest-ct-b", "abdomen-ct-b", "head-mr-b", "limb-mr-b")
"""Phantoms that arrive among the copies: the same anatomy, another body."""

COPIED = {
    "example4d.nii.gz": (RESEND, DEIDENTIFIED, LOSSLESS, ROTATED),
    "anatomical.nii": (DEIDENTIFIED,),
    "693_J2KI.dcm": (DEIDENTIFIED,),
    "chest-ct-200": (RESEND, DEIDENTIFIED, LOSSLESS, ROTATED),
    "abdomen-ct-a": (LOSSLESS, ROTATED),
    "head-mr-a": (ROTATED,),
    "limb-mr-a": (DEIDENTIFIED,),
}
"""What is copied in which ways."""

Series = list[Dataset]


@dataclass(frozen=True)
class Delivery:
    """One series to send. ``expected``: a relation, ``resend``, or None for whatever it is;
    ``of``: the name of the delivery it must be matched with."""

    name: str
    instances: Series
    expected: str | None
    of: str | None = None

    @property
    def series_instance_uid(self) -> str:
        return str(self.instances[0].get("SeriesInstanceUID", ""))


def run(
    folder: Path | None,
    json_file: Path | None,
    keep: Path | None = None,
    config_file: Path | None = None,
) -> int:
    """Run the demo; returns the exit status. Raises DiptychError when it cannot be run."""
    terminal = Console(stderr=True)
    with ExitStack() as stack:
        if keep is None:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="diptych-demo-")))
        else:
            data = keep.absolute()
            if data.exists() and any(data.iterdir()):
                raise ConfigError(f"--data {data}: the demo needs a new or empty folder")
        progress = stack.enter_context(_progress(terminal))
        rounds = _own(folder, progress) if folder else _generated(progress)
        config = load(config_file, {"data": data})
        port, process = stack.enter_context(_daemon(config, config_file, progress))
        store = Store(config.database_url)
        stack.callback(store.close)
        resends = 0
        for number, deliveries in enumerate(rounds, 1):
            resends += sum(delivery.expected == "resend" for delivery in deliveries)
            title = config.dicom.ae_title
            _send_all(port, title, deliveries, progress, f"round {number}: sending")
            _await(store, process, rounds[:number], resends, progress, f"round {number}: judging")
        rows = _rows(store, [delivery for deliveries in rounds for delivery in deliveries])
    good = all(row["as_expected"] for row in rows)
    reports.console().print(reports.table(rows))
    print(_summary(rows, good))  # noqa: T201 - the result
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return 0 if good else 1


def _generated(progress: Progress) -> list[list[Delivery]]:
    """Real images that dependencies ship, phantoms, copies of both, and strangers."""
    task = progress.add_task("preparing images", total=len(phantoms.DEMO) + 1)
    real = [Delivery(item.name, item.series, "unique") for item in shipped.shipped()]
    progress.advance(task)
    drawn = []
    for number, recipe in enumerate(phantoms.DEMO):
        series = phantom_series(phantoms.generate(recipe), seed=number)
        drawn.append(Delivery(recipe.name, series, "unique"))
        progress.advance(task)
    strangers = [d for d in drawn if d.name in STRANGERS]
    archive = real + [d for d in drawn if d not in strangers]
    by_name = {delivery.name: delivery for delivery in archive}
    made: list[Delivery] = []
    for name, kinds in COPIED.items():
        original = by_name[name]
        made += [_copy(original, kind, seed) for seed, kind in enumerate(kinds, 1)]
    progress.remove_task(task)
    return [archive, [*made, *strangers]]


def _own(folder: Path, progress: Progress) -> list[list[Delivery]]:
    """The series below ``folder`` as they are, then copies of the largest of them."""
    grouped: dict[tuple[str, str], Series] = defaultdict(list)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in progress.track(files, description="reading files"):
        try:
            instance = dcmread(path)
            key = (str(instance.get("StudyInstanceUID", "")), str(instance.SeriesInstanceUID))
            if instance.get("SOPInstanceUID") and instance.file_meta.TransferSyntaxUID:
                grouped[key].append(instance)
        except Exception as error:
            # Not DICOM, or not enough of it to be sent: said, and left out.
            progress.console.print(f"left out: {path.name} ({type(error).__name__})")
    if not grouped:
        raise ConfigError(f"{folder} holds no DICOM series with UIDs")
    originals = [
        Delivery(f"own-{number}", series, None) for number, series in enumerate(grouped.values(), 1)
    ]
    largest = sorted(
        (d for d in originals if all(i.get("PixelData") for i in d.instances)),
        key=lambda d: -sum(len(i.PixelData) for i in d.instances),
    )[:OWN_COPIES]
    wanted = [(d, kind) for d in largest for kind in (RESEND, DEIDENTIFIED, *_harder(d))]
    made = [_copy(delivery, kind, seed) for seed, (delivery, kind) in enumerate(wanted, 1)]
    # What the model makes of a processed copy of unknown anatomy is shown, not promised.
    return [originals, [replace(d, expected=None) if ROTATED in d.name else d for d in made]]


def _harder(delivery: Delivery) -> Iterator[str]:
    """The kinds of copies that this series allows."""
    first = delivery.instances[0]
    plain = (
        len(delivery.instances) >= ROTATED_SLICES
        and not first.file_meta.TransferSyntaxUID.is_compressed
        and first.get("SamplesPerPixel", 1) == 1
        and int(first.get("NumberOfFrames") or 1) == 1
    )
    if plain:
        yield LOSSLESS
    if plain and min(first.Rows, first.Columns) >= ROTATED_PIXELS:
        yield ROTATED


def _copy(original: Delivery, kind: str, seed: int) -> Delivery:
    make: dict[str, tuple[Callable[[], Series], str]] = {
        RESEND: (lambda: copies.resend(original.instances), "resend"),
        DEIDENTIFIED: (lambda: copies.deidentified(original.instances, seed), "exact"),
        LOSSLESS: (lambda: copies.lossless_j2k(original.instances, seed), "exact"),
        ROTATED: (lambda: copies.rotated_noisy(original.instances, seed), "near-duplicate"),
    }
    made, expected = make[kind]
    return Delivery(f"{original.name}: {kind}", made(), expected, original.name)


@contextmanager
def _daemon(
    config: Config, config_file: Path | None, progress: Progress
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A daemon process on the data folder; stopped by SIGTERM at the end."""
    task = progress.add_task("starting the daemon", total=None)
    data, more = config.data, ("--config", str(config_file)) if config_file else ()
    data.mkdir(parents=True, exist_ok=True)
    settings = {
        "DIPTYCH_SEARCH__MODE": "hnsw",
        "DIPTYCH_SERIES__QUIET_SECONDS": QUIET_SECONDS,
        "DIPTYCH_SPOOL__MIN_FREE_BYTES": "0",
    }
    with (data / "daemon.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "diptych", "serve", "--data", str(data), *more, *ANY_PORTS],
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
        )
    try:
        port = _wait_for_port(data, process)
        progress.remove_task(task)
        yield port, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()
    if process.returncode != 0:
        raise DiptychError(f"the daemon ended with status {process.returncode}:\n{_log(data)}")


def _wait_for_port(data: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            return int(json.loads((data / "ports.json").read_text("ascii"))["dicom"])
        except (OSError, ValueError):
            if process.poll() is not None:
                break
            time.sleep(0.1)
    raise ConfigError(f"the daemon did not become ready:\n{_log(data)}")


def _log(data: Path) -> str:
    return (data / "daemon.log").read_text("utf-8", "replace")[-2000:]


def _send_all(
    port: int,
    ae_title: str,
    deliveries: Sequence[Delivery],
    progress: Progress,
    description: str,
) -> None:
    """Each series over an association of its own; what was not kept is said."""
    total = sum(len(delivery.instances) for delivery in deliveries)
    task = progress.add_task(description, total=total)
    for delivery in deliveries:
        for part in _parts(delivery.instances):
            _send_part(port, ae_title, part, progress, task)
    progress.remove_task(task)


def _send_part(port: int, ae_title: str, part: Series, progress: Progress, task: TaskID) -> None:
    """One association; when it is lost, another one goes on where it ended, as a router would."""
    sent = failed = 0
    while sent < len(part):
        ae = AE("DEMO")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ANSWER_SECONDS
        for sop_class, syntax in sorted(_contexts(part)):
            ae.add_requested_context(sop_class, syntax)
        association = ae.associate("127.0.0.1", port, ae_title=ae_title)
        began = sent
        while association.is_established and sent < len(part):
            if _send(association, part[sent], progress):
                sent += 1
                progress.advance(task)
        if association.is_established:
            association.release()
        failed = failed + 1 if sent == began else 0
        if failed == ASSOCIATIONS:
            progress.console.print(f"not sent: it ended {failed} associations")
            sent, failed = sent + 1, 0


def _send(association: Any, instance: Dataset, progress: Progress) -> bool:
    """Whether the instance was answered, or can never be sent."""
    try:
        status = association.send_c_store(instance).get("Status")
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        progress.console.print(f"not sent: {error}", markup=False)
        return True
    except RuntimeError:  # the association ended in between
        return False
    if status is None:
        return False
    if status != 0x0000:
        progress.console.print(f"refused: 0x{status:04X}")
    return True


def _contexts(instances: Series) -> set[tuple[str, str]]:
    return {(str(i.SOPClassUID), str(i.file_meta.TransferSyntaxUID)) for i in instances}


def _parts(instances: Series) -> Iterator[Series]:
    """Instances in groups that need no more presentation contexts than an association has."""
    part: Series = []
    for instance in instances:
        if len(_contexts([*part, instance])) > MAXIMUM_CONTEXTS:
            yield part
            part = []
        part.append(instance)
    if part:
        yield part


def _await(
    store: Store,
    process: subprocess.Popen[bytes],
    rounds: Sequence[Sequence[Delivery]],
    resends: int,
    progress: Progress,
    description: str,
) -> None:
    """Wait until every series sent so far has its verdict, and every re-send is counted."""
    wanted = {d.series_instance_uid for deliveries in rounds for d in deliveries}
    task = progress.add_task(description, total=len(wanted))
    deadline = time.monotonic() + VERDICT_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DiptychError(f"the daemon died with status {process.returncode}")
        try:
            with store.read() as connection:
                rows = verdicts.current(connection)
                waiting, _ = work.pending(connection)
        except StoreError:
            rows, waiting = [], 1
        judged = {row.series_instance_uid for row in rows} & wanted
        progress.update(task, completed=len(judged))
        if not waiting and sum(row.resends for row in rows) >= resends:
            progress.remove_task(task)
            return
        time.sleep(0.2)
    raise DiptychError(f"no verdict on {len(wanted) - len(judged)} series within the time limit")


def _rows(store: Store, deliveries: Sequence[Delivery]) -> list[dict[str, Any]]:
    """One row per delivery: the verdict of its series, and whether it is the expected one."""
    with store.read() as connection:
        found = {row.series_instance_uid: row for row in verdicts.current(connection)}
    shown = {uid: reports.series_row(row) for uid, row in found.items()}
    names = {d.name: d.series_instance_uid for d in deliveries}
    rows = []
    for delivery in deliveries:
        if delivery.series_instance_uid not in shown:
            # Not one instance was accepted: the refusals above say why.
            continue
        row = dict(shown[delivery.series_instance_uid])
        if delivery.expected == "resend" and "resend" in row["flags"]:
            row |= {"relation": "resend", "reason": None}
            row["matched_series_instance_uid"] = names[delivery.of or ""]
        elif delivery.expected != "resend":
            row["flags"] = [flag for flag in row["flags"] if flag != "resend"]
        delivery = _realistic(delivery, shown, names)
        row = {"name": delivery.name, **row, "expected": delivery.expected or "–"}
        row["as_expected"] = _as_expected(row, delivery, shown, names)
        rows.append(row)
    return rows


def _realistic(
    delivery: Delivery, shown: dict[str, dict[str, Any]], names: dict[str, str]
) -> Delivery:
    """A copy of what nobody can read is as unreadable as its original."""
    original = shown.get(names[delivery.of]) if delivery.of else None
    relation = original["relation"] if original else ""
    if delivery.expected == "exact" and relation in ("not-screenable", "not-an-image"):
        # Unless its pixels can be compared after all: blank images that are not constant.
        return replace(delivery, expected=None)
    return delivery


def _as_expected(
    row: dict[str, Any],
    delivery: Delivery,
    shown: dict[str, dict[str, Any]],
    names: dict[str, str],
) -> bool:
    if delivery.expected is None:
        return True
    if row["relation"] != delivery.expected:
        return False
    if delivery.of is None:
        return True
    original = names[delivery.of]
    # The user's folder may hold the original twice: then the copy is matched with the first one.
    same = {original, (shown.get(original) or {}).get("matched_series_instance_uid")}
    return row["matched_series_instance_uid"] in same


def _summary(rows: Sequence[dict[str, Any]], good: bool) -> str:
    promised = [row for row in rows if row["expected"] != "–"]
    right = sum(row["as_expected"] for row in promised)
    others = len(rows) - len(promised)
    said = f"{right} of {len(promised)} verdicts as expected"
    said += f"; {others} more without an expectation" if others else ""
    return said if good else f"{said}: see ✗ above"


@contextmanager
def _progress(terminal: Console) -> Iterator[Progress]:
    """Live progress on a terminal; silence elsewhere."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=terminal, transient=True, disable=not terminal.is_terminal
    ) as p:
        yield p
