"""The exact tier: case digests, what two cases share plane by plane, and collisions.

The plane digest itself is in ``volume.digest`` (the decoder child computes it).
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from diptych.volume.digest import DIGEST_BYTES, DIGEST_VERSION, plane_digest
from diptych.volume.plane import InstanceHeader

__all__ = [
    "DIGEST_VERSION",
    "Overlap",
    "case_digest",
    "collision_parts",
    "plane_digest",
    "planes_in_common",
]

_HEADER = struct.Struct("<16sHI")  # magic, version, number of planes
_MAGIC = b"diptych.case"

Part = Literal["pixels", "identity", "private", "other"]


def case_digest(plane_digests: Iterable[bytes]) -> bytes:
    """SHA-256 over the sorted list of plane digests, repeats kept; 32 bytes.

    Sorting makes it blind to slice order, UIDs and geometry: those are evidence beside it. Raises
    ``ValueError`` for an empty list or for something that is not a plane digest.
    """
    ordered = sorted(plane_digests)
    if not ordered:
        raise ValueError("a case without planes has no digest")
    if any(len(digest) != DIGEST_BYTES for digest in ordered):
        raise ValueError(f"a plane digest has {DIGEST_BYTES} bytes")
    digest = hashlib.sha256(_HEADER.pack(_MAGIC, DIGEST_VERSION, len(ordered)))
    for plane in ordered:
        digest.update(plane)
    return digest.digest()


@dataclass(frozen=True)
class Overlap:
    """How many planes two cases have in common, with repeats, and how many each has."""

    common: int
    ours: int
    theirs: int

    @property
    def exact(self) -> bool:
        """True when both hold the same planes, and any at all."""
        return 0 < self.common == self.ours == self.theirs


def planes_in_common(
    ours: Iterable[bytes], theirs: Iterable[bytes], constant: Iterable[bytes] = ()
) -> Overlap:
    """Compare two cases plane by plane, repeats counted.

    ``constant`` are digests of constant planes: every archive is full of them, so they are no
    evidence and count on neither side.
    """
    ignored = set(constant)
    left = Counter(digest for digest in ours if digest not in ignored)
    right = Counter(digest for digest in theirs if digest not in ignored)
    return Overlap((left & right).total(), left.total(), right.total())


def collision_parts(
    ours: InstanceHeader,
    our_planes: Iterable[bytes],
    theirs: InstanceHeader,
    their_planes: Iterable[bytes],
) -> frozenset[Part]:
    """Which parts differ between two contents of one SOP Instance UID; empty: only the encoding."""
    parts: set[Part] = set()
    if Counter(our_planes) != Counter(their_planes):
        parts.add("pixels")
    if ours.identity_hash != theirs.identity_hash:
        parts.add("identity")
    if ours.private_hash != theirs.private_hash:
        parts.add("private")
    if ours.rest_hash != theirs.rest_hash:
        parts.add("other")
    return frozenset(parts)
