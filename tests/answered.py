"""Made-up answers of the paper's protocol: as graded as real ones, without any image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from diptych.evaluate.answers import TRANSFORMS, Answer, ProductAnswer, Protocol, Transform

PROTOCOL = Protocol(
    cases=101,
    database=50,
    nonduplicates=51,
    model="made-up",
    index="hnsw,exact,lsh",
    threshold_from="calibration: bucket-1",
    slices=4040,
)


def answer(case: str, *hits: tuple[str, int], n: int = 10, **other: object) -> Answer:
    """One untransformed copy in HNSW unless ``other`` says something else."""
    values = {"side": "copy", "transform": TRANSFORMS[0], "index": "hnsw", "removed": False}
    return Answer(case=case, n=n, ranked=hits, **(values | other))  # type: ignore[arg-type]


def answers(
    copies: int = 50,
    strangers: int = 51,
    indexes: Iterable[str] = ("hnsw", "exact", "lsh"),
    transforms: Iterable[Transform] = TRANSFORMS,
    seed: int = 7,
) -> Iterator[Answer]:
    """Every query of a run. Stronger transforms lose more slices to other cases."""
    random = np.random.default_rng(seed)
    database = [f"task/{i:03d}.nii.gz" for i in range(max(copies, 12))]
    for index in indexes:
        for transform in transforms:
            keep = (
                (0.97, 0.8, 0.5, 0.2)[(TRANSFORMS.index(transform) - 1) % 4]
                if transform.strength
                else 0.98
            )
            for i in range(copies):
                true = database[i]
                for removed in (False, True):
                    share = 0.0 if removed else random.beta(12 * keep, 12 * (1 - keep))
                    others = [case for case in database if case != true]
                    ranked = _ranked(random, true, others, share)
                    yield Answer(true, "copy", transform, index, removed, 40, ranked)
            for i in range(strangers):
                ranked = _ranked(random, database[0], database[1:], random.beta(2, 6))
                known = (database[0],) if i == 0 else ()
                yield Answer(
                    f"task/s{i:03d}.nii.gz", "stranger", transform, index, False, 40, ranked, known
                )


def judged(copies: int = 50, strangers: int = 51) -> Iterator[ProductAnswer]:
    """The ladder on the same queries: the strongest strengths are lost, one case is confused."""
    for transform in TRANSFORMS:
        strongest = transform.strength in (0.2, 20.0, 8.0, 25.0, 0.8)
        for i in range(copies):
            case = f"task/{i:03d}.nii.gz"
            relation = "exact" if transform.strength is None else "near-duplicate"
            if strongest and i % 3 == 0:
                relation = "unique"
            matched = None if relation == "unique" else ("task/001.nii.gz" if i == 2 else case)
            yield ProductAnswer(case, "copy", transform, relation, matched, 0.25)
        for i in range(strangers):
            known = ("task/000.nii.gz",) if i == 0 else ()
            relation = "near-duplicate" if i < 2 else "unique"
            matched = "task/000.nii.gz" if i < 2 else None
            case = f"task/s{i:03d}.nii.gz"
            yield ProductAnswer(case, "stranger", transform, relation, matched, 0.75, known)


def _ranked(
    random: np.random.Generator, first: str, others: list[str], share: float
) -> tuple[tuple[str, int], ...]:
    """40 slices: a share for one case, the rest strewn unevenly over the others."""
    hits = {first: round(40 * share)}
    for case in random.choice(others, size=40 - hits[first], p=_uneven(len(others))):
        hits[str(case)] = hits.get(str(case), 0) + 1
    ranked = sorted(hits.items(), key=lambda item: (-item[1], item[0]))
    return tuple((case, count) for case, count in ranked[:10] if count)


def _uneven(size: int) -> np.ndarray:
    weights = 1 / np.arange(1, size + 1)
    return weights / weights.sum()
