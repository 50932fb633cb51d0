"""Who is a stranger to whom, and the archive as a case would find it if it were new.

Not strangers: cases of one series, study or patient, and cases that a verdict calls copies of each
other, directly or through others. Everything else is; a copy that nobody has found yet among it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.audit import archive, layouts, population
from diptych.audit.population import Link, Member
from diptych.audit.store import Store
from diptych.judge.count import CaseId

Groups = Mapping[CaseId, frozenset[CaseId]]
"""Each case's own group: itself, and who is no stranger to it."""


MOST_STUDIES = 50
"""Of one patient. A PatientID with more is a placeholder that a site made up, or a phantom's."""


@dataclass(frozen=True)
class LeftOut:
    """Who was no stranger, and why. ties: reason → cases with another one for it; cases: with any;
    most: others of one case. shared_ids: PatientIDs of too many studies to be one patient's, and
    so not believed; sharing: cases with such a one."""

    ties: Mapping[str, int]
    cases: int
    most: int
    shared_ids: int
    sharing: int


def groups(members: Sequence[Member], links: Iterable[Link]) -> Groups:
    """Cases that hang together by series, study, patient, or one of these links."""
    parent = {member.case_id: member.case_id for member in members}

    def root(case: CaseId) -> CaseId:
        while parent[case] != case:
            parent[case] = case = parent[parent[case]]
        return case

    for tied in _ties(members, links).values():
        for cases in tied:
            for case in cases[1:]:
                parent[root(case)] = root(cases[0])
    gathered: dict[CaseId, set[CaseId]] = {}
    for case in parent:
        gathered.setdefault(root(case), set()).add(case)
    return {case: frozenset(group) for group in gathered.values() for case in group}


def left_out(members: Sequence[Member], links: Iterable[Link], of: Groups) -> LeftOut:
    """What :func:`groups` of the same left out."""
    shared = _shared(members)
    others = [len(group) - 1 for group in of.values()]
    return LeftOut(
        {
            why: len({case for cases in tied if len(cases) > 1 for case in cases})
            for why, tied in _ties(members, links).items()
        },
        sum(count > 0 for count in others),
        max(others, default=0),
        len(shared),
        sum(member.patient in shared for member in members),
    )


def _ties(members: Sequence[Member], links: Iterable[Link]) -> dict[str, list[list[CaseId]]]:
    """Reason → the cases that it ties to each other."""
    shared, found = _shared(members), {member.case_id for member in members}
    by: dict[str, dict[object, list[CaseId]]] = {"series": {}, "study": {}, "patient": {}}
    for member in members:
        patient = None if member.patient in shared else member.patient
        said = (member.series_id, member.study, patient)
        for of, value in zip(by.values(), said, strict=True):
            if value is not None:
                of.setdefault(value, []).append(member.case_id)
    pairs = [[link.case_id, link.matched_case_id] for link in links]
    return {why: list(tied.values()) for why, tied in by.items()} | {
        "verdict": [pair for pair in pairs if found.issuperset(pair)]
    }


def _shared(members: Iterable[Member]) -> set[bytes]:
    """Patients with more studies than one patient has."""
    studies: dict[bytes, set[object]] = {}
    for member in members:
        if member.patient is not None:
            studies.setdefault(member.patient, set()).add(member.study or member.series_id)
    return {patient for patient, of in studies.items() if len(of) > MOST_STUDIES}


class Population:
    """The cases of one fingerprint, who holds which node, who has which digest, and who is whose
    copy: read once."""

    def __init__(
        self, store: Store, fingerprint_id: int, dimension: int, copies: Iterable[Link]
    ) -> None:
        self.copies = {link.case_id: link.matched_case_id for link in copies}
        self.store, self.fingerprint_id, self.dimension = store, fingerprint_id, dimension
        with store.read() as connection:
            self.members = population.members(connection, fingerprint_id)
            self.keys, self.cases = population.holders(connection, fingerprint_id)
        self.study = {member.case_id: member.study for member in self.members}
        self.by_digest: dict[bytes, list[CaseId]] = {}
        for member in self.members:
            if member.digest is not None:
                self.by_digest.setdefault(member.digest, []).append(member.case_id)

    def vectors(self, case: CaseId) -> NDArray[np.float32]:
        """float32 (n, d) of its informative slices, as they are stored."""
        with self.store.read() as connection:
            keys = archive.slice_keys(connection, self.fingerprint_id, case)
            return archive.vectors(connection, self.fingerprint_id, keys, self.dimension)

    def without(self, left_out: frozenset[CaseId], study: str | None) -> Without:
        """The archive for a series of this study, as if those cases were not in it."""
        return Without(self, left_out, study)


class Without:
    """A ``pipeline.Archive`` without some cases. A node that one of them shares with another case
    is that one's, as it would be if they had never come."""

    def __init__(
        self, everything: Population, left_out: frozenset[CaseId], study: str | None
    ) -> None:
        self._all, self._left_out, self._study = everything, left_out, study

    def earliest_with_digest(self, case_digest: bytes) -> CaseId | None:
        """Of those that are not left out."""
        found = self._all.by_digest.get(case_digest, ())
        return next((case for case in found if case not in self._left_out), None)

    def vectors_of(self, case: CaseId) -> NDArray[np.float32] | None:
        """None: the query's own are asked for, which are there already."""
        return None

    def owners(self, keys: Sequence[int]) -> Mapping[int, CaseId]:
        """The earliest holder of each node that is not left out."""
        wanted = np.array(keys, np.uint64)
        starts = np.searchsorted(self._all.keys, wanted, "left")
        ends = np.searchsorted(self._all.keys, wanted, "right")
        found = {}
        for key, start, end in zip(keys, starts.tolist(), ends.tolist(), strict=True):
            for case in self._all.cases[start:end].tolist():
                if case not in self._left_out:
                    found[key] = case
                    break
        return found

    def owners_of_layouts(self, keys: Sequence[int]) -> Mapping[int, CaseId]:
        """Whose they are, of those that are not left out."""
        with self._all.store.read() as connection:
            found = layouts.owners(connection, keys)
        return {k: o.case_id for k, o in found.items() if o.case_id not in self._left_out}

    def representatives(self, cases: Iterable[CaseId]) -> Mapping[CaseId, CaseId]:
        """As the verdicts have it; without those that are left out."""
        found = {case: self._all.copies[case] for case in cases if case in self._all.copies}
        return {case: of for case, of in found.items() if of not in self._left_out}

    def proxy_of(self, case: CaseId) -> bytes | None:
        """Its newest."""
        with self._all.store.read() as connection:
            return archive.proxy(connection, case)

    def same_study(self, cases: Iterable[CaseId]) -> list[CaseId]:
        """As the daemon asks it; a study without a name is nobody's."""
        study = self._study
        return [case for case in cases if study is not None and self._all.study.get(case) == study]
