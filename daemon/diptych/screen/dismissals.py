"""Pairs of which somebody said: not a duplicate, do not show again.

Kept by the contents of both sides in ``dismissals.json`` of the data folder, so that they survive
new names, new UIDs and a new delivery. A dismissed copy becomes ``related``: it is not counted, and
it is listed. What else such a series may be a copy of in the same collection is not known: of each
collection only the surest match is.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from diptych.config import explain
from diptych.errors import ConfigError, UsageError
from diptych.judge.ladder import Relation
from diptych.sections import Section

from .copies import counted, matched
from .findings import Kind, Match, Screening, Series, Stack
from .since import contents_of

FILE = "dismissals.json"
Pair = tuple[Kind, tuple[str, str]]
Content = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Dismissal(Section):
    """contents: of the two sides, hex, sorted. kind: of what collection it was said; what may be
    twice in a delivery may still be owned. when: UTC microseconds."""

    contents: tuple[Content, Content]
    kind: Kind
    who: str = Field(min_length=1, max_length=200)
    when: int = Field(ge=0)
    why: str = Field(min_length=1, max_length=2000)

    @model_validator(mode="after")
    def _sorted(self) -> Dismissal:
        if self.contents[0] > self.contents[1]:
            raise ValueError("contents: the smaller one first")
        return self

    @property
    def pair(self) -> Pair:
        """What it is known by."""
        return (self.kind, self.contents)


class _Written(Section):
    version: Literal[1] = 1
    dismissals: tuple[Dismissal, ...] = ()

    @model_validator(mode="after")
    def _every_pair_once(self) -> _Written:
        if len({one.pair for one in self.dismissals}) != len(self.dismissals):
            raise ValueError("dismissals: every pair once")
        return self


@dataclass(frozen=True)
class Dismissed:
    """A copy that a dismissal took out of the count: ``match`` as it was found."""

    series: int
    match: Match
    dismissal: Dismissal


def load(data: Path) -> tuple[Dismissal, ...]:
    """All of a data folder, in the order they were made. ConfigError when the file is damaged."""
    file = data / FILE
    try:
        return _Written.model_validate_json(file.read_bytes()).dismissals
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except ValidationError as error:
        words = "; ".join(map(explain, error.errors()[:3]))
        raise ConfigError(f"{file} is damaged: {words}; bring it back from a backup") from None


def add(data: Path, dismissal: Dismissal) -> None:
    """UsageError when that pair is dismissed already."""
    with _locked(data):
        known = load(data)
        for one in known:
            if one.pair == dismissal.pair:
                raise UsageError(f"this pair was dismissed already, by {one.who}: {one.why}")
        _write(data, (*known, dismissal))


def remove(data: Path, pair: Pair) -> Dismissal:
    """Take one back. UsageError when there is none of that pair, in either order."""
    kind, contents = pair
    with _locked(data):
        known = load(data)
        for one in known:
            if one.pair == (kind, tuple(sorted(contents))):
                _write(data, [other for other in known if other is not one])
                return one
    raise UsageError("this pair is not dismissed")


def dismissible(screening: Screening, series: int, collection: str) -> Pair:
    """What to dismiss a copy by: of series ``series``, in ``collection``. UsageError when
    it is no copy there, or not by content."""
    found = next((one for one in screening.series if one.number == series), None)
    if found is None:
        raise UsageError(f"there is no series {series}")
    pairs = [pair for pair in counted(found) if pair[1].collection == collection]
    if not pairs:
        raise UsageError(f"series {series} is no copy of anything in {collection!r}")
    stack, match = pairs[0]
    if not stack.content or match.other is None or not match.other.content:
        raise UsageError(f"series {series}: its pixels or the other's are no more known")
    return match.kind, contents_of(stack, match)


def apply(
    screening: Screening, dismissals: Iterable[Dismissal]
) -> tuple[Screening, tuple[Dismissed, ...]]:
    """The screening without the dismissed copies, and these."""
    known = {one.pair: one for one in dismissals}
    found: list[Dismissed] = []
    series = tuple(_applied(one, known, found) for one in screening.series)
    return replace(screening, series=series), tuple(found)


def _applied(series: Series, known: dict[Pair, Dismissal], found: list[Dismissed]) -> Series:
    stacks = []
    for stack in series.stacks:
        hit = {
            match.collection: known[pair]
            for match in matched(series, stack)
            if (pair := (match.kind, contents_of(stack, match))) in known
        }
        found += [
            Dismissed(series.number, match, hit[match.collection])
            for match in stack.matches
            if match.collection in hit
        ]
        stacks.append(_without(stack, set(hit)) if hit else stack)
    return replace(series, stacks=tuple(stacks))


def _without(stack: Stack, collections: set[str]) -> Stack:
    matches = tuple(
        replace(match, relation=Relation.RELATED) if match.collection in collections else match
        for match in stack.matches
    )
    inside = any(m.kind is Kind.DELIVERY and m.collection in collections for m in matches)
    return replace(stack, matches=matches, relation=Relation.RELATED if inside else stack.relation)


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Two who dismiss at once do so one after the other."""
    if not data.is_dir():
        raise ConfigError(f"{data} is no data folder")
    lock = os.open(data / "dismissals.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(data: Path, dismissals: Sequence[Dismissal]) -> None:
    text = _Written(dismissals=tuple(dismissals)).model_dump_json(indent=1)
    temporary = data / f"{FILE}.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(data / FILE)
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
