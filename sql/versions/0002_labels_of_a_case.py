"""What a case says it shows: its Modality and BodyPartExamined."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("case", sa.Column("modality", sa.String(16)))
    op.add_column("case", sa.Column("body_part", sa.String(64)))
    # The Modality of earlier cases is in their verdicts; their BodyPartExamined was not kept.
    op.execute(
        """UPDATE "case" SET modality = (
            SELECT verdict.modality FROM verdict WHERE verdict.case_id = "case".id
            ORDER BY verdict.id DESC LIMIT 1)
        WHERE forgotten_at IS NULL"""
    )
