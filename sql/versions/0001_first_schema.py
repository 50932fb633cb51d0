"""The first schema: DESIGN's tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "association",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("acceptor", sa.String(length=36), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=45), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_association")),
        sa.UniqueConstraint("name", name=op.f("uq_association_name")),
        comment="An association that delivered at least one instance.",
    )
    with op.batch_alter_table("association", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_association_closed_at"), ["closed_at"], unique=False)

    op.create_table(
        "blob",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("store", sa.String(length=32), nullable=False),
        sa.Column("locator", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("purged_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blob")),
        sa.UniqueConstraint(
            "sha256", "transfer_syntax_uid", name=op.f("uq_blob_sha256_transfer_syntax_uid")
        ),
        comment="Bytes kept once: a data set as received, at a locator relative to a named store. sha256 null: forgotten.",
    )
    with op.batch_alter_table("blob", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_blob_locator"), ["locator"], unique=False)
        batch_op.create_index(
            "ix_blob_purged_at_created_at", ["purged_at", "created_at"], unique=False
        )

    op.create_table(
        "collection",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_collection")),
        sa.UniqueConstraint("name", name=op.f("uq_collection_name")),
        comment="owned | candidate | test-set.",
    )
    op.create_table(
        "counter",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("labels", sa.String(length=200), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", name=op.f("pk_counter")),
        comment="Metrics that grow in the transaction of what they count.",
    )
    op.create_table(
        "event",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("previous_hash", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_event")),
        comment="Append-only and chained: see audit.chain. Identifiers only as salted commitments.",
    )
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.create_index("ix_event_kind_seq", ["kind", "seq"], unique=False)

    op.create_table(
        "fingerprint",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("next_key", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fingerprint")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_fingerprint_fingerprint")),
        comment="ONNX file + preparation version + precision; next_key: 64-bit keys never reused.",
    )
    op.create_table(
        "gauge",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_gauge")),
        comment="Last known readings of the worker: recall, index size, snapshot time, model.",
    )
    op.create_table(
        "policy",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policy")),
        sa.UniqueConstraint("sha256", name=op.f("uq_policy_sha256")),
    )
    op.create_table(
        "series",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("synthetic", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_received_at", sa.BigInteger(), nullable=False),
        sa.Column("receiving", sa.Boolean(), nullable=False),
        sa.Column("receiving_since", sa.BigInteger(), nullable=False),
        sa.Column("new_content", sa.Boolean(), nullable=False),
        sa.Column("revisions", sa.Integer(), nullable=False),
        sa.Column("resends", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
        sa.UniqueConstraint(
            "source",
            "study_instance_uid",
            "series_instance_uid",
            name=op.f("uq_series_source_study_instance_uid_series_instance_uid"),
        ),
        comment="What one source calls a series. synthetic: sent without a SeriesInstanceUID. UIDs null: forgotten.",
    )
    with op.batch_alter_table("series", schema=None) as batch_op:
        batch_op.create_index(
            "ix_series_receiving_last_received_at", ["receiving", "last_received_at"], unique=False
        )
        batch_op.create_index(
            "ix_series_series_instance_uid", ["series_instance_uid"], unique=False
        )

    op.create_table(
        "site",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("archive_uuid", sa.String(length=36), nullable=False),
        sa.Column("hmac_key", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_site")),
        comment="One row: which archive this is, and the key that hides patient identifiers.",
    )
    op.create_table(
        "case",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "series_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("signature", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("forgotten_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["series_id"], ["series.id"], name=op.f("fk_case_series_id_series")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_case")),
        sa.UniqueConstraint("series_id", "signature", name=op.f("uq_case_series_id_signature")),
        comment="One stack of one series: what a verdict is about.",
    )
    op.create_table(
        "delivery",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "collection_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("vendor", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("accepted_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["collection_id"], ["collection.id"], name=op.f("fk_delivery_collection_id_collection")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("name", name=op.f("uq_delivery_name")),
    )
    op.create_table(
        "instance",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "series_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("blob_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(length=40), nullable=True),
        sa.Column("pixel_hash", sa.LargeBinary(), nullable=True),
        sa.Column("identity_hash", sa.LargeBinary(), nullable=True),
        sa.Column("private_hash", sa.LargeBinary(), nullable=True),
        sa.Column("rest_hash", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["blob_id"], ["blob.id"], name=op.f("fk_instance_blob_id_blob")),
        sa.ForeignKeyConstraint(
            ["series_id"], ["series.id"], name=op.f("fk_instance_series_id_series")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint(
            "series_id",
            "sop_instance_uid",
            "blob_id",
            name=op.f("uq_instance_series_id_sop_instance_uid_blob_id"),
        ),
        comment="One content under one SOP Instance UID in one series. Both null: forgotten; what is left counts what was acknowledged.",
    )
    with op.batch_alter_table("instance", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_instance_blob_id"), ["blob_id"], unique=False)
        batch_op.create_index("ix_instance_sop_instance_uid", ["sop_instance_uid"], unique=False)

    op.create_table(
        "revision",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "series_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("sealed_at", sa.BigInteger(), nullable=False),
        sa.Column("last_received_at", sa.BigInteger(), nullable=False),
        sa.Column("last_instance_id", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=36), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("judged_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["series_id"], ["series.id"], name=op.f("fk_revision_series_id_series")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revision")),
        sa.UniqueConstraint("series_id", "number", name=op.f("uq_revision_series_id_number")),
        comment="A sealed state of a series: its instances up to last_instance_id. See audit.work.",
    )
    with op.batch_alter_table("revision", schema=None) as batch_op:
        batch_op.create_index("ix_revision_status_id", ["status", "id"], unique=False)

    op.create_table(
        "digest",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("case_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "revision_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("digest_version", sa.Integer(), nullable=False),
        sa.Column("case_digest", sa.LargeBinary(), nullable=False),
        sa.Column("planes", sa.Integer(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("patient_hmac", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["case_id"], ["case.id"], name=op.f("fk_digest_case_id_case")),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revision.id"], name=op.f("fk_digest_revision_id_revision")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_digest")),
        sa.UniqueConstraint("case_id", "revision_id", name=op.f("uq_digest_case_id_revision_id")),
        comment="The digest of a case at a revision; current: of its newest judged revision.",
    )
    with op.batch_alter_table("digest", schema=None) as batch_op:
        batch_op.create_index(
            "ix_digest_case_digest_digest_version", ["case_digest", "digest_version"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_digest_case_id"), ["case_id"], unique=False)

    op.create_table(
        "embedding",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "fingerprint_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("case_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "revision_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("slice_keys", sa.LargeBinary(), nullable=False),
        sa.Column("shared", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["case.id"], name=op.f("fk_embedding_case_id_case")),
        sa.ForeignKeyConstraint(
            ["fingerprint_id"],
            ["fingerprint.id"],
            name=op.f("fk_embedding_fingerprint_id_fingerprint"),
        ),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revision.id"], name=op.f("fk_embedding_revision_id_revision")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_embedding")),
        sa.UniqueConstraint(
            "fingerprint_id",
            "case_id",
            "revision_id",
            name=op.f("uq_embedding_fingerprint_id_case_id_revision_id"),
        ),
        comment="slice_keys: u64 little endian, the node of each informative slice in slice order; shared: some of the nodes are another case's.",
    )
    with op.batch_alter_table("embedding", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_embedding_case_id"), ["case_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_embedding_shared"), ["shared"], unique=False)

    op.create_table(
        "membership",
        sa.Column("case_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "collection_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column(
            "delivery_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.ForeignKeyConstraint(["case_id"], ["case.id"], name=op.f("fk_membership_case_id_case")),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["collection.id"],
            name=op.f("fk_membership_collection_id_collection"),
        ),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["delivery.id"], name=op.f("fk_membership_delivery_id_delivery")
        ),
        sa.PrimaryKeyConstraint("case_id", "collection_id", name=op.f("pk_membership")),
        comment="Which collection a case belongs to, and the delivery that brought it.",
    )
    with op.batch_alter_table("membership", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_membership_delivery_id"), ["delivery_id"], unique=False
        )

    op.create_table(
        "node",
        sa.Column(
            "fingerprint_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("key", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("prepared_digest", sa.LargeBinary(), nullable=False),
        sa.Column("case_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["case.id"], name=op.f("fk_node_case_id_case")),
        sa.ForeignKeyConstraint(
            ["fingerprint_id"], ["fingerprint.id"], name=op.f("fk_node_fingerprint_id_fingerprint")
        ),
        sa.PrimaryKeyConstraint("fingerprint_id", "key", name=op.f("pk_node")),
        sa.UniqueConstraint(
            "fingerprint_id", "prepared_digest", name=op.f("uq_node_fingerprint_id_prepared_digest")
        ),
        comment="One index node per distinct prepared slice, owned by the earliest case that holds it. vector: f16 little endian. The index is rebuilt from here.",
    )
    with op.batch_alter_table("node", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_node_case_id"), ["case_id"], unique=False)

    op.create_table(
        "receipt",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "association_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column(
            "series_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column(
            "instance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["association_id"],
            ["association.id"],
            name=op.f("fk_receipt_association_id_association"),
        ),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.id"], name=op.f("fk_receipt_instance_id_instance")
        ),
        sa.ForeignKeyConstraint(
            ["series_id"], ["series.id"], name=op.f("fk_receipt_series_id_series")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_receipt")),
        comment="Every acknowledged C-STORE. No association: re-registered from the spool.",
    )
    with op.batch_alter_table("receipt", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_receipt_association_id"), ["association_id"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_receipt_instance_id"), ["instance_id"], unique=False)
        batch_op.create_index(
            "ix_receipt_series_id_received_at", ["series_id", "received_at"], unique=False
        )

    op.create_table(
        "verdict",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column(
            "revision_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column(
            "series_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("case_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("principal", sa.Boolean(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("modality", sa.String(length=16), nullable=True),
        sa.Column("slices", sa.Integer(), nullable=False),
        sa.Column("informative_slices", sa.Integer(), nullable=False),
        sa.Column("c1", sa.Float(), nullable=True),
        sa.Column("c3", sa.Float(), nullable=True),
        sa.Column("count_mode", sa.String(length=16), nullable=True),
        sa.Column("threshold", sa.Float(), nullable=True),
        sa.Column("relation", sa.String(length=16), nullable=False),
        sa.Column("flags", sa.Text(), nullable=False),
        sa.Column("matched_case_id", sa.BigInteger(), nullable=True),
        sa.Column("matched_series_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("search", sa.String(length=8), nullable=True),
        sa.Column("reason", sa.String(length=40), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("model", sa.String(length=64), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.Column("policy", sa.String(length=64), nullable=True),
        sa.Column("watermark", sa.BigInteger(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("salt", sa.LargeBinary(), nullable=True),
        sa.Column("matched_salt", sa.LargeBinary(), nullable=True),
        sa.Column("case_digest", sa.String(length=64), nullable=True),
        sa.Column("evidence_sha256", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["case_id"], ["case.id"], name=op.f("fk_verdict_case_id_case")),
        sa.ForeignKeyConstraint(["id"], ["event.seq"], name=op.f("fk_verdict_id_event")),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revision.id"], name=op.f("fk_verdict_revision_id_revision")
        ),
        sa.ForeignKeyConstraint(
            ["series_id"], ["series.id"], name=op.f("fk_verdict_series_id_series")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_verdict")),
        sa.UniqueConstraint("revision_id", "case_id", name=op.f("uq_verdict_revision_id_case_id")),
        comment="One per stack and revision (case_id null: a series without a stack). id: the seq of the event that says the same.",
    )
    with op.batch_alter_table("verdict", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_verdict_case_id"), ["case_id"], unique=False)
        batch_op.create_index("ix_verdict_created_at", ["created_at"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_verdict_matched_case_id"), ["matched_case_id"], unique=False
        )
        batch_op.create_index("ix_verdict_relation", ["relation"], unique=False)
        batch_op.create_index(batch_op.f("ix_verdict_series_id"), ["series_id"], unique=False)

    op.create_table(
        "evidence",
        sa.Column(
            "verdict_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["verdict_id"], ["verdict.id"], name=op.f("fk_evidence_verdict_id_verdict")
        ),
        sa.PrimaryKeyConstraint("verdict_id", name=op.f("pk_evidence")),
        comment="Compressed JSON: per-slice nearest cases and distances, enough to replay.",
    )
    op.create_table(
        "match",
        sa.Column(
            "verdict_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("case_id", sa.BigInteger(), nullable=False),
        sa.Column("h", sa.Integer(), nullable=False),
        sa.Column("within", sa.Integer(), nullable=False),
        sa.Column("exact", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["verdict_id"], ["verdict.id"], name=op.f("fk_match_verdict_id_verdict")
        ),
        sa.PrimaryKeyConstraint("verdict_id", "rank", name=op.f("pk_match")),
        comment="All candidates: h of equation (1), hits within d_max, digest identity.",
    )
    with op.batch_alter_table("match", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_match_case_id"), ["case_id"], unique=False)

    op.create_table(
        "plane",
        sa.Column(
            "digest_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("plane_digest", sa.LargeBinary(), nullable=False),
        sa.Column("constant", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["digest_id"], ["digest.id"], name=op.f("fk_plane_digest_id_digest")
        ),
        sa.PrimaryKeyConstraint("digest_id", "ordinal", name=op.f("pk_plane")),
        comment="Plane digests of the stored values (DESIGN: Definitions).",
    )
    with op.batch_alter_table("plane", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_plane_plane_digest"), ["plane_digest"], unique=False)

    op.create_table(
        "proxy",
        sa.Column(
            "digest_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["digest_id"], ["digest.id"], name=op.f("fk_proxy_digest_id_digest")
        ),
        sa.PrimaryKeyConstraint("digest_id", name=op.f("pk_proxy")),
        comment="What is needed to verify an old case after its pixels are purged. PHI.",
    )


def downgrade() -> None:
    op.drop_table("proxy")
    with op.batch_alter_table("plane", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_plane_plane_digest"))

    op.drop_table("plane")
    with op.batch_alter_table("match", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_match_case_id"))

    op.drop_table("match")
    op.drop_table("evidence")
    with op.batch_alter_table("verdict", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_verdict_series_id"))
        batch_op.drop_index("ix_verdict_relation")
        batch_op.drop_index(batch_op.f("ix_verdict_matched_case_id"))
        batch_op.drop_index("ix_verdict_created_at")
        batch_op.drop_index(batch_op.f("ix_verdict_case_id"))

    op.drop_table("verdict")
    with op.batch_alter_table("receipt", schema=None) as batch_op:
        batch_op.drop_index("ix_receipt_series_id_received_at")
        batch_op.drop_index(batch_op.f("ix_receipt_instance_id"))
        batch_op.drop_index(batch_op.f("ix_receipt_association_id"))

    op.drop_table("receipt")
    with op.batch_alter_table("node", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_node_case_id"))

    op.drop_table("node")
    with op.batch_alter_table("membership", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_membership_delivery_id"))

    op.drop_table("membership")
    with op.batch_alter_table("embedding", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_embedding_shared"))
        batch_op.drop_index(batch_op.f("ix_embedding_case_id"))

    op.drop_table("embedding")
    with op.batch_alter_table("digest", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_digest_case_id"))
        batch_op.drop_index("ix_digest_case_digest_digest_version")

    op.drop_table("digest")
    with op.batch_alter_table("revision", schema=None) as batch_op:
        batch_op.drop_index("ix_revision_status_id")

    op.drop_table("revision")
    with op.batch_alter_table("instance", schema=None) as batch_op:
        batch_op.drop_index("ix_instance_sop_instance_uid")
        batch_op.drop_index(batch_op.f("ix_instance_blob_id"))

    op.drop_table("instance")
    op.drop_table("delivery")
    op.drop_table("case")
    op.drop_table("site")
    with op.batch_alter_table("series", schema=None) as batch_op:
        batch_op.drop_index("ix_series_series_instance_uid")
        batch_op.drop_index("ix_series_receiving_last_received_at")

    op.drop_table("series")
    op.drop_table("policy")
    op.drop_table("gauge")
    op.drop_table("fingerprint")
    with op.batch_alter_table("event", schema=None) as batch_op:
        batch_op.drop_index("ix_event_kind_seq")

    op.drop_table("event")
    op.drop_table("counter")
    op.drop_table("collection")
    with op.batch_alter_table("blob", schema=None) as batch_op:
        batch_op.drop_index("ix_blob_purged_at_created_at")
        batch_op.drop_index(batch_op.f("ix_blob_locator"))

    op.drop_table("blob")
    with op.batch_alter_table("association", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_association_closed_at"))

    op.drop_table("association")
