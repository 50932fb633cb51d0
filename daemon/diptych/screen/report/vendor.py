"""The copy for the vendor: the same findings without what is the buyer's own.

Values in, values out: what is left out here cannot appear in any file that is made of them. Of an
owned case or one of a test set only the relation, what the alignment says of the *delivered* one,
and a salted number stay; names of test sets and the sizes of collections go, and so do flags that
owned cases take part in. The delivery's own UIDs stay: the vendor wrote them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from diptych.judge.check import Check, Impossible
from diptych.judge.ladder import (
    ALIGNED,
    BY_DIGEST,
    NO_CANDIDATE,
    NOT_TRIED,
    REFUTED,
    Flag,
)
from diptych.screen.findings import Kind, Known, Match, Ref, Screening, Series, Stack
from diptych.screen.groups import Group, Member
from diptych.screen.keep import Kept
from diptych.screen.limits import Decision
from diptych.screen.report.given import Pictures

_OWN_FLAGS = frozenset(
    {
        Flag.INCOMPLETE,
        Flag.GEOMETRY_INFERRED,
        Flag.FEW_SLICES,
        Flag.STACKS_DIFFER,
        Flag.WITHIN_DELIVERY,
    }
)
_PLAIN_REASONS = frozenset(
    {v.reason for v in (ALIGNED, BY_DIGEST, NO_CANDIDATE, NOT_TRIED, REFUTED)} | set(Impossible)
)
_DELIVERY = "delivery"


@dataclass(frozen=True)
class Copy:
    """Everything a report is made of, fit to be sent."""

    screening: Screening
    decision: Decision
    groups: tuple[Group, ...]
    kept: tuple[Kept, ...]
    pictures: Pictures


def copy_for(
    screening: Screening,
    decision: Decision,
    groups: Sequence[Group],
    kept: Sequence[Kept],
    pictures: Pictures,
    secret: bytes,
) -> Copy:
    """secret: never leaves the machine; the same one gives the same numbers."""
    hidden = _Hidden(screening, secret)
    return Copy(
        hidden.screening(),
        replace(decision, sentence=hidden.text(decision.sentence)),
        tuple(hidden.group(group) for group in groups),
        tuple(replace(each, why=hidden.text(each.why)) for each in kept),
        Pictures(
            lambda ref: pictures.proxy_of(ref) if ref.collection == _DELIVERY else None,
            lambda ref: pictures.vectors_of(ref) if ref.collection == _DELIVERY else None,
        ),
    )


class _Hidden:
    def __init__(self, screening: Screening, secret: bytes) -> None:
        self._given = screening
        self._secret = hmac.new(secret, screening.delivery.encode(), hashlib.sha256).digest()
        named = [each.name for each in screening.collections if each.kind is Kind.TEST_SET]
        matched = [
            match.collection
            for series in screening.series
            for stack in series.stacks
            for match in stack.matches
            if match.kind is Kind.TEST_SET
        ]
        names = dict.fromkeys([*named, *matched])
        self._aliases: Mapping[str, str] = {
            name: f"test-set-{number}" for number, name in enumerate(names, 1)
        }
        others = "|".join(map(re.escape, sorted([Kind.OWNED.value, *names], key=len, reverse=True)))
        self._case = re.compile(rf"\bcase (\d+) of ({others})")
        # Where the buyer keeps the delivery is no business of the vendor's.
        self._folders = sorted({_folder(path) for path in screening.inputs}, key=len, reverse=True)

    def screening(self) -> Screening:
        given = self._given
        return replace(
            given,
            inputs=tuple(path.rstrip("/").rpartition("/")[2] for path in given.inputs),
            collections=tuple(
                replace(each, name=self._name(each.kind, each.name), cases=0)
                for each in given.collections
            ),
            absent=tuple((self.path(by), self.path(name), why) for by, name, why in given.absent),
            series=tuple(self._series(series) for series in given.series),
        )

    def text(self, text: str) -> str:
        """Without the names of test sets and the numbers of cases that are not the delivery's."""
        text = self._case.sub(lambda found: self._salted_words(found[2], int(found[1])), text)
        for name, alias in self._aliases.items():
            text = text.replace(name, alias)
        return text

    def _salted_words(self, collection: str, case: int) -> str:
        ref = self._ref(Ref(collection, case))
        return f"case {ref.case} of {ref.collection}"

    def path(self, path: str) -> str:
        """From the folder on that an input lies in; what lies elsewhere by its name alone."""
        for folder in self._folders:
            if path.startswith(folder):
                return path[len(folder) :]
        return path.rpartition("/")[2] if path.startswith("/") else path

    def group(self, group: Group) -> Group:
        return replace(
            group,
            representative=self._ref(group.representative),
            members=tuple(
                Member(self._ref(member.ref), member.relation, self._match(member.match))
                for member in group.members
            ),
        )

    def _series(self, series: Series) -> Series:
        return replace(
            series,
            place=self.path(series.place),
            refused=tuple((self.path(name), why) for name, why in series.refused),
            stacks=tuple(self._stack(stack) for stack in series.stacks),
        )

    def _stack(self, stack: Stack) -> Stack:
        return replace(
            stack,
            flags=tuple(flag for flag in stack.flags if flag in _OWN_FLAGS),
            matches=tuple(self._match(match) for match in stack.matches),
        )

    def _match(self, match: Match) -> Match:
        if match.kind is Kind.DELIVERY:
            return match
        return replace(
            match,
            collection=self._name(match.kind, match.collection),
            other=None if match.other is None else self._known(match.other),
            why=match.why if match.why in _PLAIN_REASONS else "",
            check=None if match.check is None else self._check(match.check),
        )

    def _check(self, check: Check) -> Check:
        return replace(check, case=0, overlap=(check.overlap[0], 0.0), theirs=None, bands=())

    def _known(self, known: Known) -> Known:
        return Known(self._ref(known.ref), None, None, "", "", "", 0)

    def _ref(self, ref: Ref) -> Ref:
        if ref.collection == _DELIVERY:
            return ref
        named = f"{ref.collection}\0{ref.case}".encode()
        digest = hmac.new(self._secret, named, hashlib.sha256).digest()
        # 48 bits: a whole number that JSON and spreadsheets keep exactly
        salted = int.from_bytes(digest[:6])
        return Ref(self._aliases.get(ref.collection, ref.collection), salted)

    def _name(self, kind: Kind, name: str) -> str:
        return self._aliases[name] if kind is Kind.TEST_SET else kind.value


def _folder(path: str) -> str:
    """Where an input (a path or URL) lies, with the slash."""
    before, slash, _ = path.rstrip("/").rpartition("/")
    return before + slash
