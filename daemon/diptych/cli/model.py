"""``diptych model``: the models that embed slices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from diptych import reports
from diptych.cli.common import (
    ConfigOption,
    DataOption,
    in_words,
    load,
    open_store,
    open_store_if_any,
)
from diptych.errors import ModelError, UsageError

app = typer.Typer(help="The models that embed slices.", no_args_is_help=True)


@app.command("list")
def model_list(
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON array, with sources.")] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """List bundled and registered models; * marks the one in use."""
    with in_words():
        from diptych.registry import register, said

        chosen = load(data, config)
        found = register.listing(chosen, open_store_if_any(chosen))
        if as_json:
            print(json.dumps(said.rows(found), indent=1))  # noqa: T201 - the result
        else:
            console = reports.console()
            with console.capture() as captured:
                console.print(said.table(found))
            print(captured.get(), end="")  # noqa: T201


@app.command("add")
def model_add(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[OFFICIAL]",
            help="dinov1-vits16, dinov1-vits8, dinov1-vitb16, dinov2-vits14 or dinov2-vitb14.",
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="PTH", help="The checkpoint, fetched by hand.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="Its checksum, instead of the pinned one.")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="ONNX", help="Any image encoder instead.")
    ] = None,
    name_: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="With --onnx: what to call it.")
    ] = None,
    size: Annotated[
        int, typer.Option(metavar="PX", help="With --onnx: pixels a side of its input.")
    ] = 224,
    channels: Annotated[
        int, typer.Option(help="With --onnx: 1 or 3; grey is repeated.", min=1, max=3)
    ] = 3,
    mean: Annotated[
        str, typer.Option(help="With --onnx: one number, or one per channel.")
    ] = "0.485,0.456,0.406",
    std: Annotated[
        str, typer.Option(help="With --onnx: one number, or one per channel.")
    ] = "0.229,0.224,0.225",
    precision: Annotated[str, typer.Option(help="With --onnx: fp32, fp16 or int8.")] = "fp32",
    licence: Annotated[str, typer.Option(help="With --onnx: of the weights.")] = "not stated",
    d_max: Annotated[
        float | None, typer.Option(help="With --onnx: given instead of measured, 0 to 2.")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Measure d_max on these cases (default: the archive's, else generated ones).",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Register an official checkpoint of Meta's, or any ONNX image encoder with --onnx."""
    with in_words():
        from diptych.registry import official, register, said

        chosen = load(data, config)
        store = open_store_if_any(chosen)
        with said.progress() as progress:
            if onnx is not None and name is None and name_ is not None:
                means = _per_channel("--mean", mean, channels)
                stds = _per_channel("--std", std, channels)
                entry = register.add_onnx(
                    chosen, store, onnx, name_, size, means, stds, precision, licence, d_max,
                    calibrate, progress,
                )  # fmt: skip
            elif onnx is None and name in official.OFFICIAL:
                entry = register.add_official(
                    chosen, store, official.OFFICIAL[name], file, sha256, calibrate, progress
                )
            else:
                raise UsageError(
                    f"name one of {', '.join(official.OFFICIAL)}, or give --onnx FILE --name NAME"
                )
        typer.echo(said.added(entry))


@app.command("use")
def model_use(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `model list` prints it.")],
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave cases behind whose pixels are gone.")
    ] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Embed the archive by another model beside the one in use, then switch at once.

    A running daemon judges on meanwhile; interrupted, the command resumes where it was.
    """
    with in_words():
        from diptych.active import model
        from diptych.registry import register, said
        from diptych.registry.switch import switch

        chosen = load(data, config)
        store = open_store(chosen)
        try:
            entry = model(chosen, name)
        except ModelError as error:
            raise UsageError(str(error)) from error
        with register.locked(chosen), said.progress() as progress:
            done = switch(chosen, store, entry, allow_missing, progress)
        typer.echo(said.switched(entry, done))


@app.command("remove")
def model_remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `model list` prints it.")],
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Even if cases lose the only vectors they have."),
    ] = False,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Remove a registered model that is not in use, with its vectors and its index."""
    with in_words():
        from diptych.registry import register

        chosen = load(data, config)
        vectors = register.remove(chosen, open_store_if_any(chosen), name, allow_missing)
        typer.echo(f"{name}: removed with {vectors} vectors")


def _per_channel(option: str, text: str, channels: int) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: numbers with commas between them") from error
    if len(values) == 1:
        return values * channels
    if len(values) != channels:
        raise UsageError(f"{option}: {len(values)} numbers for {channels} channels")
    return values
