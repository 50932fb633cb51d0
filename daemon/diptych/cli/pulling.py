"""``diptych pull``."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from datetime import time as clock
from pathlib import Path
from typing import Annotated

import typer

from diptych import log as logs
from diptych.cli.common import ConfigOption, DataOption, in_words, load, open_store
from diptych.errors import UsageError

UNREADABLE = 3


def run_pull(
    archive: Annotated[
        str, typer.Argument(metavar="TITLE@HOST:PORT", help="The archive's AE title and address.")
    ],
    since: Annotated[str, typer.Option(metavar="DATE", help="First StudyDate: 2020-01-31.")],
    until: Annotated[
        str | None, typer.Option(metavar="DATE", help="Last StudyDate (default: that of --since).")
    ] = None,
    modality: Annotated[
        str, typer.Option(metavar="LIST", help="Only these: CT,MR (default: all).")
    ] = "",
    rate: Annotated[float, typer.Option(help="Instances per second, on average.")] = 10.0,
    window: Annotated[
        str | None,
        typer.Option(metavar="FROM-TO", help="Only at this time of day: 20:00-06:00 (local)."),
    ] = None,
    most_pending: Annotated[
        int, typer.Option(metavar="N", help="Wait while more series lack their verdict.")
    ] = 50,
    calling: Annotated[
        str | None,
        typer.Option(metavar="TITLE", help="AE title to call by (default dicom.ae_title)."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="TITLE", help="AE title the archive sends to (default dicom.ae_title)."
        ),
    ] = None,
    get: Annotated[
        bool,
        typer.Option("--get", help="Fetch over our own association (C-GET) instead of C-MOVE."),
    ] = False,
    tls_authorities: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Use TLS; PEM of who must vouch for the archive."),
    ] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM of the certificate we show it.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="PEM of its key.")] = None,
    no_tls_hostname: Annotated[
        bool, typer.Option("--no-tls-hostname", help="Its certificate need not name HOST.")
    ] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Fetch a date range from an archive (C-FIND, then C-MOVE or C-GET) into the running daemon.

    With C-MOVE the archive must know our AE title, address and port; with --get it only lets us
    in. Interrupted, the same command goes on; exit status 3: some series did not come whole, and
    are asked for again the next time.
    """
    with in_words():
        from diptych.pull.archive import Archive
        from diptych.pull.handing import Handing
        from diptych.pull.run import Pace, Puller, Wanted
        from diptych.tls import Caller

        chosen = load(data, config)
        logs.configure(logs.Settings("pull", **chosen.log.model_dump() | {"level": "WARNING"}))
        days = _day("--since", since), _day("--until", until or since)
        if days[1] < days[0]:
            raise UsageError("--until is before --since")
        if rate <= 0:
            raise UsageError("--rate: more than 0")
        if (tls_certificate is None) != (tls_key is None):
            raise UsageError("--tls-certificate and --tls-key belong together")
        if tls_authorities is None and (tls_certificate is not None or no_tls_hostname):
            raise UsageError("TLS needs --tls-authorities: nobody is called over TLS unverified")
        if get and to is not None:
            raise UsageError("--to is for C-MOVE; with --get what comes is handed to our listener")
        title, host, port = _archive(archive)
        tls = None
        if tls_authorities is not None:
            tls = Caller(tls_authorities, tls_certificate, tls_key, not no_tls_hostname)
            tls.context()
        own = chosen.dicom.ae_title
        pace = Pace(rate, _window(window), most_pending)
        store = open_store(chosen)
        stop = threading.Event()
        run = Puller(
            Archive(host, port, title, calling or own, to or own, tls),
            Wanted(*days, frozenset(m for m in modality.upper().split(",") if m)),
            pace,
            store,
            Handing(chosen, title) if get else None,
            lambda line: typer.echo(line, err=True) if sys.stderr.isatty() else None,
            stop,
        )
        with _told_to_stop(stop):
            done = run.run()
        if stop.is_set():
            raise KeyboardInterrupt
        typer.echo(
            f"{done.studies} studies, {done.series} series: {done.pulled} pulled "
            f"({done.instances} instances), {done.known} before, {done.failed} not whole"
        )
        raise typer.Exit(UNREADABLE if done.failed else 0)


@contextmanager
def _told_to_stop(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM end the run after the series under way; a second one at once."""

    def heard(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _archive(text: str) -> tuple[str, str, int]:
    found = re.fullmatch(r"(?P<title>[^@]{1,16})@(?P<host>.+):(?P<port>\d{1,5})", text)
    if not found or not 0 < int(found["port"]) < 65536:
        raise UsageError(f"{text!r}: an archive is TITLE@HOST:PORT, such as PACS@10.1.0.5:104")
    return found["title"], found["host"].strip("[]"), int(found["port"])


def _day(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: a date is such as 2020-01-31") from error


def _window(text: str | None) -> tuple[clock, clock] | None:
    if text is None:
        return None
    try:
        begin, _, end = text.partition("-")
        made = clock.fromisoformat(begin), clock.fromisoformat(end)
    except ValueError as error:
        raise UsageError(f"--window {text!r}: it is such as 20:00-06:00") from error
    if made[0] == made[1]:
        raise UsageError(f"--window {text!r} is empty")
    return made
