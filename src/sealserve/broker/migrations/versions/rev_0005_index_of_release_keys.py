"""An index of the releases by their key.

Each key release checks whether a revoked release has the same key. Without the index, this check reads all releases.
"""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the index."""
    op.create_index("ix_releases_key_id", "releases", ["key_id"])
