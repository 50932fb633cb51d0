"""The daemon's own ladder over the same database: what would it have said?

The same preparation, mask, digests, look-up and policy as ``serve``, by the same functions of
``pipeline``; only the archive is in memory. Copies and strangers arrive as new series of no known
study, one at a time, and are not kept: nobody is a match of itself or of another query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diptych.embed.manifest import ModelEntry
from diptych.judge.check import Check
from diptych.judge.count import CaseId
from diptych.judge.layout import DIMENSION, layout, smoothed
from diptych.judge.policy import Policy
from diptych.judge.proxy import Proxy
from diptych.judge.verify import verify
from diptych.lookup import Finding, Indexes, look_up, read_proxy, shipped_policy
from diptych.ready import Ready, Stages
from diptych.search.archive import SearchIndex
from diptych.search.layouts import Layouts

Vectors = NDArray[np.float32]
Fetch = Callable[[], bytes]


class Product:
    """The ladder with the policy that ships, and the archive it asks. Cases count from 1."""

    def __init__(self, model: ModelEntry) -> None:
        self.policy = shipped_policy(model)
        self._indexes = Indexes(SearchIndex(model.dimension, model.fingerprint), Layouts(DIMENSION))
        self._archive = _Memory(self._indexes)

    def add(
        self,
        slice_digests: Sequence[bytes],
        digest: bytes | None,
        vectors: Vectors,
        proxy: bytes,
        fetch: Fetch | None = None,
    ) -> CaseId:
        """The next case. slice_digests, vectors (n, d): of its informative slices; digest: of the
        case, None when its planes are constant. fetch: gives the proxy again, which then is not
        kept in memory."""
        return self._archive.add(slice_digests, digest, vectors, proxy, fetch)

    def __len__(self) -> int:
        """Nodes of the index: distinct informative slices."""
        return len(self._indexes.slices)

    def judge(
        self,
        ready: Ready,
        digest: bytes | None,
        embed: Callable[[], Vectors],
        policy: Policy | None = None,
    ) -> Finding:
        """The verdict on one query, as on a new series. embed: its informative slices' vectors.
        policy: another than the one that ships."""
        asked = self.policy if policy is None else policy
        return look_up(
            ready, digest, lambda _: embed(), self._indexes, self._archive, asked, Stages()
        )

    def align(self, case: CaseId, ours: Proxy | None) -> Check:
        """What verification says about one of its cases, held against a query's proxy."""
        return verify(case, ours, read_proxy(self._archive.proxy_of(case)))


class _Memory:
    """A ``pipeline.Archive`` without SQL: nodes are shared by prepared digest, as there."""

    def __init__(self, indexes: Indexes) -> None:
        self._index, self._layouts = indexes.slices, indexes.layouts
        self._nodes: dict[bytes, int] = {}
        self._owner: dict[int, CaseId] = {}
        self._by_digest: dict[bytes, CaseId] = {}
        self._keys: list[list[int]] = []
        self._proxies: list[bytes | Fetch] = []

    def add(
        self,
        slice_digests: Sequence[bytes],
        digest: bytes | None,
        vectors: Vectors,
        proxy: bytes,
        fetch: Fetch | None,
    ) -> CaseId:
        case = len(self._keys) + 1
        new: dict[int, int] = {}
        for row, value in enumerate(slice_digests):
            key = self._nodes.setdefault(value, len(self._nodes) + 1)
            if key not in self._owner:
                self._owner[key] = case
                new[key] = row
        self._index.add(np.array(list(new), np.uint64), vectors[list(new.values())])
        self._keys.append([self._nodes[value] for value in slice_digests])
        self._proxies.append(fetch or proxy)
        known = read_proxy(proxy)
        laid_out = None if known is None else layout(known)
        if laid_out is not None:
            self._layouts.add([case], smoothed(laid_out)[None])
        if digest is not None:
            self._by_digest.setdefault(digest, case)
        return case

    def earliest_with_digest(self, case_digest: bytes) -> CaseId | None:
        return self._by_digest.get(case_digest)

    def vectors_of(self, case: CaseId) -> Vectors | None:
        keys = self._keys[case - 1]
        return self._index.vectors(np.array(keys, np.uint64)) if keys else None

    def owners(self, keys: Sequence[int]) -> Mapping[int, CaseId]:
        return {key: self._owner[key] for key in keys}

    def owners_of_layouts(self, keys: Sequence[int]) -> Mapping[int, CaseId]:
        return {key: key for key in keys}

    def representatives(self, cases: Iterable[CaseId]) -> Mapping[CaseId, CaseId]:
        return {}

    def proxy_of(self, case: CaseId) -> bytes | None:
        proxy = self._proxies[case - 1]
        return proxy if isinstance(proxy, bytes) else proxy()

    def same_study(self, cases: Iterable[CaseId]) -> list[CaseId]:
        return []
