"""A series made ready to be looked up: nothing here asks an archive, so it can be done ahead.

decoded images → stacks → assemble volumes → proxy → prepare slices → mask → digest
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.embed.mask import informative
from diptych.embed.prepare import digest_slices, prepare
from diptych.errors import NotScreenable
from diptych.judge import proxy
from diptych.volume.assemble import assemble
from diptych.volume.orient import canonical_slices
from diptych.volume.plan import Stack, plan
from diptych.volume.plane import Instance, Refusal
from diptych.volume.value import Volume

READY_BYTES = 256 * 2**20
"""Prepared slices of one series kept at a time, and one stack more: of 112² pixels 5,000."""


@dataclass(frozen=True)
class Ready:
    """A volume made ready to be looked up.

    prepared: float32 (n, size, size), every slice. kept: bool (n,), the informative ones.
    slice_digests: of the informative ones. proxy: its version and content.
    """

    prepared: NDArray[np.float32]
    kept: NDArray[np.bool_]
    slice_digests: tuple[bytes, ...]
    proxy: tuple[int, bytes]

    @property
    def slices(self) -> NDArray[np.float32]:
        """The informative slices."""
        return self.prepared[self.kept]


@dataclass(frozen=True)
class ReadyStack:
    """A stack, and what was made of it, or why nothing could be; None: nothing yet, as there was
    enough of the series before it."""

    stack: Stack
    made: Ready | NotScreenable | None

    def ready(self, size: int, stages: Stages) -> Ready | NotScreenable:
        """What was made of it, or is now; it is not kept."""
        return _made(self.stack, size, stages) if self.made is None else self.made


class Stages:
    """Seconds spent per stage; stages of several stacks add up."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started

    def add(self, others: Stages) -> None:
        """What was spent elsewhere on the same series."""
        for stage, seconds in others.seconds.items():
            self.seconds[stage] += seconds


@dataclass(frozen=True)
class ReadySeries:
    """The stacks of one series, and the seconds that making them ready took."""

    stacks: tuple[ReadyStack, ...]
    stages: Stages


def make_series_ready(outcomes: Sequence[Instance | Refusal], size: int) -> ReadySeries:
    """Every stack of the images among ``outcomes``; ``size`` is the model's ``input_size``.

    One volume in memory at a time: what is kept of it is a twentieth, and no more than
    ``READY_BYTES`` where there are many.
    """
    stages, stacks, kept = Stages(), [], 0
    images = [outcome for outcome in outcomes if isinstance(outcome, Instance)]
    for stack in plan(images).stacks if images else ():
        made = _made(stack, size, stages) if kept < READY_BYTES else None
        kept += made.prepared.nbytes if isinstance(made, Ready) else 0
        stacks.append(ReadyStack(stack, made))
    return ReadySeries(tuple(stacks), stages)


def make_ready(volume: Volume, size: int, stages: Stages) -> Ready:
    """Orient → proxy → prepare → mask → digest; ``size`` is the model's ``input_size``."""
    with stages("prepare"), ThreadPoolExecutor(1) as beside:
        # Compressing is most of a proxy's cost, and neither it nor resizing holds the interpreter.
        packed = beside.submit(
            proxy.encode,
            volume.array,
            volume.affine,
            valid=volume.valid,
            geometry=volume.geometry,
        )
        oriented = canonical_slices(volume)
        prepared = prepare(oriented.array, size, oriented.valid, oriented.extremes)
        kept = informative(prepared)
        slice_digests = tuple(digest_slices(prepared[kept]))
    return Ready(prepared, kept, slice_digests, (proxy.VERSION, packed.result()))


def _made(stack: Stack, size: int, stages: Stages) -> Ready | NotScreenable:
    try:
        with stages("assemble"):
            volume = assemble(stack)
        return make_ready(volume, size, stages)
    except NotScreenable as error:
        return error
