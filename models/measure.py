"""Measure a model: d_max on the calibration cases, then the count score; no torch needed.

    python models/measure.py --data ../shared/data                     # calibration; writes d_max
    python models/measure.py --data ../shared/data --set evaluation    # once, at the very end

``d_max`` is the 0.1 % quantile of stranger nearest-neighbour distances: for every informative slice
of a calibration case, the L2 distance to the nearest informative slice of another patient.

The table: every case of the set is changed by one operation and looked up by exact search among the
train and calibration (and evaluation) cases. h[i] is the share of the query's informative slices
whose nearest neighbour is in case i, c(k) the sum of the k largest (Truong et al. 2023, eq. 1–2).
Strangers are the same cases, unchanged, looked up without anything of their own patient.
``near-duplicate`` is the daemon's rule: c(3) > 0.7711 and at least half of the informative slices
hit the top case within d_max.
"""

from __future__ import annotations

import argparse
import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

import cases
import entry
from diptych.embed.manifest import load_model
from diptych.embed.mask import informative
from diptych.embed.prepare import digest_slices, prepare
from diptych.embed.session import Embedder

QUANTILE = 0.001
WIDER = (
    0.01,
    0.1,
    0.5,
)  # quantiles the daemon's rule is also tried with, to show what d_max decides
THRESHOLD = 0.7711  # of c(3): the paper's optimum
COVERAGE = 0.5


@dataclass
class Archive:
    """Vectors of every case, and whose they are."""

    cases: list[cases.Case]
    vectors: np.ndarray  # (slices, dimension)
    owner: np.ndarray  # of every slice: index into ``cases``


@dataclass(frozen=True)
class Answer:
    """One query: c(1), c(3), the top case, the share of slices that hit it within each d_max."""

    c1: float
    c3: float
    top: int
    coverage: tuple[float, ...]
    distance: float  # median over the slices that hit the top case

    def near_duplicate(self, limit: int = 0) -> bool:
        """The daemon's rule with the ``limit``-th d_max."""
        return self.c3 > THRESHOLD and self.coverage[limit] >= COVERAGE


def main() -> None:
    options = arguments()
    model = load_model(options.name, options.manifest)
    embedder = Embedder(model, options.threads)
    split = cases.read_split(options.split)
    purposes = ["train", "calibration"] + ["evaluation"] * (options.set == "evaluation")
    chosen = [case for case in split if case.set in purposes]
    volumes = {case.id: unit(cases.load(case, options.data)) for case in chosen}
    archive = build(chosen, volumes, embedder)
    print(
        f"{model.name} on {embedder.provider}: {len(archive.cases)} cases, "
        f"{len(archive.vectors)} informative slices of {sum(len(v) for v in volumes.values())}"
    )
    limits = stranger_quantiles(archive)
    if options.set == "calibration" and options.write:
        entry.change(options.manifest, model.name, d_max=limits[0])
    if options.set == "evaluation":
        limits = (model.d_max, *limits[1:])
    queries = [case for case in chosen if case.set == options.set]
    rows = table(queries, volumes, archive, embedder, limits)
    if options.json:
        options.json.write_text(json.dumps({"d_max": limits, "set": options.set, "rows": rows}))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--split", type=Path, default=cases.HERE / "split.toml")
    parser.add_argument("--manifest", type=Path, default=cases.HERE / "manifest.toml")
    parser.add_argument("--name", help="the model; default: the manifest's")
    parser.add_argument("--set", choices=("calibration", "evaluation"), default="calibration")
    parser.add_argument("--no-write", dest="write", action="store_false", help="leave d_max alone")
    parser.add_argument("--json", type=Path, help="also write the table here")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def build(chosen: list[cases.Case], volumes: dict, embedder: Embedder) -> Archive:
    vectors = [embed(volumes[case.id], embedder) for case in chosen]
    owner = np.repeat(np.arange(len(chosen)), [len(v) for v in vectors])
    return Archive(chosen, np.concatenate(vectors), owner)


def embed(volume: np.ndarray, embedder: Embedder) -> np.ndarray:
    """Vectors of the distinct informative slices: identical prepared slices are one."""
    prepared = prepare(volume, embedder.model.input_size)
    prepared = prepared[informative(prepared)]
    _, first = np.unique(np.array(digest_slices(prepared), dtype="S16"), return_index=True)
    return embedder.embed(prepared[np.sort(first)])


def stranger_quantiles(archive: Archive) -> tuple[float, ...]:
    """d_max and the wider ones, printed with the counts behind them, from calibration slices."""
    nearest: dict[str, list[float]] = {"every stranger": [], "same anatomy": []}
    for number, case in enumerate(archive.cases):
        if case.set != "calibration":
            continue
        mine = archive.vectors[archive.owner == number]
        stranger = np.array(
            [c.patient != case.patient and c.set != "evaluation" for c in archive.cases]
        )
        alike = np.array([c.anatomy == case.anatomy for c in archive.cases])
        others = {
            "every stranger": stranger[archive.owner],
            "same anatomy": (stranger & alike)[archive.owner],
        }
        for name, who in others.items():
            if who.any():
                distance, _ = search(mine, archive.vectors[who])
                nearest[name] += distance.tolist()
    for name, values in nearest.items():
        points = np.quantile(values, [0, QUANTILE, 0.01, 0.1, 0.5])
        print(
            f"{name}: {len(values)} slices; nearest: least {points[0]:.4f}, 0.1 % {points[1]:.4f}, "
            f"1 % {points[2]:.4f}, 10 % {points[3]:.4f}, median {points[4]:.4f}"
        )
    chosen = (QUANTILE, *WIDER)
    return tuple(round(float(np.quantile(nearest["every stranger"], q)), 4) for q in chosen)


def table(
    queries: list[cases.Case],
    volumes: dict,
    archive: Archive,
    embedder: Embedder,
    limits: tuple[float, ...],
) -> list[dict]:
    """One row per operation; strangers first."""
    index = {case.id: number for number, case in enumerate(archive.cases)}
    strangers = [
        ask(archive.vectors[archive.owner == index[case.id]], archive, limits, case.patient)
        for case in queries
    ]
    rows = [row("strangers", strangers, None, strangers)]
    print(f"\nd_max {limits}, {len(queries)} cases, {len(archive.cases)} in the archive")
    print(HEAD)
    print(words(rows[0]))
    for name, change in OPERATIONS.items():
        answers, truth = [], []
        for case in queries:
            random = np.random.default_rng(zlib.crc32(f"{name} {case.id}".encode()))
            copy = change(volumes[case.id], random).astype(np.float32)
            vectors = embed(copy, embedder)
            answers.append(ask(vectors, archive, limits))
            truth.append({index[case.id]} | same_pixels(case, index))
        rows.append(row(name, answers, truth, strangers))
        print(words(rows[-1]), flush=True)
    return rows


def same_pixels(case: cases.Case, index: dict[str, int]) -> set[int]:
    """The other case that holds the same slices: the split has one such pair."""
    pair = {"totalseg-ct": "totalseg-ct-part", "totalseg-ct-part": "totalseg-ct"}
    return {index[pair[case.id]]} if pair.get(case.id) in index else set()


def ask(
    vectors: np.ndarray, archive: Archive, limits: tuple[float, ...], without: str = ""
) -> Answer:
    """Exact search and the count score."""
    if len(vectors) == 0:
        return Answer(0.0, 0.0, -1, (0.0,) * len(limits), float("nan"))
    allowed = np.array([case.patient != without for case in archive.cases])[archive.owner]
    distance, place = search(vectors, archive.vectors[allowed])
    hits = np.bincount(archive.owner[allowed][place], minlength=len(archive.cases))
    share = np.sort(hits)[::-1] / len(vectors)
    top = int(hits.argmax())
    on_top = archive.owner[allowed][place] == top
    coverage = tuple(float((on_top & (distance <= limit)).mean()) for limit in limits)
    return Answer(
        float(share[0]), float(share[:3].sum()), top, coverage, float(np.median(distance[on_top]))
    )


def search(queries: np.ndarray, database: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """L2 distance and place of the nearest vector, exactly."""
    place = (queries @ database.T).argmax(axis=1)
    return np.linalg.norm(queries - database[place], axis=1), place


def row(
    name: str, answers: list[Answer], truth: list[set[int]] | None, strangers: list[Answer]
) -> dict:
    c1, c3 = (np.array([getattr(a, k) for a in answers]) for k in ("c1", "c3"))
    right = [False] * len(answers)
    if truth is not None:
        right = [a.top in t for a, t in zip(answers, truth, strict=True)]
    return {
        "operation": name,
        "cases": len(answers),
        "true_case_on_top": sum(right),
        "c1_mean": float(c1.mean()),
        "c3_mean": float(c3.mean()),
        "c3_over_threshold": int((c3 > THRESHOLD).sum()),
        "auc_c1": auc(c1, np.array([s.c1 for s in strangers])),
        "auc_c3": auc(c3, np.array([s.c3 for s in strangers])),
        "coverage_mean": float(np.mean([a.coverage[0] for a in answers])),
        "distance": float(np.nanmedian([a.distance for a in answers])),
        "near_duplicate": [
            sum(a.near_duplicate(i) for a in answers) for i in range(1 + len(WIDER))
        ],
        "near_duplicate_right": [
            sum(a.near_duplicate(i) and r for a, r in zip(answers, right, strict=True))
            for i in range(1 + len(WIDER))
        ],
    }


HEAD = (
    f"{'operation':<24}{'cases':>6}{'on top':>7}{'c(1)':>7}{'c(3)':>7}{'c3>t':>6}{'AUC1':>8}"
    f"{'AUC3':>8}{'hits':>7}{'dist':>7}  near-duplicate (right) at d_max, 1 %, 10 %, 50 %"
)


def words(r: dict) -> str:
    found = zip(r["near_duplicate"], r["near_duplicate_right"], strict=True)
    return (
        f"{r['operation']:<24}{r['cases']:>6}{r['true_case_on_top']:>7}{r['c1_mean']:>7.3f}"
        f"{r['c3_mean']:>7.3f}{r['c3_over_threshold']:>6}{r['auc_c1']:>8.4f}{r['auc_c3']:>8.4f}"
        f"{r['coverage_mean']:>7.3f}{r['distance']:>7.3f}  "
        + "  ".join(f"{n} ({right})" for n, right in found)
    )


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Area under the ROC curve (Mann–Whitney), ties half."""
    more = (positive[:, None] > negative).mean()
    return float(more + 0.5 * (positive[:, None] == negative).mean())


# The paper's operations, on a volume in [0, 1] (slice, row, column), as this project reads them


def unit(volume: np.ndarray) -> np.ndarray:
    low, high = volume.min(), volume.max()
    return (volume - low) / (high - low)


def crop(volume: np.ndarray, share: float) -> np.ndarray:
    """``share`` of every axis in total, half on either side."""
    cut = [round(n * share / 2) for n in volume.shape]
    return volume[tuple(slice(c, n - c) for c, n in zip(cut, volume.shape, strict=True))]


def rotate(volume: np.ndarray, degrees: float) -> np.ndarray:
    return ndimage.rotate(volume, degrees, axes=(1, 2), reshape=False, order=1)


def shift(volume: np.ndarray, share: float) -> np.ndarray:
    return ndimage.shift(
        volume, (0, round(volume.shape[1] * share), round(volume.shape[2] * share)), order=0
    )


def noise(volume: np.ndarray, deviation: float, random: np.random.Generator) -> np.ndarray:
    return volume + random.normal(0, deviation, volume.shape)


def jpeg(volume: np.ndarray, quality: int) -> np.ndarray:
    planes = []
    for plane in np.rint(volume * 255).astype(np.uint8):
        file = io.BytesIO()
        Image.fromarray(plane).save(file, "JPEG", quality=quality)
        planes.append(np.asarray(Image.open(file)))
    return np.stack(planes) / 255


LOWEST = {
    "duplicate": lambda v, r: v,
    "crop 5 %": lambda v, r: crop(v, 0.05),
    "shift 5 %": lambda v, r: shift(v, 0.05),
    "rotation 5°": lambda v, r: rotate(v, 5),
    "blur 1": lambda v, r: ndimage.gaussian_filter(v, 1),
    "JPEG 100": lambda v, r: jpeg(v, 100),
    "noise 0.1": lambda v, r: noise(v, 0.1, r),
}
STRONGER = {
    "rotation 5° + noise .02": lambda v, r: noise(rotate(v, 5), 0.02, r),
    "rotation 5° + noise .05": lambda v, r: noise(rotate(v, 5), 0.05, r),
    "crop 20 %": lambda v, r: crop(v, 0.2),
    "shift 20 %": lambda v, r: shift(v, 0.2),
    "rotation 10°": lambda v, r: rotate(v, 10),
    "rotation 20°": lambda v, r: rotate(v, 20),
    "blur 2": lambda v, r: ndimage.gaussian_filter(v, 2),
    "blur 4": lambda v, r: ndimage.gaussian_filter(v, 4),
    "JPEG 25": lambda v, r: jpeg(v, 25),
    "noise 0.2": lambda v, r: noise(v, 0.2, r),
    "noise 0.4": lambda v, r: noise(v, 0.4, r),
}
OPERATIONS = LOWEST | STRONGER


if __name__ == "__main__":
    main()
