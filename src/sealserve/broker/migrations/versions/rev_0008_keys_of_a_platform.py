"""An index for the keys that a platform received in a period. It replaces the index on the platform alone."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Replace the index."""
    op.drop_index("ix_audit_platform_id", "audit")
    op.create_index("ix_audit_platform_id_time", "audit", ["platform_id", "time"])
