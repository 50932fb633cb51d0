"""A screened delivery as plain values: all that limits, comparisons and the report read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from diptych.judge.check import Check
from diptych.judge.ladder import Relation


class Kind(StrEnum):
    """What a collection is to the buyer."""

    DELIVERY = "delivery"
    OWNED = "owned"
    TEST_SET = "test-set"


COPIES = frozenset({Relation.EXACT, Relation.NEAR_DUPLICATE, Relation.PARTIAL})
"""The relations that make a series a duplicate (DESIGN, "Found / false")."""


@dataclass(frozen=True)
class Ref:
    """One case, in the collection that holds it; ``collection``: "delivery", "owned", or the name
    of a test set. ``series``: the number of its series in the catalogue, of a delivery only."""

    collection: str
    case: int
    series: int | None = None


@dataclass(frozen=True)
class Known:
    """What is known of the case on the other side. UIDs None: forgotten. ``facts``: as of
    ``Series``, as far as they are kept. ``content``: as of ``Stack``."""

    ref: Ref
    study_instance_uid: str | None
    series_instance_uid: str | None
    source: str
    modality: str
    body_part: str
    slices: int
    facts: Mapping[str, str] = field(default_factory=dict)
    content: str = ""


@dataclass(frozen=True)
class Match:
    """What a stack is to one collection. other None: ``relation`` is unique. c1, c3: the paper's
    counts, None where nothing was counted. verified: yes, no or impossible, and ``why``. check:
    the alignment of the two, None after identical pixels."""

    kind: Kind
    collection: str
    relation: Relation
    other: Known | None
    c1: float | None
    c3: float | None
    threshold: float | None
    verified: str
    why: str
    check: Check | None = None


@dataclass(frozen=True)
class Stack:
    """A case of the delivery: one stack of one series. principal: it speaks for its series.
    relation: inside the delivery; reason, detail: where it is not-screenable. matches: one per
    collection, the delivery itself first; none where it is not-screenable. content: the case digest
    in hex, "" where there is none."""

    ref: Ref
    principal: bool
    relation: Relation
    reason: str
    detail: str
    modality: str
    body_part: str
    slices: int
    informative_slices: int
    flags: tuple[str, ...]
    matches: tuple[Match, ...]
    content: str = ""


@dataclass(frozen=True)
class Series:
    """A series of the delivery as the catalogue has it.

    number: in the catalogue's order, from 1. place: its folder, or its file. files: how many;
    slices: as the headers say. stacks: empty while it was not judged. refused: what could not be
    read of it (file, reason). facts: DICOM keywords or file format fields → text, without
    identifiers. patient: a keyed hash of whom the header names, "" where it names nobody.
    """

    number: int
    place: str
    kind: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    transfer_syntax: str
    files: int
    slices: int
    bytes: int
    vendor: str
    split: str
    price: Decimal | None
    stacks: tuple[Stack, ...]
    refused: tuple[tuple[str, str], ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    patient: str = ""

    @property
    def judged(self) -> bool:
        """Whether it has its verdict."""
        return bool(self.stacks)

    @property
    def principal(self) -> Stack | None:
        """The stack that speaks for the series."""
        return next((stack for stack in self.stacks if stack.principal), None)


@dataclass(frozen=True)
class Outcome:
    """What became of files and archive members: as ``intake.entry`` names it."""

    status: str
    reason: str
    count: int
    bytes: int


@dataclass(frozen=True)
class Collection:
    """One that the delivery was compared with; ``cases`` it held then."""

    kind: Kind
    name: str
    cases: int


@dataclass(frozen=True)
class Screening:
    """All of it. entries: files and members, every one in ``outcomes``. absent: (named by, name,
    reason) of what an input names and is not there. complete: every series has its verdict;
    stopped: why not, in words. Times: UTC microseconds."""

    delivery: str
    vendor: str
    inputs: tuple[str, ...]
    began: int
    ended: int
    seconds: float
    version: str
    model: str
    fingerprint: str
    policy: str
    collections: tuple[Collection, ...]
    files: int
    entries: int
    bytes: int
    outcomes: tuple[Outcome, ...]
    absent: tuple[tuple[str, str, str], ...]
    series: tuple[Series, ...]
    complete: bool
    stopped: str = ""
