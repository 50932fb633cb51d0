"""Reading and writing ``manifest.toml`` (the daemon only reads it)."""

from __future__ import annotations

import tomllib
from pathlib import Path

HEAD = """\
# The models that are shipped and what must be known about each (read by diptych.embed.manifest).
# Written by models/export.py; d_max by models/measure.py.
#
# d_max: the L2 distance of unit vectors within which a slice counts as a hit: the 0.1 % quantile of
# the distances from a calibration slice to its nearest neighbour among strangers' slices.
"""


def read(path: Path) -> dict:
    """The manifest, or an empty one."""
    content = tomllib.loads(path.read_text()) if path.exists() else {}
    return {"version": 1, "default": "", "model": []} | content


def write(path: Path, content: dict) -> None:
    lines = [HEAD, f"version = {content['version']}", f'default = "{content["default"]}"']
    for model in content["model"]:
        lines += ["", "[[model]]", *(f"{key} = {_toml(value)}" for key, value in model.items())]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("\n".join(lines) + "\n")
    temporary.replace(path)


def change(path: Path, name: str, **values) -> None:
    """Set ``values`` in the model called ``name``, adding it (and making it the default) if new."""
    content = read(path)
    for model in content["model"]:
        if model["name"] == name:
            model.update(values)
            break
    else:
        content["model"].append({"name": name, **values})
        content["default"] = content["default"] or name
    write(path, content)


def _toml(value) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(x) for x in value) + "]"
    return repr(value)
