"""Sending on: what is owed to whom."""

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
            "ix_forward_destination_status_id", ["destination", "status", "id"], unique=False
        )


def downgrade() -> None:
    op.drop_table("forward")
