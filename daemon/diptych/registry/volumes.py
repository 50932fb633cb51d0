"""Volumes of judged cases, read once more from the files that are still kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diptych.audit.models import Wanted
from diptych.errors import DiptychError, NotScreenable
from diptych.judge.digest import case_digest
from diptych.volume.assemble import assemble
from diptych.volume.decoders import DecoderPool
from diptych.volume.plan import plan
from diptych.volume.plane import Instance
from diptych.volume.value import Volume


class Lost(DiptychError):
    """The pixels of a case are not there any more, or not as they were judged."""


def of(wanted: Wanted, path_of: Callable[[str], Path], decoders: DecoderPool) -> dict[int, Volume]:
    """Case id → volume, for every wanted case of the revision.

    Held against the digest that was judged: what is embedded again is what was judged then. Raises
    Lost with the reason.
    """
    if wanted.purged:
        raise Lost("pixels purged")
    paths = [path_of(locator) for locator in wanted.locators]
    if not all(path.exists() for path in paths):
        raise Lost("files missing")
    images = [found for found in decoders.decode(paths) if isinstance(found, Instance)]
    stacks = {stack.signature: stack for stack in plan(images).stacks} if images else {}
    volumes = {}
    for case_id, signature, digest in wanted.cases:
        stack = stacks.get(signature)
        if stack is None or case_digest(plane.digest for plane in stack.planes) != digest:
            raise Lost("its files no longer give what was judged")
        try:
            volumes[case_id] = assemble(stack)
        except NotScreenable as error:
            raise Lost(str(error)) from error
    return volumes
