"""The archive as SQL has it, for one series: without what belongs to that series itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diptych.audit import archive, groups, layouts
from diptych.audit.store import Store
from diptych.audit.work import Work
from diptych.judge.count import CaseId
from diptych.judge.digest import DIGEST_VERSION


class Recorded:
    """The archive as SQL has it, without the series that is judged."""

    def __init__(self, store: Store, fingerprint_id: int, dimension: int, work: Work) -> None:
        self._store, self._fingerprint_id, self._dimension = store, fingerprint_id, dimension
        self._work = work
        self.cases: dict[CaseId, archive.Owner] = {}
        self.reused: list[int] = []
        with store.read() as connection:
            self.watermark = archive.next_key(connection, fingerprint_id) - 1

    def earliest_with_digest(self, case_digest: bytes) -> CaseId | None:
        with self._store.read() as connection:
            owner = archive.earliest_with_digest(
                connection, case_digest, DIGEST_VERSION, self._work.series_id
            )
        if owner is None:
            return None
        self.cases[owner.case_id] = owner
        return owner.case_id

    def vectors_of(self, case: CaseId) -> NDArray[np.float32] | None:
        with self._store.read() as connection:
            self.reused = archive.slice_keys(connection, self._fingerprint_id, case)
            if not self.reused:
                return None
            return archive.vectors(connection, self._fingerprint_id, self.reused, self._dimension)

    def owners(self, keys: Sequence[int]) -> Mapping[int, CaseId]:
        with self._store.read() as connection:
            found = archive.owners(connection, self._fingerprint_id, keys)
        return self._foreign(found)

    def owners_of_layouts(self, keys: Sequence[int]) -> Mapping[int, CaseId]:
        with self._store.read() as connection:
            found = layouts.owners(connection, keys)
        return self._foreign(found)

    def representatives(self, cases: Iterable[CaseId]) -> Mapping[CaseId, CaseId]:
        with self._store.read() as connection:
            found = groups.representatives(connection, list(cases))
        return self._foreign(found)

    def proxy_of(self, case: CaseId) -> bytes | None:
        with self._store.read() as connection:
            return archive.proxy(connection, case)

    def same_study(self, cases: Iterable[CaseId]) -> list[CaseId]:
        """Siblings: the same series as another archive has it is none of them."""
        work = self._work
        return [
            case
            for case in cases
            if self.cases[case].study_instance_uid == work.study_instance_uid
            and self.cases[case].series_instance_uid != work.series_instance_uid
        ]

    def _foreign(self, found: Mapping[int, archive.Owner]) -> Mapping[int, CaseId]:
        foreign = {k: o for k, o in found.items() if o.series_id != self._work.series_id}
        self.cases |= {owner.case_id: owner for owner in foreign.values()}
        return {key: owner.case_id for key, owner in foreign.items()}
