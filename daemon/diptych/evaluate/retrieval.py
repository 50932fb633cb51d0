"""Retrieval on labelled images: does the most similar case show the same thing?

Khun Jush et al. 2023 (arXiv:2311.13547) at the levels of modality, body region and organ. Each case
is looked up among all others (leave one out), with each way to choose and to weigh its slices.

**Recall@k**: of the queries with a label, the share that has a case of the same label among the k
most similar ones. At k = 1 and over the queries of one label it is that label's recall in the
paper's sense: TP / (TP + FN), the label of the most similar case being the answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from diptych.evaluate.statistics import Estimate, mean_over_sets, rate
from diptych.judge.retrieval import Sampling, gaussian, parse, ranking, sampled
from diptych.search.bycase import distances_by_case
from diptych.search.index import as_stored

LEVELS = ("modality", "region", "organ")
KS = (1, 3, 5, 10)
SAMPLINGS = tuple(map(parse, ("all", "every:2", "every:5", "sample:20", "sample:10", "sample:5")))


@dataclass(frozen=True)
class Mode:
    """One way to choose and to weigh the slices of a query."""

    sampling: Sampling
    gaussian: bool


MODES = tuple(Mode(sampling, weighed) for weighed, sampling in product((False, True), SAMPLINGS))


@dataclass(frozen=True, eq=False)
class Image:
    """One labelled case. vectors: float32 (n, d) of its informative slices, n at least 1. subject:
    what may not be a candidate of each other. digest: of its pixels, None: no evidence."""

    id: str
    subject: str
    labels: Mapping[str, str]
    vectors: NDArray[np.float32]
    digest: bytes | None


@dataclass(frozen=True)
class Asked:
    """One query at one level: rank of the first case of its label, 0 where it is beyond the last
    k, and the most similar case."""

    case: str
    label: str
    rank: int
    first: str


@dataclass(frozen=True)
class LevelAnswers:
    """One level. asked: by mode, one per query. alone: label → its cases that have no candidate of
    the same label, and are no queries. candidates: cases with a label at the level."""

    level: str
    candidates: int
    alone: Mapping[str, int]
    asked: Mapping[Mode, tuple[Asked, ...]]

    def recall(self, mode: Mode, k: int, label: str | None = None) -> Estimate:
        """Of the queries (of one label), with its Clopper-Pearson bound."""
        asked = [each for each in self.asked[mode] if label in (None, each.label)]
        return rate(sum(0 < each.rank <= k for each in asked), len(asked))

    def mean_recall(self, mode: Mode, k: int) -> Estimate:
        """The mean of the labels' recalls, however many cases each has; bound over cases."""
        labels = self.labels
        hits = np.full((len(self.asked[mode]), len(labels)), np.nan)
        for row, each in enumerate(self.asked[mode]):
            hits[row, labels.index(each.label)] = 0 < each.rank <= k
        return mean_over_sets(hits)

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the queries, in the order of the alphabet."""
        return tuple(sorted({each.label for each in next(iter(self.asked.values()))}))


def answers(images: Sequence[Image], levels: Sequence[str]) -> Iterator[LevelAnswers]:
    """Every level; images come in path order, which breaks ties."""
    queries: dict[str, dict[Mode, list[Asked]]] = {
        level: {mode: [] for mode in MODES} for level in levels
    }
    alone: dict[str, Counter[str]] = defaultdict(Counter)
    for image, distances, allowed in _looked_up(images):
        for level in levels:
            label = image.labels.get(level)
            others = [place for place in allowed if level in images[place].labels]
            if label is None:
                continue
            if all(images[place].labels[level] != label for place in others):
                alone[level][label] += 1
                continue
            for mode in MODES:
                asked = _ask(image, label, level, mode, distances[:, others], others, images)
                queries[level][mode].append(asked)
    for level in levels:
        yield LevelAnswers(
            level,
            sum(level in image.labels for image in images),
            dict(sorted(alone[level].items())),
            {mode: tuple(asked) for mode, asked in queries[level].items()},
        )


def _looked_up(
    images: Sequence[Image],
) -> Iterator[tuple[Image, NDArray[np.float32], list[int]]]:
    """Each image, the distances of its slices to every image, and which of these are candidates.

    Those of its subject are none, and those of the same pixels: they are copies.
    """
    vectors = np.concatenate([image.vectors for image in images])
    vectors = as_stored(vectors, vectors.shape[1])
    ends = np.cumsum([len(image.vectors) for image in images]).astype(np.uint64)
    keys = np.arange(ends[-1], dtype=np.uint64)
    held = np.split(keys, ends[:-1].astype(np.intp))
    for image, own in zip(images, held, strict=True):
        allowed = [
            place
            for place, other in enumerate(images)
            if other.subject != image.subject
            and (image.digest is None or other.digest != image.digest)
        ]
        yield image, distances_by_case(vectors[own], [(keys, vectors)], held), allowed


def _ask(
    image: Image,
    label: str,
    level: str,
    mode: Mode,
    distances: NDArray[np.float32],
    others: Sequence[int],
    images: Sequence[Image],
) -> Asked:
    voting = sampled(len(distances), mode.sampling)
    weights = gaussian(len(distances))[voting] if mode.gaussian else np.ones(len(voting))
    found = [images[others[each.place]] for each in ranking(distances[voting], weights, max(KS))]
    right = (rank for rank, other in enumerate(found, 1) if other.labels[level] == label)
    return Asked(image.id, label, next(right, 0), found[0].id)
