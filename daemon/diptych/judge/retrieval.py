"""Which cases are most like one volume: count aggregation over all or some of its slices.

Khun Jush et al. 2023 (Medical Image Retrieval Using Pretrained Embeddings, arXiv:2311.13547): each
slice of the query votes for the case that holds the nearest slice, and the case with the most votes
is the most similar one. It is equation (1) of :mod:`diptych.judge.count` with a weight per slice.
Pure arithmetic; used by ``similar`` and by ``evaluate --retrieval``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SIGMA = 0.25
"""Standard deviation of the Gaussian weights, in numbers of slices of the query: its first and last
slice weigh e⁻² ≈ 0.14 of the middle one. The paper weights centre slices by a Gaussian; its width
is not in what we have of it, so this one is ours."""

_DIGITS = 12
"""Shares that are equal on paper may differ in their last bit, summed in another order."""


@dataclass(frozen=True)
class Sampling:
    """Which slices of a query vote. how: ``all``; ``every`` number-th; ``sample``: number of them.

    ValueError when the number is below 1.
    """

    how: Literal["all", "every", "sample"]
    number: int = 1

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"a number of slices is at least 1, not {self.number}")

    def __str__(self) -> str:
        return self.how if self.how == "all" else f"{self.how}:{self.number}"


def parse(text: str) -> Sampling:
    """``all``, ``every:N`` or ``sample:K``; ValueError otherwise."""
    how, _, number = text.partition(":")
    if text == "all":
        return Sampling("all")
    if how in ("every", "sample") and number.isascii() and number.isdigit():
        return Sampling("every" if how == "every" else "sample", int(number))
    raise ValueError(f"{text!r} is none of all, every:N, sample:K")


def sampled(n: int, sampling: Sampling) -> NDArray[np.intp]:
    """Which of n slices vote: their positions, ascending and distinct. ValueError when n < 1.

    ``every`` N: 0, N, 2N …. ``sample`` K: the middles of K equal parts of the volume, so it is the
    same at every call (the paper draws at random); all of them where there are no more than K.
    """
    if n < 1:
        raise ValueError(f"a volume without slices has nothing to vote with, n = {n}")
    if sampling.how == "every":
        return np.arange(0, n, sampling.number)
    if sampling.how == "sample" and sampling.number < n:
        parts = np.arange(sampling.number)
        return (2 * parts + 1) * n // (2 * sampling.number)
    return np.arange(n)


def gaussian(n: int) -> NDArray[np.float64]:
    """(n,) weights of the slices of a volume, 1 in its middle: exp(-(m - (n-1)/2)² / 2σ²).

    σ is :data:`SIGMA` · n slices. ValueError when n < 1.
    """
    if n < 1:
        raise ValueError(f"a volume without slices has no middle, n = {n}")
    off_centre = np.arange(n) - (n - 1) / 2
    return np.asarray(np.exp(-0.5 * (off_centre / (SIGMA * n)) ** 2), np.float64)


@dataclass(frozen=True)
class Similar:
    """One case of a ranking. place: its column. hits: slices that vote for it, h[i] of equation
    (1). share: their weight over that of all slices that were asked, in (0, 1]. nearest: the least
    distance of any slice to it. round: see :func:`ranking`."""

    place: int
    hits: int
    share: float
    nearest: float
    round: int


def ranking(
    distances: NDArray[np.floating], weights: NDArray[np.floating], top: int
) -> list[Similar]:
    """The ``top`` most similar cases, the most similar first; of equal shares the earliest case.

    distances: (m, cases), from each slice that votes to the nearest slice of each case, the
    earliest case first; +inf: no slice to compare with. weights: (m,), positive.

    A slice votes for its nearest case, of equally near ones for the earliest. Cases with a vote
    are of round 1. Where more are wanted, the slices vote again without the cases ranked so far:
    round 2, and so on. Shares are comparable within a round only. Fewer than ``top`` are returned
    only where there are fewer cases. ValueError: shapes that do not fit, a weight that is not
    positive, top < 1.
    """
    if distances.ndim != 2 or weights.shape != distances.shape[:1]:
        raise ValueError(f"distances {distances.shape} and weights {weights.shape} do not fit")
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    if not bool(np.all(weights > 0)):
        raise ValueError("every slice that votes needs a positive weight")
    left = np.array(distances, np.float64)
    slices, cases = left.shape
    found: list[Similar] = []
    round_ = 0
    while len(found) < top and bool(np.isfinite(left).any()):
        round_ += 1
        votes = left.argmin(axis=1)
        voting = np.isfinite(left[np.arange(slices), votes])
        hits = np.bincount(votes[voting], minlength=cases)
        weight = np.bincount(votes[voting], weights[voting], minlength=cases)
        shares = np.round(weight / weights.sum(), _DIGITS)
        voted = sorted(np.flatnonzero(hits).tolist(), key=lambda case: (-shares[case], case))
        for case in voted:
            nearest = float(left[:, case].min())
            found.append(Similar(case, int(hits[case]), float(shares[case]), nearest, round_))
        left[:, voted] = np.inf
    return found[:top]
