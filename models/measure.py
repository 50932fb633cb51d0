"""Measure a model's ``d_max`` on the calibration cases and write it into the manifest.

    python models/measure.py --data ../shared/data [--manifest FILE] [--name NAME]

``d_max`` is the 0.1 % quantile of stranger nearest-neighbour distances: for every informative slice
of a calibration case, the L2 distance to the nearest informative slice of another patient among the
training and calibration cases. Needs no torch. How good the model is, ``compare.py`` says.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cases
import entry
from diptych.embed.manifest import load_model
from diptych.embed.mask import informative
from diptych.embed.prepare import digest_slices, prepare
from diptych.embed.session import Embedder

QUANTILE = 0.001


@dataclass
class Archive:
    """Vectors of every case, and whose they are."""

    cases: list[cases.Case]
    vectors: np.ndarray  # (slices, dimension)
    owner: np.ndarray  # of every slice: index into ``cases``


def main() -> None:
    options = arguments()
    model = load_model(options.name, options.manifest)
    embedder = Embedder(model, options.threads)
    chosen = [case for case in cases.read_split(options.split) if case.set != "evaluation"]
    archive = build(chosen, options.data, embedder)
    d_max = stranger_quantile(archive)
    entry.change(options.manifest, model.name, d_max=d_max)
    print(f"{model.name}: d_max = {d_max}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--split", type=Path, default=cases.HERE / "split.toml")
    parser.add_argument("--manifest", type=Path, default=cases.HERE / "manifest.toml")
    parser.add_argument("--name", help="the model; default: the manifest's")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def build(chosen: list[cases.Case], data: Path, embedder: Embedder) -> Archive:
    vectors = [embed(cases.load(case, data), embedder) for case in chosen]
    owner = np.repeat(np.arange(len(chosen)), [len(v) for v in vectors])
    return Archive(chosen, np.concatenate(vectors), owner)


def embed(volume: np.ndarray, embedder: Embedder) -> np.ndarray:
    """Vectors of the distinct informative slices: identical prepared slices are one."""
    prepared = prepare(volume, embedder.model.input_size)
    prepared = prepared[informative(prepared)]
    _, first = np.unique(np.array(digest_slices(prepared), dtype="S16"), return_index=True)
    return embedder.embed(prepared[np.sort(first)])


def stranger_quantile(archive: Archive) -> float:
    """d_max, printed with the counts behind it."""
    nearest: list[float] = []
    for number, case in enumerate(archive.cases):
        if case.set != "calibration":
            continue
        stranger = np.array([c.patient != case.patient for c in archive.cases])[archive.owner]
        mine = archive.vectors[archive.owner == number]
        likeness = (mine @ archive.vectors[stranger].T).max(axis=1)
        nearest += np.sqrt(np.maximum(0, 2 - 2 * likeness)).tolist()
    points = np.quantile(nearest, [0, QUANTILE, 0.01, 0.1, 0.5])
    print(
        f"{len(nearest)} slices; nearest stranger: least {points[0]:.4f}, 0.1 % {points[1]:.4f}, "
        f"1 % {points[2]:.4f}, 10 % {points[3]:.4f}, median {points[4]:.4f}"
    )
    return round(float(points[1]), 4)


if __name__ == "__main__":
    main()
