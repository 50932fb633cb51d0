"""``diptych evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diptych.cli.common import ConfigOption, DataOption, in_words, load


def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="Holds the cases: NIfTI, NRRD, MetaImage, DICOM series."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Report, tables, figures, and what is resumed.")
    ] = Path("diptych-evaluation"),
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON here.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A bundled or registered model, or thumbnail-16."),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Some of hnsw,exact,lsh (default all; lsh needs FAISS)."),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER1", help="Fit the threshold there; without, on FOLDER itself."),
    ] = None,
    subjects: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Columns case,subject: all images of a subject in one half."
        ),
    ] = None,
    known_pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV", help="Columns a,b: natural duplicates, which are no strangers."
        ),
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--restart",
            help="Go on with what is in DIR, or throw it away.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only the seven query sets of Algorithm 1.")
    ] = False,
    retrieval: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Columns path and some of modality,region,organ: instead of the protocol, does "
            "the most similar case have the same label?",
        ),
    ] = None,
    stand_ins: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Ask the daemon's ladder a second time, with N more cases in its archive: warped "
            "copies of the volumes of --stand-ins-from, and generated bodies.",
        ),
    ] = None,
    stand_ins_from: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER2", help="None of its volumes may be one of FOLDER."),
    ] = None,
    ablation: Annotated[
        bool,
        typer.Option(
            "--ablation",
            help="Instead of the paper's tables: the daemon's ladder without each of its pieces, "
            "and pictures of its worst ten mistakes.",
        ),
    ] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Run the paper's protocol, and the daemon's own ladder, on a folder of images.

    Half of the cases become a database, which their copies (duplicates and six transforms at four
    strengths) and the other half are looked up in. Exit status 3: some inputs could not be read.
    """
    with in_words():
        from diptych.evaluate import run

        options = run.Options(
            folder,
            out,
            load(data, config),
            json_file,
            model,
            tuple(name.strip() for name in index.split(",")) if index is not None else None,
            calibrate,
            subjects,
            known_pairs,
            resume,
            quick,
            retrieval,
            stand_ins,
            stand_ins_from,
            ablation,
        )
        raise typer.Exit(run.evaluate(options))
