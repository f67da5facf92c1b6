"""Columns that authenticate rows.

They have no values yet: the key is not in the database. `sealserve.broker.row_adoption` fills them when the key is
created.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_NUMBER = sa.Integer().with_variant(sa.BigInteger(), "postgresql")


def upgrade() -> None:
    """Add the columns, and the index with which the changes in the audit log are found."""
    for table in ("releases", "reference_values", "platforms", "evaluation_floor"):
        op.add_column(table, sa.Column("changed", _NUMBER))
        op.add_column(table, sa.Column("tag", sa.String(64)))
    op.add_column("audit", sa.Column("changes", _NUMBER))
    op.add_column("audit", sa.Column("tag", sa.String(64)))
    op.create_index("ix_audit_decision_seq", "audit", ["decision", "seq"])
