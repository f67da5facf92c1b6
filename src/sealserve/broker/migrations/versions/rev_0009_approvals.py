"""The approvals of platforms for releases."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the table. No release of an earlier version requires approvals."""
    op.create_table(
        "approvals",
        sa.Column("release_id", sa.String(64), sa.ForeignKey("releases.release_id"), nullable=False),
        sa.Column("platform_id", sa.String(64), nullable=False),
        sa.Column("approved", sa.String(32), nullable=False),
        sa.Column("until", sa.String(32), nullable=False),
        sa.Column("changed", sa.Integer),
        sa.Column("tag", sa.String(64)),
        sa.PrimaryKeyConstraint("release_id", "platform_id"),
    )
