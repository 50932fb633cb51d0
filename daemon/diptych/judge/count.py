"""The paper's count score: which case do a volume's slices point at, and how unanimously.

Truong et al. 2023, section II, equations (1) and (2). Pure arithmetic; used by the daemon (over
informative slices) and by the paper's protocol (over all of them).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CaseId = int
"""Cases are numbered as they arrive: the smaller id is the earlier case."""


@dataclass(frozen=True)
class Counts:
    """The histogram of one query volume and its normalised counts.

    n: query slices, at least 1. h: hits by case, only cases with at least one, most hits first.
    c1, c3: equation (2) at k = 1 and 3, in [0, 1]; c3 >= c1 always.
    """

    n: int
    h: dict[CaseId, int]
    c1: float
    c3: float


def count(nearest_case: Sequence[CaseId | None]) -> Counts:
    """Both equations for one query: nearest_case[m] is N[q_m], the case nearest to slice m.

    None stands for a slice without any neighbour (an empty archive): it counts in n and in no h.
    ValueError when there is no slice.
    """
    h = histogram(nearest_case)
    n = len(nearest_case)
    return Counts(n=n, h=dict(ranked(h)), c1=c(h, 1, n), c3=c(h, 3, n))


def histogram(nearest_case: Sequence[CaseId | None]) -> dict[CaseId, int]:
    """Equation (1): h[i] = Σ_m 1(N[q_m] is a slice of case i). Cases without a hit are left out."""
    return dict(Counter(case for case in nearest_case if case is not None))


def c(h: Mapping[CaseId, int], k: int, n: int) -> float:
    """Equation (2): c(k) = (the sum of the k largest h[i]) / n.

    With fewer than k cases, what exists is summed: with three cases or fewer, c(3) is 1 for any
    query. ValueError: n < 1 (a volume without slices has no score), k < 1, more hits than slices.
    """
    if n < 1:
        raise ValueError(f"a count needs at least one slice, n = {n}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    if sum(h.values()) > n:
        raise ValueError(f"{sum(h.values())} hits from {n} slices")
    return sum(hits for _, hits in ranked(h)[:k]) / n


def ranked(h: Mapping[CaseId, int]) -> list[tuple[CaseId, int]]:
    """(case, hits), most hits first; of equal ones the earliest case (the smallest id) wins."""
    return sorted(h.items(), key=lambda item: (-item[1], item[0]))
