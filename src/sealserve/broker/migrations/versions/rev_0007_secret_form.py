"""The form of a release's key in the response: 16 raw bytes (no value), or a NUL-terminated string."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column."""
    op.add_column("releases", sa.Column("secret_form", sa.String(16)))
