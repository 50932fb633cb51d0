"""What stand-ins are made of: the volumes of a folder, none of which may be evaluated.

A stand-in of an evaluated case would be a stranger that knows the answer. So a source is refused
when it is one of the evaluated files, under whatever path, or shares a plane's pixels with one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.errors import UsageError
from diptych.evaluate.cases import Case, Listing
from diptych.evaluate.progress import Progress
from diptych.evaluate.reading import Unreadable
from diptych.evaluate.standins import Frame, reduced
from diptych.evaluate.survey import known_planes
from diptych.judge import proxy
from diptych.volume.decoders import DecoderPool
from diptych.volume.value import Volume

LEAST_SLICES = 8
"""Of a source: warped, a handful of slices is no person of its own."""


@dataclass(frozen=True, eq=False)
class Source:
    """A source reduced. array: the ``.npy`` of what :func:`standins.reduced` gave; proxy: of the
    volume itself."""

    array: Path
    frame: Frame
    proxy: bytes


@dataclass(frozen=True)
class Sources:
    """each: in path order. digest: of all their pixels. left_out: (path, reason)."""

    each: tuple[Source, ...]
    digest: str
    left_out: tuple[tuple[str, str], ...]


def refuse_same_files(sources: Listing, evaluated: Listing) -> None:
    """UsageError: a file is in both, by its path or by another link to it."""
    known = {_identity(path): case.id for case in evaluated.cases for path in case.paths}
    for case in sources.cases:
        for path in case.paths:
            if (id_ := known.get(_identity(path))) is not None:
                raise _refused(case.name_of(path), f"it is {id_} of the evaluated folder")


def gather(
    listing: Listing,
    evaluated: Mapping[str, str],
    decoders: DecoderPool,
    folder: Path,
    progress: Progress,
) -> Sources:
    """Read and reduce every source; its array goes to ``folder``.

    evaluated: which evaluated case each plane is of (``Survey.planes``). UsageError: a source
    shares one, or none can be used.
    """
    found: list[Source] = []
    left_out = [*listing.unreadable]
    planes: set[str] = set()
    content = hashlib.sha256()
    with progress.phase("sources", len(listing.cases), len(listing.cases)) as phase:
        for case in listing.cases:
            volume = _read(case, decoders, left_out)
            phase.finished(1)
            if volume is None:
                continue
            own = known_planes(volume)
            for plane in own:
                if plane in evaluated:
                    raise _refused(case.id, f"it shares pixels with {evaluated[plane]}")
            if own & planes:
                left_out.append((case.id, "shares pixels with another source"))
                continue
            planes |= own
            for digest in volume.digests:
                content.update(digest)
            found.append(_source(volume, folder / f"{len(found):06}.npy"))
    if not found:
        instance = f", for instance {': '.join(left_out[0])}" if left_out else ""
        raise UsageError(f"--stand-ins-from: no volume there can be used{instance}")
    return Sources(tuple(found), content.hexdigest(), tuple(left_out))


def _read(case: Case, decoders: DecoderPool, left_out: list[tuple[str, str]]) -> Volume | None:
    try:
        volume = case.read(decoders).volume
    except Unreadable as error:
        left_out.append((case.id, str(error)))
        return None
    if len(volume.array) < LEAST_SLICES:
        left_out.append((case.id, f"too few slices: {len(volume.array)}"))
        return None
    return volume


def _source(volume: Volume, path: Path) -> Source:
    array, frame = reduced(volume)
    np.save(path, array)
    packed = proxy.encode(volume.array, volume.affine, valid=volume.valid, geometry=volume.geometry)
    return Source(path, frame, packed)


def _identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_dev, state.st_ino


def _refused(name: str, why: str) -> UsageError:
    return UsageError(
        f"--stand-ins-from: {name} cannot be a source: {why}; stand-ins are made of other people"
    )
