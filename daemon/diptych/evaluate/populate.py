"""The ladder's archive with the crowd in it: the cases of the database among the stand-ins.

They arrive evenly spread over the crowd, as the cases of a real archive do, so that neither the
graph of the index nor ties (which go to the earliest case) favour them.
"""

from __future__ import annotations

import functools
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from diptych.embed.manifest import ModelEntry
from diptych.evaluate import standins
from diptych.evaluate.crowd import Crowd
from diptych.evaluate.product import Fetch, Product
from diptych.evaluate.progress import Phase
from diptych.evaluate.sources import Sources
from diptych.evaluate.store import Embedded, Record
from diptych.judge import proxy
from diptych.judge.count import CaseId
from diptych.judge.ladder import confirms
from diptych.judge.policy import Policy
from diptych.judge.verify import verify

PAIRS = 60
"""Stand-ins that are held against their source, and against the next stand-in of it."""


@dataclass(frozen=True)
class Archive:
    """A ladder and what its cases are: places in the database, below 0 stand-ins (-1 - number)."""

    product: Product
    places: dict[CaseId, int]

    def put(self, embedded: Embedded, place: int, fetch: Fetch | None = None) -> None:
        """One case more. fetch: as for :meth:`Product.add`."""
        case = self.product.add(
            embedded.slice_digests,
            embedded.digest,
            embedded.vectors[embedded.kept],
            embedded.proxy,
            fetch,
        )
        self.places[case] = place


def populate(
    model: ModelEntry, cases: int, case: Callable[[int], Embedded], crowd: Crowd, phase: Phase
) -> tuple[Archive, Record]:
    """The archive, and what it took: nodes, seconds of adding to it.

    case: that of a place in the database, of which there are ``cases``.
    """
    archive, seconds, next_case = Archive(Product(model), {}), 0.0, 0
    for number, embedded in enumerate(crowd):
        began = time.perf_counter()
        while next_case < cases and (next_case + 0.5) * len(crowd) <= number * cases:
            archive.put(case(next_case), next_case)
            next_case += 1
        archive.put(embedded, -1 - number, functools.partial(crowd.proxy, number))
        seconds += time.perf_counter() - began
        phase.finished(1)
    for place in range(next_case, cases):
        archive.put(case(place), place)
    return archive, {"nodes": len(archive.product), "index_seconds": round(seconds, 1)}


def likeness(crowd: Crowd, sources: Sources, policy: Policy) -> Record:
    """Are they strangers? Corrected correlations, by the ladder's own verification, of some
    stand-ins with their source and with the next stand-in of it: the median, the highest, and how
    many of the pairs the ladder would confirm."""
    count = len(sources.each)
    bodiless = [n for n in range(len(crowd)) if standins.source_of(n, count) is not None]
    chosen = bodiless[:: max(1, len(bodiless) // PAIRS)][:PAIRS]
    said: Record = {}
    own, siblings = [], []
    for number in chosen:
        ours = proxy.decode(crowd.proxy(number))
        place = standins.source_of(number, count)
        assert place is not None
        own.append(verify(0, ours, proxy.decode(sources.each[place].proxy)))
        sibling = next(
            (n for n in bodiless if n > number and standins.source_of(n, count) == place), None
        )
        if sibling is not None:
            siblings.append(verify(0, ours, proxy.decode(crowd.proxy(sibling))))
    for name, checks in (("source", own), ("sibling", siblings)):
        # with a large error it may be anything, and confirms nothing
        known = [
            c.correlation for c in checks if c.impossible is None and c.error <= policy.max_error
        ]
        said[f"{name}_pairs"] = len(checks)
        said[f"{name}_median"] = round(median(known), 4) if known else None
        said[f"{name}_highest"] = round(max(known), 4) if known else None
        said[f"{name}_confirmed"] = sum(confirms(check, policy) for check in checks)
    return said


def peak_memory() -> Record:
    """Bytes, so far: of this process, and of the largest of those that it has started."""
    own, children = (
        resource.getrusage(who).ru_maxrss * 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {"peak_memory_bytes": own, "child_bytes": children}
