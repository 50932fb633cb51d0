"""Coarse layouts: a second way to find candidates."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Those of earlier cases are made from their proxies when judging begins.
    op.create_table(
        "layout",
        sa.Column(
            "digest_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["digest_id"], ["digest.id"], name=op.f("fk_layout_digest_id_digest")
        ),
        sa.PrimaryKeyConstraint("digest_id", name=op.f("pk_layout")),
        comment="The coarse layout of a case at a revision, f16; a candidate is searched by it.",
    )


def downgrade() -> None:
    op.drop_table("layout")
