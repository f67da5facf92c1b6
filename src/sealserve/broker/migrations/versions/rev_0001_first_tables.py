"""The tables of schema 1, which the first versions of sealserve wrote."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    schema = op.create_table(
        "schema",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    )
    op.bulk_insert(schema, [{"version": 1}])
    op.create_table(
        "keys",
        sa.Column("key_id", sa.String(32), primary_key=True),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
    )
    op.create_table(
        "releases",
        sa.Column("release_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("platform", sa.String(16), nullable=False),
        sa.Column("key_id", sa.String(32), sa.ForeignKey("keys.key_id"), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("deadline", sa.String(32), nullable=True),
        sa.Column("tcb_policy", sa.Text, nullable=False),
        sa.Column("enrolled_platforms_only", sa.Boolean, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
    )
    op.create_table(
        "reference_values",
        sa.Column("mr_enclave", sa.String(64), primary_key=True),
        sa.Column("release_id", sa.String(64), sa.ForeignKey("releases.release_id"), nullable=False, index=True),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("mr_signer", sa.String(64), nullable=False),
        sa.Column("isv_prod_id", sa.Integer, nullable=False),
        sa.Column("isv_svn", sa.Integer, nullable=False),
        sa.Column("attribute_flags", sa.String(16), nullable=False),
        sa.Column("attribute_flags_mask", sa.String(16), nullable=False),
        sa.Column("xfrm", sa.String(16), nullable=False),
        sa.Column("xfrm_mask", sa.String(16), nullable=False),
    )
    op.create_table(
        "platforms",
        sa.Column("platform", sa.String(16), primary_key=True),
        sa.Column("platform_id", sa.String(64), primary_key=True),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("enrolled", sa.String(32), nullable=False),
    )
    op.create_table(
        "evaluation_floor",
        sa.Column("anchor", sa.String(64), primary_key=True),
        sa.Column("platform", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("seen", sa.String(32), nullable=False),
    )
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("time", sa.String(32), nullable=False),
        sa.Column("peer", sa.String(64), nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("code", sa.String(64), nullable=False, index=True),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("release_id", sa.String(64), nullable=True),
        sa.Column("platform", sa.String(16), nullable=True),
        sa.Column("mr_enclave", sa.String(64), nullable=True),
        sa.Column("mr_signer", sa.String(64), nullable=True),
        sa.Column("platform_id", sa.String(64), nullable=True),
        sa.Column("tcb_status", sa.String(64), nullable=True),
        sa.Column("advisories", sa.Text, nullable=True),
        sa.Column("quote_digest", sa.String(64), nullable=True),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_table(
        "audit_heads",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("time", sa.String(32), nullable=False),
        sa.Column("signature", sa.String(128), nullable=False),
    )
