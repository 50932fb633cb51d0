"""``d_max`` of a model: how near a stranger's slice comes once in a thousand times.

Every slice of every subject is asked for its nearest slice of any *other* subject; ``d_max`` is the
0.1 % quantile of these distances. It is only as good as the strangers: few or unlike ones make it
too wide. So what they were is stated with it, and the archive's own cases come before generated
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diptych.audit import models
from diptych.audit.store import Store
from diptych.config import Config
from diptych.demo.phantoms import Kind, Recipe, generate
from diptych.embed.mask import informative
from diptych.embed.prepare import digest_slices, prepare
from diptych.embed.session import Embedder
from diptych.errors import ModelError
from diptych.receive.spool import Spool
from diptych.registry import volumes
from diptych.volume.decoders import DecoderPool
from diptych.volume.orient import canonical_slices
from diptych.volume.value import Volume

QUANTILE = 0.001
ROUNDED = 4
"""Decimals of d_max."""
SUBJECTS = 64
"""At most so many, and of each at most so many slices, evenly spread: a ViT-B on two cores embeds
them in ten minutes."""
SLICES = 32
FEWEST_SUBJECTS = 8
"""Fewer are no population: then generated bodies are taken instead, or a folder is refused."""
FEWEST_SLICES = 200

PHANTOMS: dict[Kind, tuple[int, int, int]] = {
    "chest": (32, 192, 192), "abdomen": (32, 192, 192), "head": (32, 160, 160),
    "limb": (32, 128, 128),
}  # fmt: skip
"""Generated bodies: kind → slices, rows, columns."""
BODIES = 8
"""Of each kind, none of them the demo's."""
FIRST_SEED = 1000

Progress = Callable[[str, int, int | None], None]
Slices = NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """d_max and, in words, what it was measured on."""

    d_max: float
    said: str


def calibrate(
    embedder: Embedder,
    config: Config,
    store: Store | None,
    folder: Path | None,
    progress: Progress,
) -> Calibration:
    """Measure on ``folder``; without one on the archive, without enough of that on phantoms.

    Raises ModelError when a folder holds too little, or no distance is left to measure.
    """
    size = embedder.model.input_size
    with _decoders(config) as decoders:
        if folder is not None:
            subjects = list(_of_folder(folder, size, decoders, progress))
            if not _enough(subjects):
                raise ModelError(
                    f"{folder}: {len(subjects)} cases with {sum(map(len, subjects))} informative "
                    f"slices are too few to measure d_max on; {FEWEST_SUBJECTS} and "
                    f"{FEWEST_SLICES} are the least"
                )
            return measure(embedder, subjects, f"cases of {folder.name}", progress)
        subjects = [] if store is None else list(_of_archive(config, store, size, decoders))
        if _enough(subjects):
            return measure(embedder, subjects, "cases of the archive", progress)
    return measure(embedder, list(_of_phantoms(size, progress)), "generated phantoms", progress)


def measure(
    embedder: Embedder, subjects: list[Slices], what: str, progress: Progress
) -> Calibration:
    """The quantile over all slices; ``subjects``: prepared slices of one stranger each."""
    vectors = []
    for number, slices in enumerate(subjects):
        progress("embedding", number, len(subjects))
        vectors.append(embedder.embed(slices))
    nearest = []
    for number, mine in enumerate(vectors):
        others = np.concatenate([v for i, v in enumerate(vectors) if i != number])
        nearest.append(np.sqrt(np.maximum(0.0, 2 - 2 * (mine @ others.T).max(axis=1))))
    distances = np.concatenate(nearest)
    d_max = round(float(np.quantile(distances, QUANTILE)), ROUNDED)
    if not d_max > 0:
        raise ModelError(
            f"model {embedder.model.name!r}: slices of different {what} have the same vector, so "
            "that no distance tells a copy from a stranger"
        )
    return Calibration(
        d_max,
        f"0.1 % quantile of the nearest-stranger distances of {len(distances)} slices of "
        f"{len(subjects)} {what}",
    )


def _of_phantoms(size: int, progress: Progress) -> Iterator[Slices]:
    recipes = [
        Recipe(f"{kind}-{seed}", kind, seed, shape, (4.0, 1.5, 1.5))
        for kind, shape in PHANTOMS.items()
        for seed in range(FIRST_SEED, FIRST_SEED + BODIES)
    ]
    for number, recipe in enumerate(recipes):
        progress("generating", number, len(recipes))
        yield _spread(prepare(generate(recipe).pixels.astype(np.float32), size))


def _of_folder(
    folder: Path, size: int, decoders: DecoderPool, progress: Progress
) -> Iterator[Slices]:
    # Its readers of other formats are large, and only this option needs them.
    from diptych.evaluate import cases
    from diptych.evaluate.reading import Unreadable

    found, read = cases.find(folder).cases, 0
    # Drawn, always the same: neighbours in path order are often of one patient.
    for number in np.random.default_rng(0).permutation(len(found)):
        progress("reading", read, min(SUBJECTS, len(found)))
        try:
            slices = _slices(found[number].read(decoders).volume, size)
        except Unreadable:
            continue
        if len(slices):
            read += 1
            yield slices
        if read == SUBJECTS:
            return


def _of_archive(config: Config, store: Store, size: int, decoders: DecoderPool) -> Iterator[Slices]:
    """One case of each patient, of those judged unique whose pixels are kept."""
    spool = Spool(config.spool_folder, config.source_names())
    with store.read() as connection:
        chosen = models.strangers(connection, SUBJECTS)
    for wanted in chosen:
        try:
            found = volumes.of(wanted, spool.path, decoders)
        except volumes.Lost:
            continue
        for volume in found.values():
            if len(slices := _slices(volume, size)):
                yield slices


def _slices(volume: Volume, size: int) -> Slices:
    oriented = canonical_slices(volume)
    return _spread(prepare(oriented.array, size, oriented.valid))


def _spread(prepared: Slices) -> Slices:
    """At most SLICES informative ones, evenly spread and no two the same."""
    kept = prepared[informative(prepared)]
    first = {digest: number for number, digest in reversed(list(enumerate(digest_slices(kept))))}
    kept = kept[sorted(first.values())]
    spread: Slices = kept[np.linspace(0, len(kept) - 1, min(SLICES, len(kept))).astype(int)]
    return spread


def _enough(subjects: list[Slices]) -> bool:
    return len(subjects) >= FEWEST_SUBJECTS and sum(map(len, subjects)) >= FEWEST_SLICES


def _decoders(config: Config) -> DecoderPool:
    decode = config.decode
    return DecoderPool(
        children=decode.children,
        seconds_per_instance=decode.seconds_per_instance,
        memory_bytes=decode.memory_bytes,
    )
