"""The real path in this process: a database, decoder children, the bundled model, HNSW."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filewriter import write_file_meta_info
from pynetdicom.dsutils import create_file_meta, encode
from sqlalchemy import text

from diptych.audit import archive, migrate, receipts, verdicts, work
from diptych.audit.store import Store
from diptych.embed.session import Embedder
from diptych.judge.layout import DIMENSION
from diptych.judge.policy import Policy
from diptych.lookup import Indexes
from diptych.pipeline import Pipeline
from diptych.receive import header
from diptych.receive.spool import DATA_SET_WITHIN, Spool, data_set_offset_in
from diptych.search.archive import SearchIndex
from diptych.search.layouts import Layouts
from diptych.volume.decoders import DecoderPool

SOURCES = ("default", "vendor")
NOW = work.Quiet(0, 0, 1)


class Archive:
    """An archive that judges whatever it is given, at once."""

    def __init__(
        self, folder: Path, embedder: Embedder, decoders: DecoderPool, url: str = ""
    ) -> None:
        self.store = Store(url or f"sqlite:///{folder / 'diptych.sqlite3'}")
        migrate.upgrade(self.store)
        self.spool = Spool(folder / "spool", SOURCES)
        self.spool.prepare()
        self.indexes = Indexes(
            SearchIndex(embedder.dimension, embedder.fingerprint, mode="hnsw"),
            Layouts(DIMENSION, mode="hnsw"),
        )
        self.fingerprint_id = archive.fingerprint_id(
            self.store, embedder.fingerprint, embedder.model.name, embedder.dimension
        )
        self.policy = Policy("bundled", 3, embedder.model.d_max)
        self.pipeline = Pipeline(
            self.store,
            decoders,
            embedder,
            self.indexes,
            self.fingerprint_id,
            self.policy,
            self.spool.path,
            folder / "audit-heads.jsonl",
        )

    def receive(self, instances: Iterable[Dataset], source: str = "default") -> None:
        """What the listener does with each instance."""
        for data_set in instances:
            part = self.spool.part("test", "test")
            part.write(_part_10(data_set))
            syntax = str(data_set.file_meta.TransferSyntaxUID)
            offset = data_set_offset_in(part.head(DATA_SET_WITHIN))
            identity = header.identify(part.head(1 << 20)[offset:], 1 << 20, syntax, "test", None)
            sha256 = part.sha256(offset)
            locator = self.spool.keep(part, source)
            stored = receipts.Stored(sha256, syntax, part.size - offset, locator)
            arrival = receipts.Arrival(source, None, identity, stored)
            receipts.record(self.store, [arrival], self._is_there)

    def _is_there(self, locator: str) -> bool:
        return self.spool.path(locator).exists()

    def judge(self) -> list[dict[str, Any]]:
        """Seal and judge what was received; the principal verdicts, oldest first."""
        work.seal_complete(self.store, NOW, {})
        made = []
        while claimed := work.claim(self.store, "test", 60):
            self.pipeline.judge(claimed)
            made.append(claimed.revision_id)
        with self.store.read() as connection:
            rows = verdicts.current(connection)
        return [dict(row._mapping) for row in rows if row.revision_id in made]

    def add(self, instances: Iterable[Dataset], source: str = "default") -> dict[str, Any]:
        """Receive and judge one series; its verdict."""
        self.receive(instances, source)
        (row,) = self.judge()
        return row

    def rows(self, query: str) -> list[Any]:
        with self.store.read() as connection:
            return list(connection.execute(text(query)).all())


def _part_10(data_set: Dataset) -> bytes:
    syntax = data_set.file_meta.TransferSyntaxUID
    buffer = BytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    meta = create_file_meta(
        sop_class_uid=data_set.SOPClassUID,
        sop_instance_uid=data_set.SOPInstanceUID,
        transfer_syntax=syntax,
    )
    write_file_meta_info(buffer, meta)  # type: ignore[arg-type]
    encoded = encode(data_set, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    assert encoded is not None
    return buffer.getvalue() + encoded
