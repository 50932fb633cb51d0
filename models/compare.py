"""Candidates beside each other: quality by the paper's protocol against the cost on a CPU.

    python models/compare.py --data ../shared/data --candidates models/runs/candidates

One table. Every model of ``candidates/models/manifest.toml`` (written there by ``export.py
--manifest … --facts``), the bundled one and the 16×16 thumbnail go through ``diptych evaluate`` on
the calibration cases of the split; slices per second are taken in turns in this run. Choices are
made on the calibration cases; ``--set evaluation`` is for the card, once, at the end.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
import tomllib
from pathlib import Path

import numpy as np
import pydicom

import cases
from diptych.active import model as model_entry
from diptych.config import Config
from diptych.embed.manifest import load_model
from diptych.embed.session import Embedder
from diptych.errors import ModelError
from diptych.evaluate.baseline import Thumbnail
from diptych.evaluate.run import Options, evaluate

ROUNDS, SLICES = 5, 256
HEAD = (
    "| model | network | parameters (M) | MMAC | slices/s | sens. 1 | sens. 2 | spec. 1 | spec. 2 "
    "| 24 at own t | noise ≤ 0.4 | noise 0.8 | blur ≥ 4 | geometry ≥ 15 |\n|" + "---|" * 14
)


def main() -> None:
    options = arguments()
    folder = options.out / options.set
    lay_out(cases.read_split(options.split), options.set, options.data, folder)
    config = Config(data=options.candidates)
    names = options.names or [*registered(options.candidates), load_model().name, Thumbnail.name]
    speeds = slices_per_second(names, config)
    lines = [HEAD]
    for name in names:
        result = protocol(name, config, folder, options)
        lines.append(row(name, facts(options.candidates, name), speeds.get(name), result))
        print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    (options.out / f"{options.set}.md").write_text(text)
    print(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--split", type=Path, default=cases.HERE / "split.toml")
    parser.add_argument("--candidates", type=Path, default=cases.HERE / "runs" / "candidates")
    parser.add_argument("--names", nargs="*", help="only these models")
    parser.add_argument("--set", choices=("calibration", "evaluation"), default="calibration")
    parser.add_argument("--only", default="", help="only anatomies that begin so")
    parser.add_argument("--quick", action="store_true", help="the seven sets of Algorithm 1 only")
    parser.add_argument("--out", type=Path, default=cases.HERE / "runs" / "compared")
    return parser.parse_args()


def lay_out(split: list[cases.Case], wanted: str, data: Path, folder: Path) -> None:
    """A folder of links, one leaf folder per anatomy, and ``subjects.csv`` beside it."""
    subjects = []
    for case in split:
        if case.set != wanted:
            continue
        source = (data / case.path).resolve()
        if source.is_file() and not case.series:
            place = folder / case.anatomy / f"{case.id}{''.join(source.suffixes)}"
            link(source, place)
        else:
            place = folder / "dicom" / case.id
            for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
                if file.is_file() and series_of(file) == case.series:
                    link(file, place / "-".join(file.relative_to(data.resolve()).parts[-2:]))
        subjects.append((place.relative_to(folder), case.patient))
    with folder.with_suffix(".subjects.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("case", "subject"), *subjects])


def series_of(file: Path) -> str:
    try:
        head = pydicom.dcmread(
            file, force=True, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]
        )
        return str(head.get("SeriesInstanceUID", ""))
    except Exception:  # torture files are in these folders on purpose
        return ""


def link(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.symlink_to(source)


def registered(candidates: Path) -> list[str]:
    manifest = candidates / "models" / "manifest.toml"
    if not manifest.exists():
        return []
    return [model["name"] for model in tomllib.loads(manifest.read_text())["model"]]


def facts(candidates: Path, name: str) -> dict:
    for folder in (candidates / "models" / "bundled", cases.HERE / "bundled"):
        if (folder / f"{name}.json").exists():
            return json.loads((folder / f"{name}.json").read_text())
    return {}


def slices_per_second(names: list[str], config: Config) -> dict[str, float]:
    """The median of rounds in which every model has its turn."""
    embedders = {}
    for name in names:
        try:
            embedders[name] = Embedder(model_entry(config, name))
        except ModelError:
            continue  # the thumbnail
    random = np.random.default_rng(0)
    taken: dict[str, list[float]] = {name: [] for name in embedders}
    for _ in range(ROUNDS):
        for name, embedder in embedders.items():
            size = embedder.model.input_size
            slices = random.random((SLICES, size, size), np.float32)
            begun = time.perf_counter()
            embedder.embed(slices)
            taken[name].append(SLICES / (time.perf_counter() - begun))
    return {name: statistics.median(rates) for name, rates in taken.items()}


def protocol(name: str, config: Config, folder: Path, options: argparse.Namespace) -> dict:
    """What ``diptych evaluate`` says of one model; a run that was cut off goes on."""
    what = f"{options.set}{'-' + options.only if options.only else ''}"
    out = options.out / f"{name}-{what}{'-quick' if options.quick else ''}"
    out.mkdir(parents=True, exist_ok=True)
    result = out / "summary.json"
    where = folder / options.only if options.only else folder
    status = evaluate(
        Options(
            where,
            out,
            config,
            json_file=result,
            model=name,
            indexes=("hnsw",),
            subjects=None if options.only else folder.with_suffix(".subjects.csv"),
            resume=True if any(out.iterdir()) else None,
            quick=options.quick,
        )
    )
    if status not in (0, 3):
        raise SystemExit(status)
    return json.loads(result.read_text())["paper"]


def row(name: str, known: dict, speed: float | None, paper: dict) -> str:
    def mean(wanted) -> str:
        values = [
            s["sensitivity_stage2"]
            for s in paper["sets"]
            if wanted(s["transform"], s["strength"]) and s["sensitivity_stage2"] is not None
        ]
        return f"{statistics.fmean(values):.3f}" if values else "–"

    def figure(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    geometry = {"crop": 0.15, "translation": 0.15, "rotation": 15}
    parameters = known.get("parameters")
    cells = [
        name,
        known.get("network", "–"),
        figure(parameters and parameters / 1e6, 2),
        figure(known.get("mmac"), 0),
        figure(speed, 0),
        *(
            figure(paper[key], 4)
            for key in (
                "mean_sensitivity_stage1", "mean_sensitivity_stage2", "specificity_stage1",
                "specificity_stage2",
            )
        ),
        mean(lambda t, s: t != "duplicate"),
        mean(lambda t, s: t == "noise" and s <= 0.4),
        mean(lambda t, s: t == "noise" and s > 0.4),
        mean(lambda t, s: t == "blur" and s >= 4),
        mean(lambda t, s: t in geometry and s >= geometry[t]),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
