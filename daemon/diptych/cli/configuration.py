"""``diptych config``."""

from __future__ import annotations

import typer

from diptych.cli.common import ConfigOption, DataOption, in_words, load

app = typer.Typer(help="The configuration.", no_args_is_help=True)


@app.command("check")
def config_check(data: DataOption = None, config: ConfigOption = None) -> None:
    """Refuse unknown keys and impossible values in words."""
    with in_words():
        load(data, config)
        typer.echo("the configuration is good")


@app.command("show")
def config_show(data: DataOption = None, config: ConfigOption = None) -> None:
    """Print the configuration in force as JSON."""
    with in_words():
        typer.echo(load(data, config).model_dump_json(indent=1))
