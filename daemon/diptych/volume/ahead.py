"""Decoding what will be asked for next while the caller is busy with something else.

It is a guess and nothing more: whoever asks for other files gets those. What is decoded of a file,
and what is made of it then, depends on the file alone, so a right guess changes nothing but the
time it takes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from .decoders import DecoderPool
from .plane import Instance, Refusal

AHEAD_BYTES = 256 * 2**20
"""Pixels kept ahead: a CT of 500 slices. What exceeds it is decoded when it is asked for."""


Outcomes = list[Instance | Refusal]
Made = TypeVar("Made")


class DecodeAhead(Generic[Made]):
    """A ``DecoderPool`` for one caller thread, and a guess of what that will decode next.

    make: what is made of the outcomes ahead, too; it runs in a thread of its own.
    """

    def __init__(
        self,
        decoders: DecoderPool,
        make: Callable[[Outcomes], Made],
        ahead_bytes: int = AHEAD_BYTES,
    ) -> None:
        self._decoders, self._make, self._ahead_bytes = decoders, make, ahead_bytes
        self._guess: _Guess[Made] | None = None

    def expect(self, paths: Sequence[Path]) -> None:
        """Begin with these, in the background; only after ``decode`` has returned."""
        if paths:
            self._drop()
            self._guess = _Guess(self._decoders, paths, self._make, self._ahead_bytes)

    def decode(self, paths: Sequence[Path]) -> tuple[Outcomes, Made | None]:
        """One outcome per path, in their order, as ``DecoderPool.decode`` gives them; and what was
        made of them, None if they were not expected."""
        if self._guess is not None and self._guess.paths == list(paths):
            guess, self._guess = self._guess, None
            found = guess.finish()
            if found is not None:
                return found
        self._drop()
        return list(self._decoders.decode(paths)), None

    def _drop(self) -> None:
        if self._guess is not None:
            self._guess.abandon()
            self._guess = None


class _Guess(Generic[Made]):
    def __init__(
        self,
        decoders: DecoderPool,
        paths: Sequence[Path],
        make: Callable[[Outcomes], Made],
        ahead_bytes: int,
    ) -> None:
        self.paths = list(paths)
        self._decoders, self._make, self._ahead_bytes = decoders, make, ahead_bytes
        self._found: tuple[Outcomes, Made] | None = None
        self._wanted, self._abandoned = threading.Event(), False
        # A daemon thread: the end of the process does not wait for a slow decoder.
        self._thread = threading.Thread(target=self._run, name="decode-ahead", daemon=True)
        self._thread.start()

    def finish(self) -> tuple[Outcomes, Made] | None:
        """Wait for the rest; None when something failed, which is then the caller's to hear."""
        self._wanted.set()
        self._thread.join()
        return self._found

    def abandon(self) -> None:
        """Leave off after the file that is being decoded."""
        self._abandoned = True
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        results: Outcomes = []
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
            self._found = results, self._make(results)
        except Exception:
            # Asked for in earnest it happens again, and then its caller hears of it.
            return


def _pixel_bytes(outcome: Instance | Refusal) -> int:
    if isinstance(outcome, Refusal):
        return 0
    return sum(plane.stored.nbytes for plane in outcome.planes if plane.stored is not None)
