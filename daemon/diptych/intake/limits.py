"""How much one file of a delivery may ask for, and how much of it was used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of one outermost file, with everything nested in it."""

    members: int = 1_000_000
    """A study has a few thousand."""

    directory_bytes: int = 256 * 2**20
    """Of a zip's central directory, which is held in memory."""

    depth: int = 4
    """Archives in archives; a zip of tar.gz of a zip is three."""

    expanded_bytes: int = 4 * 2**40
    """What all decompression may produce together."""

    ratio: int = 200
    """Expanded ÷ compressed bytes: 16-bit images shrink to a half, blank ones to a hundredth."""

    free_bytes: int = 64 * 2**20
    """Up to here no ratio is asked for: one blank volume is no attack."""

    name_bytes: int = 4096
    """PATH_MAX of Linux."""


class Refused(Exception):
    """What is not read, by a named reason; ``detail`` says the figures."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Exhausted(Refused):
    """The outermost file has used up a limit: nothing more of it is read."""


class Budget:
    """What one outermost file of ``outer_bytes`` (None: unknown) has used so far."""

    def __init__(self, limits: Limits, outer_bytes: int | None) -> None:
        self.limits = limits
        self._outer = outer_bytes
        self._members = 0
        self._expanded = 0

    def member(self) -> None:
        """One more member; raises Exhausted."""
        self._members += 1
        if self._members > self.limits.members:
            raise Exhausted("too-many-members", f"more than {self.limits.members}")

    def expand(self, count: int) -> None:
        """``count`` more bytes out of a decompressor; raises Exhausted."""
        self._expanded += count
        if self._expanded > self.limits.expanded_bytes:
            raise Exhausted("too-many-bytes", f"more than {self.limits.expanded_bytes} expanded")
        if self._outer is not None and self.too_dense(self._expanded, self._outer):
            raise Exhausted(
                "expands-too-much", f"{self._outer} bytes become more than {self._expanded}"
            )

    def too_dense(self, expanded: int, packed: int) -> bool:
        """Whether so many bytes out of so few are a bomb's."""
        return expanded > self.limits.free_bytes and expanded > self.limits.ratio * packed
