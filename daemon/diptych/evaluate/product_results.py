"""The daemon's own ladder on the same queries: found, pointing at the wrong case, false alarms.

A copy is found when the relation is exact, near-duplicate or partial *with the true case*; any of
these for a stranger is a false positive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from diptych.evaluate.answers import DUPLICATE, SEVEN, TRANSFORMS, ProductAnswer, Transform
from diptych.evaluate.statistics import Estimate, Floats, mean_over_sets, rate
from diptych.judge.ladder import Relation

FOUND = (Relation.EXACT, Relation.NEAR_DUPLICATE, Relation.PARTIAL)
"""The relations that call a case a duplicate."""


@dataclass(frozen=True)
class ProductSet:
    """What the ladder said of one query set.

    found: copies with a relation of :data:`FOUND` to their true case (or a known natural duplicate
    of it); wrong_case: to another case. false_positives: strangers with such a relation to any.
    The two unscreenable ones could not be judged: a copy is then not found, a stranger no alarm.
    """

    transform: Transform
    copies: int
    found: int
    wrong_case: int
    copies_unscreenable: int
    strangers: int
    false_positives: int
    strangers_unscreenable: int

    @property
    def sensitivity(self) -> Estimate:
        return rate(self.found, self.copies)

    @property
    def specificity(self) -> Estimate:
        return rate(self.strangers - self.false_positives, self.strangers)


@dataclass(frozen=True)
class ProductResults:
    """The daemon's ladder under its policy. sets: all 25.

    mean_sensitivity is over the seven sets, mean_sensitivity_all over all 25; specificity is that
    of the untransformed strangers, specificity_transformed the mean over the 24 transforms.
    natural: for each known natural duplicate among the strangers, what it is known as, the relation
    and the matched case.
    """

    policy: str
    sets: tuple[ProductSet, ...]
    mean_sensitivity: Estimate
    mean_sensitivity_all: Estimate
    specificity: Estimate
    specificity_transformed: Estimate
    seconds_per_case: float | None
    seconds_median: float | None
    natural: Mapping[str, tuple[tuple[str, ...], str, str | None]]

    @property
    def untransformed(self) -> ProductSet:
        return self.sets[TRANSFORMS.index(DUPLICATE)]


Said = tuple[str, bool]
"""What the ladder said of one query: its relation, and whether it points at the true case."""


def product_results(answers: Iterable[ProductAnswer], policy: str) -> ProductResults:
    """Read all answers once. ValueError: no such side or relation, or a query answered twice."""
    copies: defaultdict[Transform, dict[str, Said]] = defaultdict(dict)
    strangers: defaultdict[Transform, dict[str, Said]] = defaultdict(dict)
    natural: dict[str, tuple[tuple[str, ...], str, str | None]] = {}
    seconds = []
    for answer in answers:
        relation = Relation(answer.relation)
        seconds.append(answer.seconds)
        if answer.side == "stranger" and answer.known:
            if answer.transform == DUPLICATE:
                natural[answer.case] = (answer.known, answer.relation, answer.matched)
            continue
        if answer.side not in ("copy", "stranger"):
            raise ValueError(f"no such side: {answer.side!r}")
        queries = (copies if answer.side == "copy" else strangers)[answer.transform]
        if answer.case in queries:
            raise ValueError(f"{answer.case!r} was judged twice: {answer.side}, {answer.transform}")
        queries[answer.case] = (relation, answer.matched in (answer.case, *answer.known))
    sets = tuple(_product_set(tr, copies[tr], strangers[tr]) for tr in TRANSFORMS)
    return ProductResults(
        policy=policy,
        sets=sets,
        mean_sensitivity=_mean_of([copies[tr] for tr in SEVEN], _is_found),
        mean_sensitivity_all=_mean_of([copies[tr] for tr in TRANSFORMS], _is_found),
        specificity=sets[TRANSFORMS.index(DUPLICATE)].specificity,
        specificity_transformed=_mean_of([strangers[tr] for tr in TRANSFORMS[1:]], _is_quiet),
        seconds_per_case=fmean(seconds) if seconds else None,
        seconds_median=median(seconds) if seconds else None,
        natural=natural,
    )


def _is_found(said: Said) -> bool:
    return said[0] in FOUND and said[1]


def _is_quiet(said: Said) -> bool:
    return said[0] not in FOUND


def _product_set(
    transform: Transform, copies: Mapping[str, Said], strangers: Mapping[str, Said]
) -> ProductSet:
    return ProductSet(
        transform,
        copies=len(copies),
        found=sum(map(_is_found, copies.values())),
        wrong_case=sum(relation in FOUND and not right for relation, right in copies.values()),
        copies_unscreenable=_unscreenable(copies),
        strangers=len(strangers),
        false_positives=sum(not _is_quiet(said) for said in strangers.values()),
        strangers_unscreenable=_unscreenable(strangers),
    )


def _unscreenable(queries: Mapping[str, Said]) -> int:
    return sum(relation == Relation.NOT_SCREENABLE for relation, _ in queries.values())


def _mean_of(sets: Sequence[Mapping[str, Said]], hit: Callable[[Said], bool]) -> Estimate:
    cases = {case: row for row, case in enumerate(sorted({c for s in sets for c in s}))}
    table: Floats = np.full((len(cases), len(sets)), np.nan)
    for column, queries in enumerate(sets):
        for case, said in queries.items():
            table[cases[case], column] = hit(said)
    return mean_over_sets(table)
