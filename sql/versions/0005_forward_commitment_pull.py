"""Sending on, and storage commitment: what is owed to whom."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "forward",
        sa.Column("id", ID, nullable=False),
        sa.Column("destination", sa.String(length=32), nullable=False),
        sa.Column("series_id", ID, nullable=False),
        sa.Column("instance_id", ID, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("answer", sa.Integer(), nullable=True),
        sa.Column("sent_at", sa.BigInteger(), nullable=True),
        sa.Column("transaction_uid", sa.String(length=64), nullable=True),
        sa.Column("asked_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.id"], name=op.f("fk_forward_instance_id_instance")
        ),
        sa.ForeignKeyConstraint(
            ["series_id"], ["series.id"], name=op.f("fk_forward_series_id_series")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_forward")),
        sa.UniqueConstraint(
            "destination", "instance_id", name=op.f("uq_forward_destination_instance_id")
        ),
        comment="What is owed to a destination. answer: the last C-STORE status. See audit.forwards.",
    )
    with op.batch_alter_table("forward", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_forward_instance_id"), ["instance_id"], unique=False)
        batch_op.create_index(
            "ix_forward_status_destination_id", ["status", "destination", "id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_forward_transaction_uid"), ["transaction_uid"], unique=False
        )
    op.create_table(
        "pull",
        sa.Column("id", ID, nullable=False),
        sa.Column("archive", sa.String(length=255), nullable=False),
        sa.Column("series_hmac", sa.String(length=64), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("pulled_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pull")),
        sa.UniqueConstraint("archive", "series_hmac", name=op.f("uq_pull_archive_series_hmac")),
        comment="A series fetched from an archive, and how many of its instances came. Its UIDs only as an HMAC: what is forgotten is not fetched again.",
    )
    op.create_table(
        "commitment",
        sa.Column("id", ID, nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("mode", sa.String(length=8), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reported_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment")),
        comment="A request for storage commitment. See audit.commitments.",
    )
    with op.batch_alter_table("commitment", schema=None) as batch_op:
        batch_op.create_index(
            "ix_commitment_transaction_uid_ae_title", ["transaction_uid", "ae_title"], unique=False
        )
        batch_op.create_index("ix_commitment_status_due_at", ["status", "due_at"], unique=False)
    op.create_table(
        "commitment_item",
        sa.Column("commitment_id", ID, nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("failure_reason", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["commitment_id"],
            ["commitment.id"],
            name=op.f("fk_commitment_item_commitment_id_commitment"),
        ),
        sa.PrimaryKeyConstraint("commitment_id", "ordinal", name=op.f("pk_commitment_item")),
        comment="What it asks about. failure_reason null: committed, once the request is decided.",
    )
    with op.batch_alter_table("commitment_item", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_commitment_item_sop_instance_uid"), ["sop_instance_uid"], unique=False
        )


def downgrade() -> None:
    op.drop_table("pull")
    op.drop_table("commitment_item")
    op.drop_table("commitment")
    op.drop_table("forward")
