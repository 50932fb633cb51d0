"""The daemon: run it, see it work, ask what stands in its way."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from diptych import log as logs
from diptych.cli.common import (
    ENVIRONMENT,
    ConfigOption,
    DataOption,
    in_words,
    load,
    open_store,
    sigterm_unwinds,
)


def serve(
    data: DataOption = None,
    config: ConfigOption = None,
    dicom_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="DICOM port; 0: any free one (default 11112)."),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            help="Port of /metrics, /healthz and /readyz; 0: any free one (default 8112).",
        ),
    ] = None,
    ae_title: Annotated[
        str | None, typer.Option(metavar="TITLE", help="Our AE title (default DIPTYCH).")
    ] = None,
) -> None:
    """Receive series over DICOM and judge them, until SIGTERM or Ctrl-C."""
    stop, hung_up = threading.Event(), threading.Event()
    # First of all: a stop that comes while libraries are loaded is a clean stop as well.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # A terminal that goes away ends what runs in it; of a daemon a hang-up asks to read again.
    signal.signal(signal.SIGHUP, lambda *_: (stop if sys.stderr.isatty() else hung_up).set())
    dicom = {"port": dicom_port, "ae_title": ae_title}
    with in_words():
        chosen = load(data, config, dicom=dicom, http={"port": http_port})
        logs.configure(logs.Settings("supervisor", **chosen.log.model_dump()))
        from diptych import service

        def level() -> str | None:
            if not hung_up.is_set():
                return None
            hung_up.clear()
            return load(data, config).log.level

        if not stop.is_set():
            service.run(chosen, stop, level=level)


def log_id(
    uids: Annotated[list[str], typer.Argument(metavar="UID...", help="As it is in the data set.")],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Print what stands in this archive's log for a UID: `journalctl -u diptych | grep ID`."""
    with in_words():
        from diptych.audit import archive

        store = open_store(load(data, config))
        with store.read() as connection:
            key = archive.hmac_key(connection)
        for uid in uids:
            typer.echo(logs.identifier(key, uid))


def demo(
    dicom: Annotated[
        Path | None, typer.Option(help="Use the series of this folder.", exists=True)
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the table as a JSON array.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Use this new or empty data folder and keep it.", file_okay=False),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run the main job for real: a daemon, DICOM associations, copies, verdicts.

    Exit status 0 only if every verdict is the expected one.
    """
    from diptych.demo.run import run

    with in_words(), sigterm_unwinds():
        raise typer.Exit(run(dicom, json_file, data, config))


def conformance(data: DataOption = None, config: ConfigOption = None) -> None:
    """Print the DICOM Conformance Statement of this configuration as Markdown (PS3.2)."""
    with in_words():
        from diptych import conformance as statement

        typer.echo(statement.markdown(load(data, config)), nl=False)


def run_doctor(data: DataOption = None, config: ConfigOption = None) -> None:
    """Can the daemon run here, and does it? Exit status 4 with the repair in words if not."""
    with in_words():
        from diptych import doctor

        # What the libraries log while they are tried stands in the findings.
        logging.getLogger("diptych").setLevel(logging.CRITICAL)
        findings = doctor.examine(load(data, config))
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.ok else 'FAIL'} {finding.what}: {finding.said}")
        raise typer.Exit(0 if all(finding.ok for finding in findings) else ENVIRONMENT)
