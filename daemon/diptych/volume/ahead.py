"""Decoding what will be asked for next while the caller is busy with something else.

It is a guess and nothing more: whoever asks for other files gets those. What is decoded of a file
depends on the file alone, so a right guess changes nothing but the time it takes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from .decoders import DecoderPool
from .plane import Instance, Refusal

AHEAD_BYTES = 256 * 2**20
"""Pixels kept ahead: a CT of 500 slices. What exceeds it is decoded when it is asked for."""


class DecodeAhead:
    """A ``DecoderPool`` for one caller thread, and a guess of what that will decode next."""

    def __init__(self, decoders: DecoderPool, ahead_bytes: int = AHEAD_BYTES) -> None:
        self._decoders, self._ahead_bytes = decoders, ahead_bytes
        self._guess: _Guess | None = None

    def expect(self, paths: Sequence[Path]) -> None:
        """Begin to decode these, in the background; only after ``decode`` has returned."""
        if paths:
            self._drop()
            self._guess = _Guess(self._decoders, paths, self._ahead_bytes)

    def decode(self, paths: Sequence[Path]) -> list[Instance | Refusal]:
        """One outcome per path, in their order, as ``DecoderPool.decode`` gives them."""
        if self._guess is not None and self._guess.paths == list(paths):
            guess, self._guess = self._guess, None
            results = guess.finish()
            if results is not None:
                return results
        self._drop()
        return list(self._decoders.decode(paths))

    def _drop(self) -> None:
        if self._guess is not None:
            self._guess.abandon()
            self._guess = None


class _Guess:
    def __init__(self, decoders: DecoderPool, paths: Sequence[Path], ahead_bytes: int) -> None:
        self.paths = list(paths)
        self._decoders, self._ahead_bytes = decoders, ahead_bytes
        self._results: list[Instance | Refusal] | None = None
        self._wanted, self._abandoned = threading.Event(), False
        # A daemon thread: the end of the process does not wait for a slow decoder.
        self._thread = threading.Thread(target=self._run, name="decode-ahead", daemon=True)
        self._thread.start()

    def finish(self) -> list[Instance | Refusal] | None:
        """Wait for the rest; None when the children failed, which is then the caller's to hear."""
        self._wanted.set()
        self._thread.join()
        return self._results

    def abandon(self) -> None:
        """Leave off after the file that is being decoded."""
        self._abandoned = True
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        results: list[Instance | Refusal] = []
        kept = 0
        outcomes = self._decoders.decode(self.paths)
        try:
            for outcome in outcomes:
                results.append(outcome)
                kept += _pixel_bytes(outcome)
                if kept > self._ahead_bytes:
                    self._wanted.wait()
                if self._abandoned:
                    outcomes.close()
                    return
        except Exception:
            # Asked for in earnest it happens again, and then its caller hears of it.
            return
        self._results = results


def _pixel_bytes(outcome: Instance | Refusal) -> int:
    if isinstance(outcome, Refusal):
        return 0
    return sum(plane.stored.nbytes for plane in outcome.planes if plane.stored is not None)
