"""An archive made through the same calls as the daemon's, without pixels."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import insert

import postgres
from diptych.audit import (
    archive,
    chain,
    forget,
    migrate,
    policies,
    receipts,
    schema,
    verdicts,
    verify,
    work,
)
from diptych.audit.archive import Owner
from diptych.audit.nodes import Nodes
from diptych.audit.store import Store, now

if TYPE_CHECKING:
    from postgres import Server

DIMENSION = 8
MODEL = "test-model"
FINGERPRINT = hashlib.sha256(b"test fingerprint").hexdigest()
POLICY = "bundled/3"
AT_ONCE = work.Quiet(0, 0, 3600)
SYNTAX = "1.2.840.10008.1.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


def sha(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def digests_of(content: str, slices: int = 4, constant: bool = False) -> verdicts.Digests:
    planes = [sha("plane", content, i) for i in range(slices)]
    return verdicts.Digests(1, sha(sorted(planes)), planes, [constant] * slices, sha("patient"))


def nodes_of(*contents: str) -> Nodes:
    """One node per content: equal contents have equal prepared slices and vectors."""
    vectors = []
    for content in contents:
        rng = np.random.default_rng(int.from_bytes(sha("vector", content)[:8], "big"))
        vector = rng.normal(size=DIMENSION)
        vectors.append((vector / np.linalg.norm(vector)).astype(np.float16))
    return Nodes(
        digests=[sha("prepared", content) for content in contents],
        vectors=np.array(vectors, np.float32).reshape(len(contents), DIMENSION),
    )


def slices_of(content: str, slices: int = 4) -> tuple[str, ...]:
    return tuple(f"{content}/{i}" for i in range(slices))


def stack(content: str, signature: str = "axial", **changes: Any) -> verdicts.CaseVerdict:
    """What the path leaves of one stack; ``changes``: other fields of the verdict."""
    values: dict[str, Any] = {
        "signature": signature,
        "principal": True,
        "relation": "unique",
        "modality": "CT",
        "slices": 4,
        "informative_slices": 4,
        "c1": 0.25,
        "c3": 0.75,
        "count_mode": "informative",
        "threshold": 0.7711,
        "flags": ("few_slices",),
        "search": "exact",
        "detail": "numbers in words",
        "model": MODEL,
        "fingerprint": FINGERPRINT,
        "policy": POLICY,
        "watermark": 7,
        "digests": digests_of(content),
        "proxy": (1, b"proxy of " + content.encode()),
        "nodes": nodes_of(*slices_of(content)),
        "evidence": {"cases": [1, 2], "distances": [0.1, 0.25]},
    }
    return verdicts.CaseVerdict(**{**values, **changes})


class Archive:
    """A data folder with its database (``url``: on a server); ``made``: it is a copy of one."""

    def __init__(self, folder: Path, made: bool = False, url: str | None = None) -> None:
        self.folder = folder
        self.database = folder / "diptych.sqlite3"
        self.head_file = folder / "audit-heads.jsonl"
        self.store = Store(url or f"sqlite:///{self.database}")
        if made:
            self.fingerprint = 1
            return
        migrate.upgrade(self.store)
        self.fingerprint = archive.fingerprint_id(self.store, FINGERPRINT, MODEL, DIMENSION)
        with self.store.write() as connection:
            policies.register(connection, POLICY, '{"threshold":0.7711}')

    def opened(self, name: str = "one", acceptor: str = "acceptor", **said: str) -> int:
        """An association that has delivered nothing yet."""
        opening = {"calling_ae_title": "PEER", "address": "127.0.0.1"} | said
        with self.store.write() as connection:
            row = insert(schema.association).values(
                name=name, acceptor=acceptor, source="north", opened_at=now(), **opening
            )
            return int(connection.execute(row).inserted_primary_key[0])

    def receive(self, name: str, contents: Sequence[str], **more: Any) -> list[receipts.Recorded]:
        """One C-STORE per content: its bytes, and its SOP Instance UID with them."""
        return [
            receipts.record(self.store, [self.arrival(name, content, **more)])[0]
            for content in contents
        ]

    def arrival(
        self,
        name: str,
        content: str,
        *,
        source: str = "north",
        study: str | None = None,
        association: receipts.Opening | int | None = None,
        synthetic: bool = False,
    ) -> receipts.Arrival:
        identity = receipts.Identity(
            CT, uid("9", content), uid("1", study or name), uid("2", name), synthetic
        )
        locator = f"instances/{source}/00/{uuid.uuid4().hex}.dcm"
        stored = receipts.Stored(sha("bytes", content).hex(), SYNTAX, 100, locator)
        return receipts.Arrival(source, association, identity, stored)

    def seal(self, rule: work.Quiet = AT_ONCE, **in_flight: int) -> int:
        made = work.seal_complete(self.store, rule, in_flight)
        return sum(sealed.revision is not None for sealed in made)

    def claim(self, owner: str = "worker", lease: float = 60) -> work.Work | None:
        return work.claim(self.store, owner, lease)

    def record(
        self,
        claimed: work.Work,
        *stacks: verdicts.CaseVerdict,
        outcomes: Sequence[verdicts.InstanceOutcome] | None = None,
        **more: Any,
    ) -> list[int]:
        """Judge a claimed revision; returns the keys of its new nodes."""
        if outcomes is None:
            outcomes = [
                verdicts.InstanceOutcome(
                    row.instance_id, "image", *(sha(part, row.sha256) for part in range(4))
                )
                for row in claimed.instances
            ]
        judged = verdicts.Judged(claimed, stacks, outcomes, 0.5, {"decode": 0.125}, **more)
        recorded = verdicts.record(self.store, judged, self.fingerprint)
        keys, vectors, head = recorded.keys, recorded.vectors, recorded.head
        assert len(keys) == len(vectors)
        chain.write_head(self.head_file, *head)
        return [int(key) for key in keys]

    def judge(
        self, name: str, *stacks: verdicts.CaseVerdict, contents: Sequence[str], **where: Any
    ) -> list[int]:
        """Receive, seal, claim and record one series."""
        self.receive(name, contents, **where)
        assert self.seal() == 1
        claimed = self.claim()
        assert claimed is not None
        return self.record(claimed, *stacks)

    def owner(self, case_id: int) -> Owner:
        with self.store.read() as connection:
            found = archive.owner_of_case(connection, case_id)
        assert found is not None
        return found

    def verify(self) -> tuple[str, ...]:
        with self.store.read() as connection:
            return verify.verify(connection, self.head_file).problems

    def forget(self, case_id: int) -> forget.Forgotten:
        return forget.forget(self.store, case_id)

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        if self.store.is_postgresql:
            return [tuple(row) for row in postgres.rows(self.store.url, query, parameters)]
        with closing(sqlite3.connect(self.database, timeout=30)) as connection:
            return connection.execute(query, parameters).fetchall()

    def value(self, query: str, *parameters: object) -> Any:
        return self.rows(query, *parameters)[0][0]

    def tamper(self, *statements: tuple[str, tuple[object, ...]] | str) -> None:
        """Change the tables as someone who owns them can: without our checks."""
        with closing(self._unchecked()) as connection:
            cursor = connection.cursor()
            for statement in statements:
                query, values = (statement, ()) if isinstance(statement, str) else statement
                if self.store.is_postgresql:
                    query = postgres.spelt(query)
                cursor.execute(query, values)
                assert cursor.rowcount != 0, query
            connection.commit()

    def _unchecked(self) -> Any:
        if not self.store.is_postgresql:
            return sqlite3.connect(self.database, timeout=30)
        connection = postgres.connect(self.store.url)
        connection.cursor().execute("SET session_replication_role = replica")
        return connection

    def older(self, seconds: float, name: str | None = None) -> None:
        """As if a series (all: None) had arrived that much earlier."""
        where = f"WHERE series_instance_uid = '{uid('2', name)}'" if name else ""
        by = int(seconds * 1_000_000)
        self.tamper(
            f"UPDATE series SET last_received_at = last_received_at - {by} {where}",
            f"UPDATE receipt SET received_at = received_at - {by} WHERE series_id IN "
            f"(SELECT id FROM series {where})",
        )

    def close(self) -> None:
        self.store.close()


def uid(kind: str, name: str) -> str:
    """A UID that says what it is of: kind 1 study, 2 series, 9 instance."""
    return f"1.2.826.{kind}.{int.from_bytes(sha(name)[:6], 'big')}"


def fill(archive_: Archive) -> None:
    """Seven series, every kind of verdict and event:

    case 1, 2  series A of north, two stacks; re-sent, then late slices (revision 1)
    case 3     series B of south, an exact copy of A, and of the same bytes
    case 4     series C of north, near A: it shares two index nodes with it
    series D   not an image; series E not screenable at all
    case 5     series F, a stack that could not be judged
    case 6     series G, a stranger
    """
    a = slices_of("a")
    second = stack("a2", "sagittal", principal=False)
    archive_.judge("A", stack("a"), second, contents=a)
    matched = archive_.owner(1)
    archive_.judge(
        "B",
        stack(
            "a",
            relation="exact",
            matched=matched,
            flags=("cross_source",),
            nodes=Nodes(reused=keys_of(archive_, 1)),
            candidates=[verdicts.Candidate(1, 4, 4, True)],
        ),
        contents=a,
        source="south",
        study="A",
    )
    archive_.judge(
        "C",
        stack(
            "c",
            relation="near-duplicate",
            matched=matched,
            nodes=nodes_of("c/0", "a/1", "a/2", "c/3"),
            candidates=[
                verdicts.Candidate(1, 3, 2, False),
                verdicts.Candidate(3, 1, 1, False),
            ],
        ),
        contents=slices_of("c"),
    )
    archive_.judge(
        "D",
        verdicts.CaseVerdict(None, True, "not-an-image", reason="not-an-image"),
        contents=("d",),
    )
    archive_.judge(
        "E",
        verdicts.CaseVerdict(None, True, "not-screenable", "CT", reason="unreadable"),
        contents=("e",),
    )
    archive_.judge(
        "F",
        verdicts.CaseVerdict(
            "axial",
            True,
            "not-screenable",
            "CT",
            slices=4,
            reason="too-large",
            detail="in words",
            digests=digests_of("f"),
        ),
        contents=slices_of("f"),
    )
    archive_.judge("G", stack("g"), contents=slices_of("g"), study="A")
    archive_.receive("A", a)
    archive_.seal()
    late = (*a, "a/4")
    archive_.judge("A", stack("late", nodes=nodes_of(*late)), second, contents=late)


def keys_of(archive_: Archive, case_id: int) -> list[int]:
    with archive_.store.read() as connection:
        return archive.slice_keys(connection, archive_.fingerprint, case_id)


class Template:
    """An archive to copy: making one takes many transactions. ``server``: where its database is."""

    def __init__(
        self, folder: Path, server: Server | None, fill_it: Callable[[Archive], None] | None
    ) -> None:
        self._folder, self._server = folder, server
        self._database = None if server is None else server.create()
        made = Archive(folder, url=self._url(self._database))
        if fill_it is not None:
            fill_it(made)
        made.store.scrub()
        made.close()

    @contextmanager
    def copy(self, to: Path) -> Iterator[Archive]:
        shutil.copytree(self._folder, to, dirs_exist_ok=True)
        database = None
        if self._server is not None and self._database is not None:
            database = self._server.create(self._database)
        archive_ = Archive(to, made=True, url=self._url(database))
        try:
            yield archive_
        finally:
            archive_.close()
            if self._server is not None and database is not None:
                self._server.drop(database)

    def _url(self, database: str | None) -> str | None:
        return None if self._server is None or database is None else self._server.url(database)
