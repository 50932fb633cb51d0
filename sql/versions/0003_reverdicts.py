"""Verdicts judged again from their stored evidence."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reverdict",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "verdict_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("relation", sa.String(length=16), nullable=False),
        sa.Column("flags", sa.Text(), nullable=False),
        sa.Column("matched_case_id", sa.BigInteger(), nullable=True),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("policy", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["id"], ["event.seq"], name=op.f("fk_reverdict_id_event")),
        sa.ForeignKeyConstraint(
            ["verdict_id"], ["verdict.id"], name=op.f("fk_reverdict_verdict_id_verdict")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reverdict")),
        comment="What a verdict's stored evidence says under another policy. The newest of a verdict is the current one; id: the seq of the event that says the same.",
    )
    with op.batch_alter_table("reverdict", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_reverdict_verdict_id"), ["verdict_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("reverdict", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_reverdict_verdict_id"))

    op.drop_table("reverdict")
