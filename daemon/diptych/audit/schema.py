"""The tables. SQL is the truth; everything else the daemon keeps is a cache or pixels.

Times are UTC integer microseconds; DICOM dates and times are kept verbatim. Names follow PS3.3
keywords in snake case where a column holds an attribute. UIDs stand in clear here and nowhere
else; PatientID and PatientBirthDate only as an HMAC with the site's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine


class Words(TypeDecorator[str]):
    """Text of at most ``length`` characters (None: any), cut and cleaned before it is written.

    SQLite would keep anything; PostgreSQL refuses what is longer, and NUL. Neither can encode half
    of a surrogate pair. The tables must hold the same on both.
    """

    impl = Text
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__()
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return Text() if self.length is None else String(self.length)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else self.fitting(value)

    def fitting(self, value: str) -> str:
        if "\0" in value or not value.isascii():
            value = value.replace("\0", "").encode(errors="replace").decode()
        return value[: self.length]


def fitting(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as the table will hold it: what is hashed must be what is kept."""
    return {
        name: column.type.fitting(value)
        if isinstance(column := table.c.get(name), Column)
        and isinstance(column.type, Words)
        and isinstance(value, str)
        else value
        for name, value in row.items()
    }


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite assigns row ids only to a column typed exactly INTEGER.
Id = BigInteger().with_variant(Integer, "sqlite")
Uid = Words(64)
Sha256 = Words(64)

site = Table(
    "site",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("archive_uuid", Words(36), nullable=False),
    Column("hmac_key", LargeBinary, nullable=False),
    comment="One row: which archive this is, and the key that hides patient identifiers.",
)

association = Table(
    "association",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Words(32), nullable=False, unique=True),
    Column("acceptor", Words(36), nullable=False),
    Column("source", Words(32), nullable=False),
    Column("calling_ae_title", Words(16), nullable=False),
    Column("address", Words(45), nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Column("closed_at", BigInteger, index=True),
    comment="An association that delivered at least one instance.",
)

blob = Table(
    "blob",
    metadata,
    Column("id", Id, primary_key=True),
    Column("sha256", Sha256),
    Column("transfer_syntax_uid", Uid, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("store", Words(32), nullable=False),
    Column("locator", Words(255), nullable=False, index=True),
    Column("created_at", BigInteger, nullable=False),
    Column("purged_at", BigInteger),
    UniqueConstraint("sha256", "transfer_syntax_uid"),
    Index("ix_blob_purged_at_created_at", "purged_at", "created_at"),
    comment=(
        "Bytes kept once: a data set as received, at a locator relative to a named store. "
        "sha256 null: forgotten."
    ),
)

series = Table(
    "series",
    metadata,
    Column("id", Id, primary_key=True),
    Column("source", Words(32), nullable=False),
    Column("study_instance_uid", Uid),
    Column("series_instance_uid", Uid),
    Column("synthetic", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("last_received_at", BigInteger, nullable=False),
    Column("receiving", Boolean, nullable=False),
    Column("receiving_since", BigInteger, nullable=False),
    Column("new_content", Boolean, nullable=False),
    Column("revisions", Integer, nullable=False),
    Column("resends", Integer, nullable=False),
    UniqueConstraint("source", "study_instance_uid", "series_instance_uid"),
    Index("ix_series_receiving_last_received_at", "receiving", "last_received_at"),
    Index("ix_series_series_instance_uid", "series_instance_uid"),
    comment=(
        "What one source calls a series. synthetic: sent without a SeriesInstanceUID. "
        "UIDs null: forgotten."
    ),
)

instance = Table(
    "instance",
    metadata,
    Column("id", Id, primary_key=True),
    Column("series_id", ForeignKey("series.id"), nullable=False),
    Column("sop_instance_uid", Uid),
    Column("sop_class_uid", Uid, nullable=False),
    Column("blob_id", ForeignKey("blob.id"), index=True),
    Column("created_at", BigInteger, nullable=False),
    # Filled when a revision that holds the instance is judged:
    Column("outcome", Words(40)),
    Column("pixel_hash", LargeBinary),
    Column("identity_hash", LargeBinary),
    Column("private_hash", LargeBinary),
    Column("rest_hash", LargeBinary),
    UniqueConstraint("series_id", "sop_instance_uid", "blob_id"),
    Index("ix_instance_sop_instance_uid", "sop_instance_uid"),
    comment=(
        "One content under one SOP Instance UID in one series. Both null: forgotten; what is left "
        "counts what was acknowledged."
    ),
)

receipt = Table(
    "receipt",
    metadata,
    Column("id", Id, primary_key=True),
    Column("association_id", ForeignKey("association.id"), index=True),
    Column("series_id", ForeignKey("series.id"), nullable=False),
    Column("instance_id", ForeignKey("instance.id"), nullable=False, index=True),
    Column("received_at", BigInteger, nullable=False),
    Index("ix_receipt_series_id_received_at", "series_id", "received_at"),
    comment="Every acknowledged C-STORE. No association: re-registered from the spool.",
)

forward = Table(
    "forward",
    metadata,
    Column("id", Id, primary_key=True),
    Column("destination", Words(32), nullable=False),
    Column("series_id", ForeignKey("series.id"), nullable=False),
    Column("instance_id", ForeignKey("instance.id"), nullable=False, index=True),
    Column("status", Words(16), nullable=False),
    Column("queued_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("answer", Integer),
    Column("sent_at", BigInteger),
    Column("transaction_uid", Uid, index=True),
    Column("asked_at", BigInteger),
    UniqueConstraint("destination", "instance_id"),
    Index("ix_forward_status_destination_id", "status", "destination", "id"),
    comment="What is owed to a destination. answer: the last C-STORE status. See audit.forwards.",
)

pull = Table(
    "pull",
    metadata,
    Column("id", Id, primary_key=True),
    Column("archive", Words(255), nullable=False),
    Column("series_hmac", Sha256, nullable=False),
    Column("completed", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("pulled_at", BigInteger, nullable=False),
    UniqueConstraint("archive", "series_hmac"),
    comment=(
        "A series fetched from an archive, and how many of its instances came. Its UIDs only as an "
        "HMAC: what is forgotten is not fetched again."
    ),
)

commitment = Table(
    "commitment",
    metadata,
    Column("id", Id, primary_key=True),
    Column("transaction_uid", Uid, nullable=False),
    Column("ae_title", Words(16), nullable=False),
    Column("source", Words(32), nullable=False),
    Column("mode", Words(8), nullable=False),
    Column("status", Words(16), nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reported_at", BigInteger),
    Index("ix_commitment_transaction_uid_ae_title", "transaction_uid", "ae_title"),
    Index("ix_commitment_status_due_at", "status", "due_at"),
    comment="A request for storage commitment. See audit.commitments.",
)

commitment_item = Table(
    "commitment_item",
    metadata,
    Column("commitment_id", ForeignKey("commitment.id"), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("sop_class_uid", Uid, nullable=False),
    Column("sop_instance_uid", Uid, nullable=False, index=True),
    Column("failure_reason", Integer),
    comment="What it asks about. failure_reason null: committed, once the request is decided.",
)

revision = Table(
    "revision",
    metadata,
    Column("id", Id, primary_key=True),
    Column("series_id", ForeignKey("series.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("status", Words(16), nullable=False),
    Column("sealed_at", BigInteger, nullable=False),
    Column("last_received_at", BigInteger, nullable=False),
    Column("last_instance_id", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("lease_owner", Words(36)),
    Column("lease_until", BigInteger),
    Column("judged_at", BigInteger),
    UniqueConstraint("series_id", "number"),
    Index("ix_revision_status_id", "status", "id"),
    comment="A sealed state of a series: its instances up to last_instance_id. See audit.work.",
)

case = Table(
    "case",
    metadata,
    Column("id", Id, primary_key=True),
    Column("series_id", ForeignKey("series.id"), nullable=False),
    Column("signature", Words(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("forgotten_at", BigInteger),
    # As its newest judged revision says; null: it does not, or the case was forgotten.
    Column("modality", Words(16)),
    Column("body_part", Words(64)),
    UniqueConstraint("series_id", "signature"),
    comment="One stack of one series: what a verdict is about.",
)

collection = Table(
    "collection",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Words(64), nullable=False, unique=True),
    Column("kind", Words(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    comment="owned | candidate | test-set.",
)

delivery = Table(
    "delivery",
    metadata,
    Column("id", Id, primary_key=True),
    Column("collection_id", ForeignKey("collection.id"), nullable=False),
    Column("name", Words(64), nullable=False, unique=True),
    Column("vendor", Words(64)),
    Column("created_at", BigInteger, nullable=False),
    Column("accepted_at", BigInteger),
)

membership = Table(
    "membership",
    metadata,
    Column("case_id", ForeignKey("case.id"), primary_key=True),
    Column("collection_id", ForeignKey("collection.id"), primary_key=True),
    Column("delivery_id", ForeignKey("delivery.id"), index=True),
    comment="Which collection a case belongs to, and the delivery that brought it.",
)

digest = Table(
    "digest",
    metadata,
    Column("id", Id, primary_key=True),
    Column("case_id", ForeignKey("case.id"), nullable=False, index=True),
    Column("revision_id", ForeignKey("revision.id"), nullable=False),
    Column("digest_version", Integer, nullable=False),
    Column("case_digest", LargeBinary, nullable=False),
    Column("planes", Integer, nullable=False),
    Column("current", Boolean, nullable=False),
    Column("patient_hmac", LargeBinary),
    UniqueConstraint("case_id", "revision_id"),
    Index("ix_digest_case_digest_digest_version", "case_digest", "digest_version"),
    comment="The digest of a case at a revision; current: of its newest judged revision.",
)

plane = Table(
    "plane",
    metadata,
    Column("digest_id", ForeignKey("digest.id"), primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("plane_digest", LargeBinary, nullable=False, index=True),
    Column("constant", Boolean, nullable=False),
    comment="Plane digests of the stored values (DESIGN: Definitions).",
)

proxy = Table(
    "proxy",
    metadata,
    Column("digest_id", ForeignKey("digest.id"), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    comment="What is needed to verify an old case after its pixels are purged. PHI.",
)

layout = Table(
    "layout",
    metadata,
    Column("digest_id", ForeignKey("digest.id"), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("vector", LargeBinary, nullable=False),
    comment="The coarse layout of a case at a revision, f16; a candidate is searched by it.",
)

fingerprint = Table(
    "fingerprint",
    metadata,
    Column("id", Id, primary_key=True),
    Column("fingerprint", Sha256, nullable=False, unique=True),
    Column("model", Words(64), nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("next_key", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    comment="ONNX file + preparation version + precision; next_key: 64-bit keys never reused.",
)

node = Table(
    "node",
    metadata,
    Column("fingerprint_id", ForeignKey("fingerprint.id"), primary_key=True),
    Column("key", BigInteger, primary_key=True, autoincrement=False),
    Column("prepared_digest", LargeBinary, nullable=False),
    Column("case_id", ForeignKey("case.id"), nullable=False, index=True),
    Column("vector", LargeBinary, nullable=False),
    UniqueConstraint("fingerprint_id", "prepared_digest"),
    comment=(
        "One index node per distinct prepared slice, owned by the earliest case that holds it. "
        "vector: f16 little endian. The index is rebuilt from here."
    ),
)

embedding = Table(
    "embedding",
    metadata,
    Column("id", Id, primary_key=True),
    Column("fingerprint_id", ForeignKey("fingerprint.id"), nullable=False),
    Column("case_id", ForeignKey("case.id"), nullable=False, index=True),
    Column("revision_id", ForeignKey("revision.id"), nullable=False),
    Column("slice_keys", LargeBinary, nullable=False),
    Column("shared", Boolean, nullable=False, index=True),
    UniqueConstraint("fingerprint_id", "case_id", "revision_id"),
    comment=(
        "slice_keys: u64 little endian, the node of each informative slice in slice order; "
        "shared: some of the nodes are another case's."
    ),
)

policy = Table(
    "policy",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Words(64), nullable=False),
    Column("sha256", Sha256, nullable=False, unique=True),
    Column("payload", Words(), nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

event = Table(
    "event",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", Words(32), nullable=False),
    Column("payload", Words(), nullable=False),
    Column("previous_hash", Sha256, nullable=False),
    Column("hash", Sha256, nullable=False),
    Index("ix_event_kind_seq", "kind", "seq"),
    comment="Append-only and chained: see audit.chain. Identifiers only as salted commitments.",
)

verdict = Table(
    "verdict",
    metadata,
    Column("id", ForeignKey("event.seq"), primary_key=True, autoincrement=False),
    Column("revision_id", ForeignKey("revision.id"), nullable=False),
    Column("series_id", ForeignKey("series.id"), nullable=False, index=True),
    Column("case_id", ForeignKey("case.id"), index=True),
    Column("principal", Boolean, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("source", Words(32), nullable=False),
    Column("study_instance_uid", Uid),
    Column("series_instance_uid", Uid),
    Column("modality", Words(16)),
    Column("slices", Integer, nullable=False),
    Column("informative_slices", Integer, nullable=False),
    Column("c1", Float),
    Column("c3", Float),
    Column("count_mode", Words(16)),
    Column("threshold", Float),
    Column("relation", Words(16), nullable=False),
    Column("flags", Words(), nullable=False),
    Column("matched_case_id", BigInteger, index=True),
    Column("matched_series_instance_uid", Uid),
    Column("search", Words(8)),
    Column("reason", Words(40)),
    Column("detail", Words()),
    Column("model", Words(64)),
    Column("fingerprint", Sha256),
    Column("policy", Words(64)),
    Column("watermark", BigInteger),
    Column("seconds", Float, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("salt", LargeBinary),
    Column("matched_salt", LargeBinary),
    Column("case_digest", Words(64)),
    Column("evidence_sha256", Sha256),
    UniqueConstraint("revision_id", "case_id"),
    Index("ix_verdict_created_at", "created_at"),
    Index("ix_verdict_relation", "relation"),
    comment=(
        "One per stack and revision (case_id null: a series without a stack). "
        "id: the seq of the event that says the same."
    ),
)

reverdict = Table(
    "reverdict",
    metadata,
    Column("id", ForeignKey("event.seq"), primary_key=True, autoincrement=False),
    Column("verdict_id", ForeignKey("verdict.id"), nullable=False, index=True),
    Column("relation", Words(16), nullable=False),
    Column("flags", Words(), nullable=False),
    Column("matched_case_id", BigInteger),
    Column("threshold", Float, nullable=False),
    Column("detail", Words(), nullable=False),
    Column("policy", Words(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    comment=(
        "What a verdict's stored evidence says under another policy. The newest of a verdict is "
        "the current one; id: the seq of the event that says the same."
    ),
)

match = Table(
    "match",
    metadata,
    Column("verdict_id", ForeignKey("verdict.id"), primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("case_id", BigInteger, nullable=False, index=True),
    Column("h", Integer, nullable=False),
    Column("within", Integer, nullable=False),
    Column("exact", Boolean, nullable=False),
    comment="All candidates: h of equation (1), hits within d_max, digest identity.",
)

evidence = Table(
    "evidence",
    metadata,
    Column("verdict_id", ForeignKey("verdict.id"), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("data", LargeBinary, nullable=False),
    comment="Compressed JSON: per-slice nearest cases and distances, enough to replay.",
)

counter = Table(
    "counter",
    metadata,
    Column("name", Words(64), primary_key=True),
    Column("labels", Words(200), primary_key=True),
    Column("value", Float, nullable=False),
    comment="Metrics that grow in the transaction of what they count.",
)

gauge = Table(
    "gauge",
    metadata,
    Column("name", Words(64), primary_key=True),
    Column("value", Float, nullable=False),
    Column("text", Words()),
    Column("updated_at", BigInteger, nullable=False),
    comment="Last known readings of the worker: recall, index size, snapshot time, model.",
)
