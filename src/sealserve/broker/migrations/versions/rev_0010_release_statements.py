"""The release statements: what the owner states to users about a release, signed."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the table. Releases of an earlier version have no statement."""
    op.create_table(
        "statements",
        sa.Column("release_id", sa.String(64), sa.ForeignKey("releases.release_id"), nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("signature", sa.String(128), nullable=False),
        sa.Column("changed", sa.Integer),
        sa.Column("tag", sa.String(64)),
        sa.PrimaryKeyConstraint("release_id"),
    )
