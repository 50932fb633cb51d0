"""``diptych calibrate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from diptych import reports
from diptych.cli.common import ConfigOption, DataOption, in_words, load, open_store


def run_calibrate(
    sample: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Ask N cases drawn at random (default: all)."),
    ] = None,
    transforms: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="all (25), seven, none, or e.g. crop,rotation-5; for cases with kept pixels.",
        ),
    ] = "all",
    policy: Annotated[
        str | None, typer.Option(metavar="NAME/VERSION", help="Default: the one in use.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawing.")] = 0,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write the figures as JSON; -: to stdout."),
    ] = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """How often would this archive call a stranger a copy? Measured on its own cases.

    Each is looked up as if it were new, without its series, its patient and its known copies:
    clean, and transformed as in the paper. Reads only. Exit status 130: interrupted, and what was
    asked until then is counted.
    """
    with in_words():
        from diptych.calibration import report
        from diptych.calibration.run import Options, calibrate

        chosen = load(data, config)
        store = open_store(chosen)
        if json_file not in (None, "-"):
            Path(json_file).open("a").close()  # it may take hours: better to fail now
        figures, setting = calibrate(chosen, store, Options(transforms, sample, seed, policy))
        text = json.dumps(report.document(figures, setting), indent=1)
        if json_file == "-":
            print(text)  # noqa: T201 - the result
        else:
            console = reports.console()
            with console.capture() as captured:
                for part in report.said(figures, setting):
                    console.print(part, highlight=False, markup=False, soft_wrap=False)
            print(captured.get(), end="")  # noqa: T201
            if json_file is not None:
                Path(json_file).write_text(text + "\n", "utf-8")
    if setting.interrupted:
        raise typer.Exit(130)
